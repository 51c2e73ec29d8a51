from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest

from d2v_fast.data import LoaderConfig
from d2v_fast.data.deal import Deal, EmptyPiece
from d2v_fast.data.plan import BatchPlan
from d2v_fast.errors import ConfigError


@dataclass(frozen=True)
class Windows:
    starts: np.ndarray
    most: int = 5

    lengths = None


def deals(accumulation, world, batch_size=8):
    config = LoaderConfig(batch_size=batch_size, accumulation=accumulation)
    return [Deal(config, rank, world) for rank in range(world)]


@pytest.mark.parametrize(
    ("accumulation", "world", "pieces"),
    [(1, 1, 1), (6, 1, 1), (6, 2, 1), (6, 3, 1), (1, 2, 2), (1, 3, 3), (6, 4, 2), (4, 6, 3), (5, 7, 7)],
)
def test_every_part_of_a_step_is_done_once_and_by_all_equally(accumulation, world, pieces):
    found = deals(accumulation, world)
    assert {deal.pieces for deal in found} == {pieces}
    assert len({len(deal.numbers) for deal in found}) == 1
    parts = [deal.part(number) for deal in found for number in deal.numbers]
    assert sorted(parts) == [(m, piece) for m in range(accumulation) for piece in range(pieces)]


def test_pieces_are_the_micro_batch_in_order_with_what_was_planned_for_it():
    deal = deals(2, 6)[0]
    plan = BatchPlan(np.arange(10, 18), 3, Windows(np.arange(8) * 7))
    pieces = [deal.cut(plan, piece) for piece in range(3)]
    assert [len(piece.ids) for piece in pieces] == [3, 3, 2]
    assert np.concatenate([piece.ids for piece in pieces]).tolist() == plan.ids.tolist()
    assert np.concatenate([piece.details.starts for piece in pieces]).tolist() == plan.details.starts.tolist()
    assert {(piece.epoch, piece.details.most) for piece in pieces} == {(3, 5)}


def test_a_micro_batch_of_fewer_samples_than_pieces():
    deal = deals(1, 3)[0]
    plan = BatchPlan(np.arange(2), 0, Windows(np.arange(2)))
    assert [len(deal.cut(plan, piece).ids) for piece in range(2)] == [1, 1]
    with pytest.raises(EmptyPiece):
        deal.cut(plan, 2)


def test_whole_micro_batches_are_not_touched():
    plan = BatchPlan(np.arange(2), 0, object())
    assert deals(2, 2)[1].cut(plan, 0) is plan


def test_a_plan_that_cannot_be_cut():
    with pytest.raises(ConfigError, match=r"no dataclass of arrays.*loader.accumulation to a multiple of 2"):
        deals(1, 2)[0].cut(BatchPlan(np.arange(2), 0, object()), 0)


def test_processes_that_cannot_share_a_step_are_told_what_fits():
    message = re.escape(
        "loader.accumulation is 4 (the micro-batches of a step, of all processes together), which 6 processes cannot "
        "share: its micro-batches of 2 cannot be cut into 3. Start 1, 2, 4 processes"
    )
    with pytest.raises(ConfigError, match=message):
        deals(4, 6, batch_size=2)
    with pytest.raises(ConfigError, match=r"its samples depend on each other. Start 1 processes"):
        Deal(LoaderConfig(), 0, 2, may_cut=False)
