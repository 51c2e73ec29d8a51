"""How far TF32 moves the targets and predictions of the Base models: emulated on a CPU, no GPU is asked.

    python benchmarks/tf32_targets.py

Networks of the Base presets' sizes with their initial weights; the error is the root mean square of the difference from
float64, in units of the targets' own deviation. Beside it stand float32 as it is and a teacher in bfloat16.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).parents[1] / "python_tests/simulators"))

from tf32 import Tf32

from d2v_fast import presets
from d2v_fast.batch import Batch
from d2v_fast.models.data2vec import Data2Vec


def batch_of(name: str, model: Data2Vec) -> Batch:
    """Two samples of noise; every second position is masked."""
    generator = torch.Generator().manual_seed(1)
    if name.startswith("text"):
        inputs = torch.randint(5, 50_000, (2, 128), generator=generator)
    else:
        shape = (2, 4 * 16_000) if name.startswith("speech") else (2, 3, 224, 224)
        inputs = torch.randn(shape, generator=generator)
    with torch.no_grad():
        length = model.student.encoder.embed(inputs).shape[1]
    mask = torch.zeros(2, length, dtype=torch.bool)
    mask[:, 1::2] = True
    masked = torch.where(mask, 4, inputs) if name.startswith("text") else None
    rows = mask.flatten().nonzero()[:, 0]
    return Batch(inputs=inputs, masked_inputs=masked, mask=mask, rows=rows, sample_ids=torch.arange(2))


def results(model: Data2Vec, batch: Batch, how: str) -> tuple[Tensor, Tensor]:
    """Targets and predictions in float64, computed in one of the ways."""
    context: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if how == "float64":
        model, batch = copy.deepcopy(model).double(), Batch(**{**vars(batch), "inputs": _double(batch.inputs)})
    elif how == "TF32":
        context = Tf32()
    elif how == "bfloat16":
        context = torch.autocast("cpu", torch.bfloat16)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), context:
        out = model(batch)
    if isinstance(context, Tf32):
        assert context.products > 50, "the products are hidden in operations of another name"
    return out.target.double(), out.prediction.double()


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def main() -> None:
    """Prints a table, one line for each preset."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print("| preset | " + " | ".join(f"{what}, {how}" for what in ("targets", "predictions") for how in WAYS) + " |")
    for name in ("speech-base", "vision-base", "text-base"):
        torch.manual_seed(0)
        model = Data2Vec(presets.NAMES[name]().model).eval()
        batch = batch_of(name, model)
        exact = results(model, batch, "float64")
        cells = {how: results(model, batch, how) for how in WAYS}
        errors = [
            ((cells[how][i] - exact[i]).square().mean().sqrt() / exact[i].std()).item() for i in (0, 1) for how in WAYS
        ]
        print(f"| {name} | " + " | ".join(f"{error:.1e}" for error in errors) + " |", flush=True)


WAYS = ("float32", "TF32", "bfloat16")

if __name__ == "__main__":
    main()
