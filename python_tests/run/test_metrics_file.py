from __future__ import annotations

import errno
import json
import os
import resource
import signal

import pytest

from d2v_fast.errors import RunError
from d2v_fast.run.metrics_file import MetricsFile, read_metrics


def test_metrics_are_cut_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = MetricsFile(path, 0)
    lines.write({"step": 1})
    size = lines.sync()
    lines.write({"step": 2})
    lines.close()
    again = MetricsFile(path, size)
    again.write({"step": 2, "again": True})
    again.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1}, {"step": 2, "again": True}]
    beyond = MetricsFile(path, 10_000)  # lines that were lost are not replaced by zeros
    beyond.write({"step": 3})
    beyond.close()
    assert len(path.read_text().splitlines()) == 3


def test_a_last_line_that_was_lost_by_half_is_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')  # shorter than at the checkpoint: the power went
    lines = MetricsFile(path, 500)
    lines.write({"step": 3})
    assert lines.sync() == path.stat().st_size
    lines.close()
    assert [line["step"] for line in read_metrics(path)] == [1, 3]


def test_a_file_that_was_changed_by_hand_is_cut_to_a_whole_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "note": "longer than it was"}\n{"step": 2}\n')
    lines = MetricsFile(path, 47)  # where a line ended at the checkpoint, and none does now
    lines.write({"step": 3})
    assert lines.sync() == path.stat().st_size
    lines.close()
    assert [line["step"] for line in read_metrics(path)] == [1, 3]


def test_a_full_disk_leaves_whole_lines_and_the_right_size(tmp_path):
    """Really full: this process may write no file beyond 40 bytes."""
    path = tmp_path / "metrics.jsonl"
    lines = MetricsFile(path, 0)
    lines.write({"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))
        with pytest.raises(OSError, match="File too large"):
            lines.write({"step": 2, "what": "x" * 60})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert lines.sync() == path.stat().st_size == 12
    lines.write({"step": 3})
    lines.close()
    assert [line["step"] for line in read_metrics(path)] == [1, 3]


def test_lines_that_cannot_be_forced_to_the_disk_are_told_of_once(tmp_path, monkeypatch, capsys):
    def broken(handle):
        raise OSError(errno.EIO, "Input/output error")

    lines = MetricsFile(tmp_path / "metrics.jsonl", 0)
    monkeypatch.setattr(os, "fsync", broken)
    for _ in range(2):
        lines.write({"step": 1})
        lines.sync()
    lines.close()
    assert "could not be forced to the disk: Input/output error" in capsys.readouterr().err
    assert len(capsys.readouterr().err) == 0


def test_reading_leaves_out_what_is_being_written_and_names_what_is_damaged(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1}\n{"step": 2')
    assert read_metrics(path) == [{"step": 1}]
    for damage in ("\0\0\0", "[1]", '{"loss": 3}', '{"step": "1"}'):
        path.write_text(f'{{"step": 1}}\n{damage}\n')
        with pytest.raises(RunError, match=r"metrics\.jsonl, line 2 is not a line of metrics"):
            read_metrics(path)
    with pytest.raises(RunError, match="cannot be read: Is a directory"):
        read_metrics(tmp_path)
    with pytest.raises(RunError, match="cannot be written: Is a directory"):
        MetricsFile(tmp_path, 0)
