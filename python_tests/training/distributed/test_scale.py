"""The tables of docs/scale.md are what the code would do, for as many processes as one likes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import rank_jobs
import torch

from d2v_fast import presets
from d2v_fast.config_json import with_overrides
from d2v_fast.data import ArraySource
from d2v_fast.data.deal import Deal
from d2v_fast.modalities import open_data
from d2v_fast.models import Data2Vec
from d2v_fast.report.dry_run import _one, _saved_bytes
from d2v_fast.training.distributed.gradients import flatten
from d2v_fast.training.trainer import Data2VecTrainer, may_cut

PAGE = (Path(__file__).parents[3] / "docs" / "scale.md").read_text()
TABLES = [
    [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in table.splitlines()
        if re.match(r"\| `[a-z0-9-]+` \| \d", row)
    ]
    for table in PAGE.split("|---|\n")[1:]
]
WHOLE, SHARDED, ACTIVATIONS = (table for table in TABLES if table)


def number(cell):
    return float(re.sub(r"[ ,s]", "", cell))


@pytest.mark.parametrize("row", WHOLE, ids=lambda row: row[0].strip("`"))
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


@pytest.mark.parametrize("row", SHARDED, ids=lambda row: row[0].strip("`"))
def test_memory_and_bytes_of_a_sharded_preset(together, row):
    """Cut for 8 and for 512 processes of which one is there; its parts are as large as any."""
    name, matrices, rest, parts, many, once, often, seconds = row
    config = presets.preset(name.strip("`"))
    few, cut = (together(1, rank_jobs.pretend_cut, config, size)[0].value for size in (8, 512))
    assert (few["matrices"], few["rest"]) == (number(matrices), number(rest))
    for cell, found in ((parts, few), (many, cut)):
        kept = 16 * found["student's part"] + 4 * found["teacher's part"]
        assert kept / 1e6 == pytest.approx(number(cell), abs=0.6)
    assert number(parts) == pytest.approx(number(device_of(name)) / 8, rel=0.01)
    for cell, passes in ((once, 1), (often, 4)):
        sent = 7 / 8 * (passes * (6 * few["matrices"] + 4 * few["rest"]) + 4 * few["student"])
        assert sent / 1e6 == pytest.approx(number(cell), abs=1)
    assert number(seconds) == pytest.approx(number(once) * 1e6 / (100 / 8 * 1e9), abs=0.0006)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row[0], marks=() if "base" in row[0] else pytest.mark.long)
        for row in ACTIVATIONS
        if "huge" not in row[0]  # two networks of 2.5 GB: more memory than a machine that runs tests may have
    ],
)
def test_activations_of_a_sample(row, tmp_path):
    name, random = row[0].strip("`"), np.random.default_rng(0)
    if name.startswith("vision"):
        source = ArraySource("vision", list(random.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)))
    else:
        source = ArraySource("speech", list(random.integers(-3000, 3000, (2, 160_000), dtype=np.int16)))
    for recomputed, cell in ((False, row[2]), (True, row[3])):
        precision = {"autocast": "bfloat16", "checkpoint_activations": recomputed}
        loader = {"batch_size": 1, "accumulation": 1, "threads": 1, "batch_seconds": None}
        config = with_overrides(presets.preset(name), {"precision": precision, "loader": loader})
        trainer = Data2VecTrainer(config, data=source, out=tmp_path / "run", device="cpu")
        with trainer._open_loader(open_data(source, config, None), 0, None) as loading:
            found = _saved_bytes(trainer.model, _one(loading.step(0)[0]), config)
        assert found / 1e6 == pytest.approx(number(cell), rel=0.02, abs=0.5)


def device_of(name):
    return next(row[3] for row in WHOLE if row[0] == name)


@pytest.mark.parametrize(("size", "autocast"), [(8, "float32"), (512, "float32"), (512, "bfloat16")])
def test_what_a_step_keeps_and_sends(together, make_config, make_data, size, autocast):
    """By the formulas, with two micro-batches in a process, one of which is there."""
    found = {}
    for shard in (False, True):
        config = make_config(
            "vision",
            model={"transformer": {"layer_drop": 0.0}},
            precision={"autocast": autocast, "checkpoint_activations": size == 8},  # which sends nothing more
            distributed={"shard": shard},
        )
        found[shard] = together(1, rank_jobs.pretend, config, make_data("vision"), size)[0].value
    model = Data2Vec(config.model)
    count, own = sum(p.numel() for p in model.student.parameters()), sum(p.numel() for p in model.averaged()[0])
    whole = {"weights": 4 * count, "gradients": 4 * count, "moments": 8 * count, "teacher": 4 * own}
    sent = {"gathered": 0, "scattered": 0, "added": found[False]["added"]}
    assert found[False] == whole | sent
    assert found[False]["added"] == pytest.approx(4 * count, rel=1e-3)

    def rows(parameters):  # the largest part of each, and what is sent for it: as many rows for every process
        return sum(math.ceil(p.shape[0] / size) * p[0].numel() for p in parameters)

    blocks = [[p for part in (b.attention, b.ffn) for p in part.parameters()] for b in model.student.encoder.blocks]
    matrices = size * sum(map(rows, blocks))
    everything = size * rows(model.parameters())
    student = rows(model.student.parameters())
    each = {"float32": 4, "bfloat16": 2}[autocast]
    assert found[True] == {
        "weights": 4 * student,
        "gradients": 4 * student,
        "moments": 8 * student,
        "teacher": 4 * rows(model.teacher.parameters()),
        "gathered": 2 * (3 * each * matrices + 4 * (everything - 2 * matrices)),
        "scattered": 4 * size * student,
        "added": 0,
    }


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
