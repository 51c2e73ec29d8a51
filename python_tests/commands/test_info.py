"""`d2v-fast info` tells what runs where, and why."""

import json

import pytest
import torch

from d2v_fast import _C
from d2v_fast.commands import info


def test_report_names_versions_build_and_the_code_that_serves_each_operation():
    report = info.collect()
    assert report["versions"]["torch"] == torch.__version__.split("+")[0]
    assert report["machine"]["instruction set"] == _C.isa()
    assert _C.isa() in report["build"]["instruction sets"].split(", ")
    compiled = {
        "adamw_ema_",
        "ema_update_",
        "layer_targets",
        "masked_smooth_l1",
        "restore",
        "decoder_layer",
        "distance_attention",
    }
    by_torch = {"attention", "gelu_linear", "linear", "norm_gelu", "strided_convolution"}
    assert set(report["operations"]) == compiled | by_torch
    for operation, served in report["operations"].items():
        assert set(served) == {"cpu", "cuda"}
        assert ("C++" in served["cpu"]["implementation"]) == (operation in compiled)
        assert served["cuda"]["reason"]


def test_report_names_the_kernel_for_packed_attention():
    attention = info.collect()["operations"]["attention"]
    assert attention["cpu"]["implementation"].endswith("packed sequences: blocks")
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
