"""The kernel that puts kept tokens and noise on the grid, in the interpreter: every place, every residue of a tile."""

from __future__ import annotations

import pytest
import torch
from d2v_fast.kernels import launch
from launches import run_restore


def check(kept, places, channels, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(len(kept), channels, generator=generator).to(dtype)
    noise = torch.randn(places - len(kept), channels, generator=generator).to(dtype)
    out, traffic = run_restore(tokens, torch.tensor(kept, dtype=torch.int64), noise)
    expected = torch.empty(places, channels, dtype=dtype)
    hidden = torch.ones(places, dtype=torch.bool)
    hidden[kept] = False
    expected[kept], expected[hidden] = tokens, noise
    assert torch.equal(out, expected)
    assert traffic.stored == out.nbytes
    return traffic


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("kept", [[], [0], [39], [5, 6, 7, 20], list(range(40)), list(range(0, 40, 3))], ids=str)
def test_every_place_has_its_token_or_its_noise(kept, dtype):
    check(kept, 40, 130, dtype)


def test_every_residue_of_a_tile(monkeypatch):
    monkeypatch.setattr(launch, "restore_tile", lambda: launch.Tile(4, 8, 1))
    generator = torch.Generator().manual_seed(1)
    for places in range(1, 14):
        for channels in (1, 7, 8, 9, 17):
            kept = (torch.rand(places, generator=generator) < 0.5).nonzero().flatten().tolist()
            check(kept, places, channels)


def test_every_row_moves_once():
    kept = list(range(0, 640, 2))
    traffic = check(kept, 640, 768)
    rows = 640 * 768 * 4
    looked_up = (640 // 16) * 6 * (16 + len(kept).bit_length()) * 8  # indices, of each program
    assert rows <= traffic.loaded <= rows + looked_up
