"""The tables of docs/scale.md are what the code would do, for as many processes as one likes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from d2v_fast import presets
from d2v_fast.data.deal import Deal
from d2v_fast.models import Data2Vec
from d2v_fast.training.distributed.gradients import flatten
from d2v_fast.training.trainer import may_cut

PAGE = (Path(__file__).parents[3] / "docs" / "scale.md").read_text()
ROWS = [
    [cell.strip() for cell in row.split("|")[1:-1]]
    for row in PAGE.splitlines()
    if re.match(r"\| `[a-z0-9-]+` \| \d", row)
]


def number(cell):
    return float(re.sub(r"[ ,s]", "", cell))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`"))
def test_memory_and_bytes_of_a_preset(row):
    """On tensors without numbers; of 512 processes each has the same flat tensors."""
    name, student, teacher, device, flat, sent, *seconds = row
    config = presets.preset(name.strip("`"))
    with torch.device("meta"):
        model = Data2Vec(config.model)
    parameters = list(model.student.parameters())
    count, own = sum(p.numel() for p in parameters), sum(p.numel() for p in model.averaged()[0])
    assert (count, own) == (number(student), number(teacher))
    assert number(device) == pytest.approx((16 * count + 4 * own) / 1e6, abs=1)
    found = sum(one.nbytes for one in flatten(parameters))
    assert found == pytest.approx(number(flat) * 1e6, abs=5e5)
    assert found == pytest.approx(4 * count, rel=1e-3)  # little is lost to alignment
    assert number(sent) == pytest.approx(2 * 7 / 8 * found / 1e6, abs=1)
    for cell, gigabits in zip(seconds, (10, 100, 400), strict=True):
        assert number(cell) == pytest.approx(
            2 * 7 / 8 * found / (gigabits / 8 * 1e9), abs=0.006 if gigabits == 10 else 0.0006
        )


@pytest.mark.parametrize("name", presets.NAMES)
def test_which_presets_many_processes_can_share(name):
    """As many as the micro-batches can be cut for; the parts of a step are then equally many for each."""
    config = presets.preset(name)
    for world in (2, 3, 8, 64, 512):
        pieces = math.lcm(world, config.loader.accumulation) // config.loader.accumulation
        if pieces > 1 and (pieces > config.loader.batch_size or not may_cut(config)):
            continue
        deals = [Deal(config.loader, rank, world) for rank in (0, world - 1)]
        assert len(deals[0].numbers) == len(deals[1].numbers) == config.loader.accumulation * pieces / world
