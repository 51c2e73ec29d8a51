"""The bytes that docs/kernels.md counts for the Base models, by the formulas whose floors the simulator checks."""

from __future__ import annotations

import documented
import pytest
from d2v_fast.kernels import launch
from preset_shapes import SHAPES, Shape, front_end

MEGABYTE = 10**6
PARAMETERS = 100 * 10**6
# Layers, batch, frames, channels, masked rows: bfloat16 layers, the same for every figure of the kernels.
SPEECH, VISION, TEXT = (8, 8, 800, 768, 3136), (6, 128, 197, 768, 15360), (10, 16, 512, 768, 1228)


def targets(shape: tuple[int, ...], *, frames: bool, rows: bool, statistics: bool = False, width: int = 2) -> int:
    """Reads all frames, or the wanted rows, or both; writes float32 rows."""
    number, batch, length, channels, count = shape
    layers = number * channels * width * ((batch * length if frames else 0) + (count if rows else 0))
    return layers + count * (4 * channels + 8) + (16 * number * batch * channels if statistics else 0)


def norm_gelu(*, backward: bool) -> int:
    """Of all norms of the front end of speech-base, 16 bits; sums over rows are written once and read once."""
    moved = 0
    for rows, channels in front_end():
        programs = launch.cells(rows, launch.norm_gelu_share(rows))
        moved += rows * (channels * 2 * (3 if backward else 2) + 8) + 2 * 4 * channels
        moved += 2 * programs * 2 * 4 * channels if backward else 0
    return moved


BYTES = {
    "EMA, float32 student": (12 * PARAMETERS, 1),
    "EMA, bfloat16 student": (10 * PARAMETERS, 1),
    "EMA, bfloat16 student and shadow": (12 * PARAMETERS, 1),
    "instance targets of speech, CUDA C++": (targets(SPEECH, frames=True, rows=False), 1),
    "instance targets of speech, Triton": (targets(SPEECH, frames=True, rows=True, statistics=True), 2),
    "layer-norm targets of vision": (targets(VISION, frames=False, rows=True), 1),
    "layer-norm targets of text": (targets(TEXT, frames=False, rows=True), 1),
    "smooth-L1 forward of speech": (3136 * (768 * (2 + 4 + 2) + 4), 1),
    "smooth-L1 forward of vision": (15360 * (768 * (2 + 4 + 2) + 4), 1),
    "smooth-L1 backward of speech": (3136 * 768 * (2 + 2), 1),
    "norms and GELU of the front end of speech-base, forward": (norm_gelu(backward=False), len(front_end())),
    "norms and GELU of the front end of speech-base, backward": (norm_gelu(backward=True), 2 * len(front_end())),
}


@pytest.mark.parametrize("row", BYTES)
def test_documented_bytes(row):
    size, launches = BYTES[row]
    documented.check("bytes", row, {"MB": f"{size / MEGABYTE:.1f}", "launches": str(launches)}, "arithmetic")


def test_every_row_of_the_document_is_counted():
    assert documented.Record("bytes").rows.keys() == BYTES.keys()


def preset_cells(name: str, shape: Shape) -> dict[str, str]:
    """A row of the table of the presets."""
    sizes, width = shape[:5], shape.width
    instance = name == "speech-base"  # else layer norm, by rows
    by_cuda = targets(sizes, frames=True, rows=False, width=width) if instance else None
    by_triton = targets(sizes, frames=instance, rows=True, statistics=instance, width=width)
    count, channels = shape.rows, shape.channels
    found = {
        "targets, CUDA C++": by_cuda,
        "targets, Triton": by_triton,
        "loss forward": count * (channels * (2 + 4 + 2) + 4),
        "loss backward": count * channels * (2 + 2),
        "EMA": 12 * shape.parameters,
    }
    described = f"{shape.layers}, {shape.batch}, {shape.frames}, {count}, {8 * width} bits"
    return {"K, B, T, M, layers": described} | {
        key: "-" if value is None else f"{value / MEGABYTE:.1f}" for key, value in found.items()
    }


@pytest.mark.parametrize("name", SHAPES)
def test_documented_bytes_of_presets(name):
    documented.check("presets", name, preset_cells(name, SHAPES[name]()), "arithmetic")


def test_every_preset_of_the_document_is_counted():
    assert documented.Record("presets").rows.keys() == SHAPES.keys()
