"""Broken files in a run: survived one by one, and too many of them stop it where it can be continued."""

from __future__ import annotations

import numpy as np
import pytest

from d2v_fast.data import ArraySource, SampleError, TooManySkipped
from d2v_fast.training.trainer import Data2VecTrainer


class Broken(ArraySource):
    """Sixteen pictures, some of which cannot be read."""

    def __init__(self, *broken):
        random = np.random.default_rng(7)
        super().__init__("vision", [random.integers(0, 256, (20, 24, 3), dtype=np.uint8) for _ in range(16)])
        self.broken = broken

    def read(self, index):
        if index in self.broken:
            raise SampleError(self.name(index), "is broken")
        return super().read(index)


def test_a_stopped_run_continues_with_the_bits_of_one_that_let_them_pass(
    make_config, tmp_path, assert_same_run, read_lines, capsys
):
    source = Broken(0, 1, 2, 3, 4, 5)
    lenient = make_config("vision", loader={"max_skipped": 1.0})
    whole = Data2VecTrainer(lenient, data=source, out=tmp_path / "whole").fit()
    stopped = Data2VecTrainer(make_config("vision"), data=source, out=tmp_path / "stopped")
    with pytest.raises(TooManySkipped, match=r"of 16 samples cannot be read, more than loader.max_skipped 0.01 allows"):
        stopped.fit()
    (saved,) = (tmp_path / "stopped" / "checkpoints").iterdir()
    assert saved.name in ("step_00000001", "step_00000002")
    with pytest.raises(TooManySkipped):  # the same command again stops again, and loses nothing
        Data2VecTrainer(make_config("vision"), data=source, out=tmp_path / "stopped").fit()
    newest = max((tmp_path / "stopped" / "checkpoints").iterdir())
    assert newest.name >= saved.name
    capsys.readouterr()
    Data2VecTrainer(lenient, data=source, out=tmp_path / "stopped").fit()
    assert f"continuing {tmp_path / 'stopped'} after step {int(newest.name[-1])} of 8" in capsys.readouterr().err
    assert_same_run(whole, tmp_path / "stopped", 8)
    assert read_lines(whole)[-1]["skipped_samples"] > 6


def test_a_run_survives_steps_without_a_readable_sample(make_config, tmp_path, assert_same_run, read_lines):
    """Batches of one: a broken sample is a whole step, which changes nothing but the schedules."""
    config = make_config("vision", loader={"batch_size": 1, "accumulation": 1}, log={"every": 1}, steps=16)
    source = Broken(3, 11, 12)
    whole = Data2VecTrainer(config, data=source, out=tmp_path / "whole").fit()
    lines = read_lines(whole)
    empty = [line for line in lines if line["loss"] is None]
    assert len(empty) == 3
    assert all(line["target_std"] is None for line in empty)
    assert all(line["target_std"] > 0 for line in lines if line not in empty)
    assert lines[-1]["skipped_samples"] == lines[-1]["skipped_steps"] == 3
    interrupted = Data2VecTrainer(config, data=source, out=tmp_path / "parts")
    forward, calls = interrupted.task.losses, iter(range(5))

    def die_at_the_sixth(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return forward(*arguments)

    interrupted.task.losses = die_at_the_sixth
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit()
    Data2VecTrainer(config, data=source, out=tmp_path / "parts").fit()
    assert_same_run(whole, tmp_path / "parts", 16)
