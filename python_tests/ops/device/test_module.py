"""The CUDA module as it was built: imports without a driver, has nothing of torch, and says what is wrong."""

from __future__ import annotations

import re
import shutil
import subprocess

import cuda_compiler
import pytest
import torch

from d2v_fast import _C

pytestmark = pytest.mark.skipif(_C.cuda.startswith("not built"), reason=f"d2v_fast._cuda is {_C.cuda}")


@pytest.fixture(scope="module")
def built():
    from d2v_fast import _cuda

    return _cuda


def symbols(module, *options):
    if shutil.which("nm") is None:
        pytest.skip("nm (binutils) is not installed")
    return subprocess.run(["nm", "-D", *options, module.__file__], capture_output=True, text=True, check=True).stdout


def test_without_a_gpu_a_launch_says_so(built):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert "driver" in built.unusable(0) or "device" in built.unusable(0)
    for launch in (lambda: built.ema(64, 1, 64, 0, 0), lambda: built.layer_targets_reads(1, 1, 4, 8, 4, 0, 0)):
        with pytest.raises(RuntimeError, match=r"CUDA kernel (ema|layer_targets): .*(driver|device)"):
            launch()


def test_it_needs_neither_torch_nor_cuda_to_be_loaded(built):
    needed = symbols(built, "--undefined-only")
    assert "Py" in needed, "the list is the right one"
    assert [line for line in needed.splitlines() if re.search(r"c10|torch|_ZN2at|aoti|cuda|\bcu[A-Z]", line)] == []


def test_nothing_but_the_module_is_exported(built):
    exported = symbols(built, "--defined-only", "--demangle")
    assert "PyInit__cuda" in exported
    assert [line for line in exported.splitlines() if re.search(r"d2v::|\bcuda[A-Z]", line)] == []


def test_the_gpus_that_info_names_are_in_it(built):
    tool = cuda_compiler._cuobjdump()
    if tool is None:
        pytest.skip("no cuobjdump, neither CUDA's nor Triton's")
    found = {}
    for kind in ("elf", "ptx"):
        done = subprocess.run([tool, f"--list-{kind}", built.__file__], capture_output=True, text=True, check=True)
        found[kind] = set(re.findall(r"\bsm_(\d+)", done.stdout))
    named = re.findall(r"sm_(\d+)", _C.cuda)
    assert found["elf"] == set(named)
    assert found["ptx"] == {named[-1]}
