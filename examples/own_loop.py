"""A training loop of one's own around `Data2Vec`, a plain module: batch in, loss out. Data and optimizer are yours."""

import argparse
import copy

import numpy as np
import torch
from sklearn import datasets

from d2v_fast import Batch, Data2Vec, ops, presets
from d2v_fast.masking import BlockMask, block_masks
from d2v_fast.models import Encoder, token_count

MODEL = presets.vision_tiny().model


def train(images: torch.Tensor, *, steps: int, batch_size: int) -> tuple[Data2Vec, Encoder, list[float]]:
    """The loop on float32 [N, 1, 8, 8]. Returns the pair, a slow average of the student, and the loss of each step."""
    torch.manual_seed(0)
    model, losses = Data2Vec(MODEL).train(), []
    optimizer = torch.optim.AdamW(model.student.parameters(), lr=1e-3, weight_decay=0.01)
    slow = copy.deepcopy(model.student.encoder).requires_grad_(False)  # an average of one's own, beside the teacher's
    for step in range(steps):
        ids = torch.randint(len(images), (batch_size,))
        # Up to 8 of the 16 patches are hidden, in blocks; a sample has other ones in each epoch, here in each step.
        grid = token_count(MODEL, images.shape[-2:])
        masks = block_masks(BlockMask(count=8, min_area=2), grid, seed=0, epoch=step, sample_ids=ids)
        output = model(Batch(inputs=images[ids], mask=masks.mask, rows=masks.rows, sample_ids=ids))
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.student.parameters(), 3.0)
        optimizer.step()
        model.update_teacher(0.99 + 0.009 * min(1.0, step / 500))  # once, after the step
        ops.ema_update_(list(slow.parameters()), list(model.student.encoder.parameters()), 0.995)
        losses.append(output.loss.item())  # a host sync; on a GPU, do this every fiftieth step
        if step % 50 == 0 or step == steps - 1:
            left = (output.prediction.detach() - output.target).square().mean() / output.target.var(0).mean()
            print(f"step {step:4d}  loss {losses[-1]:.4f}  explained {1 - left.item():.1%}")
    return model, slow.eval(), losses


def main() -> None:
    """Train and save; the weights load into `d2v_fast.models.build_encoder(MODEL)`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", help="a .npy file, uint8 [N, 8, 8]; scikit-learn's digits by default")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", help="where to write the encoder's weights (.pt)")
    args = parser.parse_args()
    pixels = datasets.load_digits().images * (255 / 16) if args.images is None else np.load(args.images)
    images = (torch.from_numpy(pixels).float().unsqueeze(1) / 255 - 0.3) / 0.35
    model, slow, _ = train(images, steps=args.steps, batch_size=32)
    if args.out is not None:
        torch.save({"teacher": model.teacher.state_dict(), "average": slow.state_dict()}, args.out)


if __name__ == "__main__":
    main()
