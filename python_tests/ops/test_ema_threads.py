"""Two threads that move averages of their own at once."""

from __future__ import annotations

import importlib
import threading

import torch

from d2v_fast.ops import ema_update_

ema = importlib.import_module("d2v_fast.ops.ema")


class Slow(dict):
    """Tables whose oldest is found by two threads at once, if they are let."""

    def __init__(self, given):
        super().__init__(given)
        self.both = threading.Barrier(2, timeout=1)

    def __iter__(self):
        oldest = next(super().__iter__())
        try:
            self.both.wait()
        except threading.BrokenBarrierError:
            self.both.reset()
        return iter([oldest])


def test_two_threads_make_room_for_their_tables(monkeypatch):
    keep = [torch.zeros(3) for _ in range(2 * ema._KEPT_TABLES)]
    for teacher, student in zip(keep[::2], keep[1::2], strict=True):
        ema_update_([teacher], [student], 0.5)
    monkeypatch.setattr(ema, "_tables", Slow(ema._tables))
    assert len(ema._tables) == ema._KEPT_TABLES
    results, errors = [torch.zeros(5) for _ in range(2)], []

    def move(teacher):
        try:
            ema_update_([teacher], [torch.ones(5)], 0.5)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=move, args=(teacher,)) for teacher in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(ema._tables) == ema._KEPT_TABLES
    assert all(torch.equal(teacher, torch.full((5,), 0.5)) for teacher in results)
