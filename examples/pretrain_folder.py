"""Pretrain on a folder of one's own, then use the features: levels 1 and 2 of the public surface.

    python examples/pretrain_folder.py photos/ runs/a                         # level 1: a preset, one call
    python examples/pretrain_folder.py photos/ runs/b --batch 64 --steps 500  # level 2: a recipe fitted to a machine

Run the same command again and it continues where it stopped. A folder of audio files or a folder of texts works the
same way, with --preset speech-tiny or text-tiny, and so do the -base and -large presets on a machine with a GPU.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import d2v_fast
from d2v_fast import evaluation, presets
from d2v_fast.modalities import open_data


def fitted(preset: str, batch: float, micro_batch: float | None, steps: int | None) -> d2v_fast.Config:
    """A published recipe at another batch size; configurations are frozen, `replace` makes changed ones."""
    config = d2v_fast.preset(preset)
    # The learning rate, the teacher's half-life and all step counts follow the batch, in samples.
    config = presets.scale_to_batch(config, batch, micro_batch=micro_batch)
    # Hold a twentieth of the files out, for a validation loss beside the training loss.
    return replace(config, steps=steps or config.steps, loader=replace(config.loader, holdout=0.05))


def main() -> None:
    """Train, then show what the features look like."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of images, audio or text")
    parser.add_argument("out", type=Path, help="the run: checkpoints, metrics.jsonl, config.json")
    parser.add_argument("--preset", default="vision-tiny", choices=presets.NAMES)
    parser.add_argument("--steps", type=int, help="optimizer steps; the recipe's by default")
    parser.add_argument("--batch", type=float, help="samples (speech: seconds) in a step; the recipe's by default")
    parser.add_argument("--micro-batch", type=float, help="the most that fits into memory at once")
    args = parser.parse_args()

    if args.batch is None:  # level 1: everything is the preset's, but for what is named here
        changes = {} if args.steps is None else {"steps": args.steps}
        run = d2v_fast.pretrain(args.preset, data=args.data, out=args.out, **changes)
    else:  # level 2: a configuration of one's own, and the trainer
        config = fitted(args.preset, args.batch, args.micro_batch, args.steps)
        run = d2v_fast.Data2VecTrainer(config, data=args.data, out=args.out).fit(resume="auto")

    config = d2v_fast.Run(run).config
    source = open_data(args.data, config, run)  # the index in the run's folder is used again
    vectors = evaluation.extract(d2v_fast.load(run), [source.read(i) for i in range(min(64, len(source)))])
    print(f"features of {len(vectors)} samples, {vectors.shape[1]} numbers each")
    # Samples that all got the same vector would mean a collapse; the monitors in metrics.jsonl watch for it, too.
    print(f"mean standard deviation over the samples: {vectors.std(0).mean():.3f}")


if __name__ == "__main__":
    main()
