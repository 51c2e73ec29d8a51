"""Makes the runs in this folder with the package of commit 68d0c7d (and with no other: it is what they are kept for).

    python make.py FOLDER

writes runs of 12 steps, of which the checkpoint after step 6 and the whole curve are kept.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from d2v_fast.training.config import CheckpointConfig, Config, EmaConfig, LogConfig, MonitorConfig, OptimConfig
from old_data import HERE, RUNS, old_data

from d2v_fast.data.config import LoaderConfig, SpeechInputs, TextInputs, VisionInputs
from d2v_fast.data.source import ArraySource
from d2v_fast.masking.config import BlockMask, SpanMask, TokenMask
from d2v_fast.models.config import (
    HeadConfig,
    LossConfig,
    ModelConfig,
    SpeechEmbedding,
    TargetConfig,
    TeacherConfig,
    TextEmbedding,
    TransformerConfig,
    VisionEmbedding,
)
from d2v_fast.training.trainer import Data2VecTrainer

STEPS, KEPT = 12, 6


def config(run: str) -> Config:
    """Two blocks of width 8 with every noise but layer drop, whose draws a later version changed."""
    modality = RUNS[run]
    padded = run.endswith("padded")
    vision = modality == "vision"
    parts = {
        "speech": {
            "embedding": SpeechEmbedding(
                conv_layers=((4, 10, 5), (4, 8, 8), (8, 8, 8)), position_depth=1, position_kernel=5, position_groups=2
            ),
            "mask": SpanMask(probability=0.5, length=3),
            "inputs": SpeechInputs(min_seconds=0.25, max_seconds=0.6),
            "loader": LoaderConfig(batch_size=3, accumulation=2, batch_seconds=1.5, pad=padded, holdout=0.2),
            "teacher": TeacherConfig(averages="layers"),
        },
        "vision": {
            "embedding": VisionEmbedding(image_size=16, patch_size=4),
            "mask": BlockMask(count=9, min_area=2),
            "inputs": VisionInputs(),
            "loader": LoaderConfig(batch_size=3, accumulation=2, holdout=0.2),
            "teacher": TeacherConfig(averages="all"),
        },
        "text": {
            "embedding": TextEmbedding(vocab_size=270, max_length=24),
            "mask": TokenMask(probability=0.3),
            "inputs": TextInputs(block_size=24, packed=not padded),
            "loader": LoaderConfig(batch_size=3, accumulation=2, holdout=0.2),
            "teacher": TeacherConfig(averages="transformer"),
        },
    }[modality]
    return Config(
        model=ModelConfig(
            embedding=parts["embedding"],
            transformer=TransformerConfig(
                dim=8,
                depth=2,
                heads=2,
                ffn_dim=16,
                norm_first=vision,
                drop_path=0.2 if vision else 0.0,
                layer_scale=0.1 if vision else None,
                activation_dropout=0.1,
            ),
            head=HeadConfig(layers=2 if modality == "text" else 1),
            target=TargetConfig(
                top_k=2,
                feature="block" if vision else "ffn",
                layer_norm=("layer",) if modality == "text" else ("instance",),
                final_norm=("layer",) if vision else (),
            ),
            loss=LossConfig(beta=1.0 if vision else 0.0),
            teacher=parts["teacher"],
        ),
        mask=parts["mask"],
        inputs=parts["inputs"],
        loader=parts["loader"],
        optim=OptimConfig(lr=3e-3, clip_norm=None if padded else 1.0, warmup=0.2, decay_vectors=not vision),
        ema=EmaConfig(start=0.9, end=0.99, anneal_steps=9),
        checkpoint=CheckpointConfig(every=KEPT),
        log=LogConfig(every=1, validate_every=4),
        monitor=MonitorConfig(warmup_steps=10_000),
        steps=STEPS,
    )


def main(folder: Path) -> None:
    """Train, and keep what a later version continues from."""
    torch.set_num_threads(1)
    for run, modality in RUNS.items():
        out = folder / run
        Data2VecTrainer(config(run), data=old_data(modality, ArraySource), out=out, device="cpu").fit()
        lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
        (out / "curve.json").write_text("".join(lines))
        (out / "metrics.jsonl").write_text("".join(lines[:KEPT]))
        shutil.rmtree(out / "checkpoints" / f"step_{STEPS:08d}")
        shutil.rmtree(out / "tensorboard", ignore_errors=True)
        for name in ("lock",):
            (out / name).unlink()


if __name__ == "__main__":
    if not (HERE / "corpus.txt").exists():
        words = ["the", "teacher", "sees", "all", "of", "it", "a", "student", "part", "and", "guesses", "what"]
        random = np.random.default_rng(7)
        texts = [" ".join(random.choice(words, int(n))) for n in random.integers(3, 30, 24)]
        (HERE / "corpus.txt").write_text("\n\n".join(texts) + "\n")
    main(Path(sys.argv[1]))
    print(json.dumps(list(RUNS)))
