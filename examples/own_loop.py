"""A training loop of one's own around `Data2Vec`: level 3, with an operation of level 4.

    python examples/own_loop.py                    # the digits that come with scikit-learn
    python examples/own_loop.py --images FILE.npy  # uint8 [N, 8, 8]

`Data2Vec` is a plain module: batch in, loss out, no side effects. Masks are functions of (seed, epoch, sample), the
teacher moves when it is told to, and everything else (data, optimizer, schedule, logging) is yours.
"""

from __future__ import annotations

import argparse
import copy
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2v_fast import Batch, Data2Vec, ops
from d2v_fast.masking import BlockMask, block_masks
from d2v_fast.modalities.vision import VisionEmbedding
from d2v_fast.models import (
    Encoder,
    LossConfig,
    ModelConfig,
    TargetConfig,
    TeacherConfig,
    TransformerConfig,
    token_count,
)

MODEL = ModelConfig(
    embedding=VisionEmbedding(image_size=8, patch_size=2, channels=1),
    transformer=TransformerConfig(
        dim=64, depth=4, heads=4, ffn_dim=256, norm_first=True, key_bias=False, dropout=0.0, attention_dropout=0.0
    ),
    target=TargetConfig(top_k=3, feature="block", layer_norm=("instance",)),
    loss=LossConfig(beta=2.0, scale=1 / 64),  # the mean over elements
    teacher=TeacherConfig(averages="all"),
)


def load_images(path: Path | None) -> Tensor:
    """float32 [N, 1, 8, 8], about zero mean and unit variance."""
    if path is None:
        from sklearn.datasets import load_digits

        pixels = torch.from_numpy(load_digits().images * (255 / 16))
    else:
        pixels = torch.from_numpy(np.load(path))
    return (pixels.float().unsqueeze(1) / 255 - 0.3) / 0.35


def report(step: int, loss: float, prediction: Tensor, target: Tensor) -> None:
    """One line: how much of the targets' variance the predictions explain, and both deviations (0: a collapse)."""
    spread = target.std(0).mean().item(), prediction.detach().std(0).mean().item()
    explained = 1 - (prediction.detach() - target).square().mean().item() / target.var(0).mean().item()
    print(f"step {step:4d}  loss {loss:.4f}  explained {explained:6.1%}  std {spread[0]:.3f} / {spread[1]:.3f}")


def train(images: Tensor, *, steps: int, batch_size: int, seed: int = 0) -> tuple[Data2Vec, Encoder, list[float]]:
    """The loop. Returns the pair, a slow average of the student's encoder, and the loss of each step."""
    torch.manual_seed(seed)
    model = Data2Vec(MODEL).train()
    optimizer = torch.optim.AdamW(model.student.parameters(), lr=2e-3, weight_decay=0.01)
    grid = token_count(MODEL, images.shape[-2:])  # patches: (4, 4)

    # Level 4: an average of one's own, beside the teacher's; one pass over memory, in place.
    student = list(model.student.encoder.parameters())
    slow = copy.deepcopy(model.student.encoder).requires_grad_(False)
    average = list(slow.parameters())

    losses = []
    per_epoch = max(1, len(images) // batch_size)
    for step in range(steps):
        epoch, i = divmod(step, per_epoch)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        ids = order[i * batch_size : (i + 1) * batch_size]
        # Up to 8 of the 16 patches are hidden, in blocks; the same sample gets another mask in each epoch.
        masks = block_masks(BlockMask(count=8, min_area=2), grid, seed=seed, epoch=epoch, sample_ids=ids)
        batch = Batch(inputs=images[ids], mask=masks.mask, rows=masks.rows, sample_ids=ids)

        output = model(batch)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.student.parameters(), 3.0)
        warmup = min(1.0, (step + 1) / (0.1 * steps))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * warmup * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.step()

        # After the step, once: the teacher follows the student, slower and slower.
        model.update_teacher(0.99 + 0.009 * min(1.0, step / 500))
        ops.ema_update_(average, student, 0.995)

        losses.append(output.loss.item())  # a host sync; on a GPU, do this every fiftieth step
        if step % 50 == 0 or step == steps - 1:
            report(step, losses[-1], output.prediction, output.target)

    return model, slow.eval(), losses


def main() -> None:
    """Train and save; the weights load into `d2v_fast.models.build_encoder(MODEL)`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a .npy file, uint8 [N, 8, 8]; scikit-learn's digits by default")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out", type=Path, help="where to write the encoder's weights (.pt)")
    args = parser.parse_args()
    model, slow, _ = train(load_images(args.images), steps=args.steps, batch_size=args.batch_size)
    if args.out is not None:
        torch.save({"teacher": model.teacher.state_dict(), "average": slow.state_dict()}, args.out)


if __name__ == "__main__":
    main()
