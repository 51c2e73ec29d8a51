"""Which code serves a GPU, and what `backends()` and `info` say of it; the GPUs are pretended."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import subprocess
import sys
import sysconfig
import types
from importlib import util

import pytest
import torch

from d2v_fast import _C, ops
from d2v_fast.commands import info
from d2v_fast.ops.device import routes

GPU = torch.device("cuda", 0)


@pytest.fixture
def machine(monkeypatch):
    """machine(...): a GPU, with what is said missing."""

    def make(*, built="nvcc 13.0.88: sm_80", unusable=None, triton=True, compiler=True, capability=(9, 0), hip=None):
        patch = monkeypatch.setattr
        routes.obstacles.cache_clear()
        monkeypatch.delenv("CC", raising=False)
        patch(torch.cuda, "is_available", lambda: True)
        patch(torch.cuda, "current_device", lambda: 0)
        patch(torch.cuda, "get_device_capability", lambda device: capability)
        patch(torch.version, "hip", hip)
        patch(routes, "_C", types.SimpleNamespace(cuda=built))
        inside = []

        @contextlib.contextmanager
        def device(which):
            inside.append(which)
            yield
            inside.pop()

        patch(torch.cuda, "device", device)

        def answer(index):
            assert inside == [torch.device("cuda", index)], "torch must know which device is made current"
            return unusable

        module = types.SimpleNamespace(unusable=answer)
        monkeypatch.setitem(sys.modules, "d2v_fast._cuda", module)
        patch(sys.modules["d2v_fast"], "_cuda", module, raising=False)
        patch(routes, "find_spec", lambda name: triton or None)
        monkeypatch.setitem(sys.modules, "triton", types.SimpleNamespace())
        patch(shutil, "which", lambda name: f"/bin/{name}" if compiler and name == "gcc" else None)
        patch(routes, "probe", lambda device: None)

    yield make
    routes.obstacles.cache_clear()


def test_both_kinds_of_kernels(machine):
    machine()
    assert routes.obstacles(GPU) == (None, None)
    told = {name: served["cuda"] for name, served in ops.backends().items()}
    assert told["ema_update_"].implementation.startswith("CUDA C++: tensors of every dtype; Triton: float32 teachers")
    assert "one launch" in told["ema_update_"].reason
    assert "fit into shared memory" in told["layer_targets"].implementation
    assert told["layer_targets"].implementation.split("; ")[1].startswith("Triton: ")
    assert told["masked_smooth_l1"].implementation.startswith("Triton: ")
    assert "CUDA C++" not in told["masked_smooth_l1"].implementation
    assert "nothing is left for CUDA C++" in told["masked_smooth_l1"].reason


@pytest.mark.parametrize(
    ("missing", "cuda", "triton"),
    [
        ({"built": "not built: there was no nvcc"}, "not built: there was no nvcc", None),
        ({"unusable": "CUDA driver version is insufficient"}, "CUDA driver version is insufficient", None),
        ({"triton": False}, None, "Triton is not installed"),
        ({"compiler": False}, None, "Triton needs a C compiler"),
        ({"capability": (7, 5), "unusable": "no kernel image"}, "no kernel image", "8.0 and later, and cuda:0 has 7.5"),
        ({"hip": "6.4", "capability": (9, 4)}, "for NVIDIA's GPUs", None),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_missing_is_named(machine, missing, cuda, triton):
    machine(**missing)
    for found, expected in zip(routes.obstacles(GPU), (cuda, triton), strict=True):
        assert (found is None) == (expected is None), found
        assert expected is None or expected in found
    told = ops.backends()["ema_update_"]["cuda"]
    assert told.implementation.endswith(
        "float64 without CUDA C++" if not (cuda and triton) else "plain torch: everything"
    )
    assert all(reason is None or reason in told.reason for reason in (cuda, triton))


def test_triton_that_cannot_be_imported(machine, monkeypatch):
    machine()
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "triton cannot be imported" in routes.obstacles(GPU).triton


def broken(error):
    def probe(device):
        raise error

    return probe


@pytest.mark.parametrize(
    ("error", "header", "expected"),
    [
        (
            subprocess.CalledProcessError(1, ["gcc"]),
            False,
            r"CalledProcessError: .*no .*/Python\.h.*install python3-dev",
        ),
        (PermissionError(13, "Permission denied", "/root/.triton"), True, r"PermissionError.*set TRITON_CACHE_DIR"),
        (RuntimeError("Failed to find C compiler.\nMore."), True, r"RuntimeError: Failed to find C compiler\.$"),
        (AssertionError(), True, r"AssertionError: no reason is given$"),
    ],
    ids=["no Python.h", "a cache that cannot be written", "no compiler", "without words"],
)
def test_triton_that_does_not_work_is_not_promised(machine, monkeypatch, caplog, tmp_path, error, header, expected):
    machine(built="not built: there was no nvcc")
    monkeypatch.setattr(routes, "probe", broken(error))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    if header:
        (tmp_path / "Python.h").touch()
    with caplog.at_level(logging.WARNING, "d2v_fast"):
        reason = routes.obstacles(GPU).triton
        assert routes.obstacles(GPU).triton is reason
    assert re.search(expected, reason)
    assert [record.getMessage() for record in caplog.records] == [
        f"Triton is here but does not work, plain torch serves in its place: {reason}"
    ]
    told = ops.backends()["masked_smooth_l1"]["cuda"]
    assert told.implementation == "plain torch: everything"
    assert reason in told.reason


def test_the_probe_launches_a_kernel_on_its_device(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for Linux on x86-64)")
    inside, launched = [], []
    monkeypatch.setattr(routes.launching, "on", lambda device: contextlib.nullcontext(inside.append(device)))
    monkeypatch.setattr(routes.launching, "start", lambda *given, **options: launched.append((*given, options)))
    routes.probe(GPU)
    ((kernel, grid, options),) = launched
    assert (kernel.__name__, grid, options, inside) == ("nothing", (1,), {"warps": 1}, [GPU])


def test_the_module_missing_although_it_was_built(machine, monkeypatch):
    machine()
    monkeypatch.delattr(sys.modules["d2v_fast"], "_cuda")
    monkeypatch.setitem(sys.modules, "d2v_fast._cuda", None)
    assert "d2v_fast._cuda cannot be imported" in routes.obstacles(GPU).cuda


def test_the_choice_of_the_user(machine, monkeypatch):
    for choice, expected in (("cuda", [True, True]), ("triton", [False, True]), ("torch", [False, False])):
        machine()
        monkeypatch.setenv("D2V_FAST_GPU", choice)
        found = routes.obstacles(GPU)
        assert [one is None for one in found] == expected
        assert all(one is None or f"D2V_FAST_GPU={choice}" in one for one in found)
    machine()
    monkeypatch.setenv("D2V_FAST_GPU", "metal")
    with pytest.raises(ValueError, match="D2V_FAST_GPU=metal; use one of cuda, triton, torch"):
        routes.obstacles(GPU)


def test_nothing_is_asked_of_other_devices():
    assert all("mps:0 is not a GPU of CUDA" in why for why in routes.obstacles(torch.device("mps", 0)))


@pytest.mark.parametrize(
    ("built_for", "text"), [("13.0", "finds no GPU, or no driver"), (None, "is a build for CPUs only")]
)
def test_without_a_gpu(monkeypatch, built_for, text):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    for operation in ("ema_update_", "layer_targets", "masked_smooth_l1"):
        served = ops.backends()[operation]
        assert served["cuda"].implementation == "none"
        assert text in served["cuda"].reason
        assert _C.cuda in served["cuda"].reason
        assert f"Triton: {'installed' if util.find_spec('triton') else 'not installed'}" in served["cuda"].reason


def test_info_says_what_was_built():
    report = info.collect()
    assert report["build"]["CUDA C++"] == _C.cuda
    assert _C.cuda.startswith(("nvcc ", "not built: "))
    assert {"D2V_FAST_ISA", "D2V_FAST_GPU", "D2V_FAST_DEBUG"} <= set(report["machine"])


def test_triton_is_not_imported_for_cpu_tensors(run_python):
    code = """
    import sys, torch
    from d2v_fast import ops
    from d2v_fast.commands import info
    ops.ema_update_([torch.zeros(3)], [torch.ones(3)], 0.5)
    ops.layer_targets([torch.randn(2, 3, 4)])
    ops.masked_smooth_l1(torch.zeros(2, 3), torch.zeros(2, 3), beta=1.0)
    info.collect()
    print("triton" in sys.modules, "d2v_fast._cuda" in sys.modules)
    """
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "False"]
