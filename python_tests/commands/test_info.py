"""`d2v-fast info` tells what runs where, and why."""

import json

import pytest
import torch

from d2v_fast import _C, ops
from d2v_fast.commands import info


def test_report_names_versions_build_and_the_code_that_serves_each_operation():
    report = info.collect()
    assert report["versions"]["torch"] == torch.__version__.split("+")[0]
    assert report["machine"]["instruction set"] == _C.isa()
    assert _C.isa() in report["build"]["instruction sets"].split(", ")
    told = {
        name: {device: code._asdict() for device, code in served.items()} for name, served in ops.backends().items()
    }
    assert report["operations"] == told  # which operations there are, is what python_tests/ops/test_library.py says


def test_report_names_the_kernel_for_packed_attention():
    attention = info.collect()["operations"]["attention"]
    assert attention["cpu"]["implementation"].endswith("packed sequences: fused")
    assert attention["cuda"]["implementation"].rsplit(" ", 1)[1] in ("varlen", "xformers", "sdpa")
    assert attention["cuda"]["reason"]


def test_json_form_is_json(capsys: pytest.CaptureFixture[str]):
    info.main(as_json=True)
    assert json.loads(capsys.readouterr().out) == info.collect()


def test_table_form_names_every_operation(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    info.main()
    printed = capsys.readouterr().out
    assert all(operation in printed for operation in info.collect()["operations"])
