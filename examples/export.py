"""A run as a model of transformers, and its features there: the same as here.

    python examples/export.py runs/a picture.png exported/

Needs `pip install "d2v_fast[export]"`; where the exported folder is used, transformers and torch are enough.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoModel

import d2v_fast


def main() -> None:
    """Export, load with transformers, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a pretraining run of pictures")
    parser.add_argument("picture", type=Path)
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--network", default="student", choices=["student", "teacher"])
    args = parser.parse_args()

    d2v_fast.export(args.run, "hf", args.out, network=args.network)
    # Some models need the small modelling file that lies in the folder; it was written just above, so it may run.
    model = AutoModel.from_pretrained(args.out, trust_remote_code=True).eval()

    encoder = d2v_fast.load(args.run, network=args.network).eval()
    pixels = encoder.prepare(args.picture)[None]  # float32 [1, channels, height, width]
    with torch.no_grad():
        ours, theirs = encoder(pixels), model(pixel_values=pixels).last_hidden_state
    theirs = theirs[:, -ours.shape[1] :]  # without a class token, if there is one
    print(f"{ours.shape[1]} tokens of {ours.shape[2]} numbers; largest difference {(ours - theirs).abs().max():.1e}")


if __name__ == "__main__":
    main()
