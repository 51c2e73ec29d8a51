"""Which code can serve the tensors of a GPU: the CUDA C++ kernels, the Triton kernels, or plain torch; and why not.

Nothing is imported or asked before a tensor of that GPU is at hand, or `backends()` wants to know.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from d2v_fast import _C
from d2v_fast.ops._library import Backend
from d2v_fast.ops.device import launching

CHOICE = "D2V_FAST_GPU"
"""Environment variable: the fastest code that may serve GPUs ("cuda", "triton" or "torch"; without it, "cuda")."""

_ORDER = ("cuda", "triton", "torch")


class Obstacles(NamedTuple):
    """Why kernels cannot run on a device; None where they can."""

    cuda: str | None
    triton: str | None


class Coverage(NamedTuple):
    """What each route does for an operation, in a few words, and why; "" where it has no kernel of it."""

    cuda: str
    triton: str
    torch: str
    why: str


@functools.cache
def obstacles(device: torch.device) -> Obstacles:
    """What stands in the way of each kind of kernel on this device.

    Args:
        device: with its index.

    Raises:
        ValueError: D2V_FAST_GPU has an unknown value.
    """
    if device.type != "cuda":
        return Obstacles(*[f"{device} is not a GPU of CUDA or ROCm"] * 2)
    fastest = os.environ.get(CHOICE, "cuda")
    if fastest not in _ORDER:
        raise ValueError(f"{CHOICE}={fastest}; use one of {', '.join(_ORDER)}, or leave it unset")
    excluded = [
        f"{CHOICE}={fastest} excludes it" if name in _ORDER[: _ORDER.index(fastest)] else None for name in _ORDER
    ]
    return Obstacles(excluded[0] or _obstacle_of_cuda(device), excluded[1] or _obstacle_of_triton(device))


def describe(covered: Coverage) -> Backend:
    """The entry of an operation in `backends()`, for the GPU that is current."""
    if not torch.cuda.is_available():
        built_for = torch.version.cuda or torch.version.hip
        missing = "finds no GPU, or no driver for one" if built_for else "is a build for CPUs only"
        triton = "installed" if find_spec("triton") else "not installed"
        return Backend("none", f"torch {torch.__version__} {missing} (CUDA C++: {_C.cuda}; Triton: {triton})")
    found = obstacles(torch.device("cuda", torch.cuda.current_device()))
    parts, reasons = [], [covered.why]
    for name, scope, obstacle in (
        ("CUDA C++", covered.cuda, found.cuda),
        ("Triton", covered.triton, found.triton),
    ):
        if scope and obstacle is None:
            parts.append(f"{name}: {scope}")
        elif scope:
            reasons.append(f"no {name}: {obstacle}")
    parts.append(f"plain torch: {covered.torch if parts else 'everything'}")
    return Backend("; ".join(parts), "; ".join(reasons))


def _obstacle_of_cuda(device: torch.device) -> str | None:
    if torch.version.hip is not None:
        return "CUDA C++ kernels are for NVIDIA's GPUs"
    if _C.cuda.startswith("not built"):
        return _C.cuda
    try:
        from d2v_fast import _cuda
    except ImportError as error:
        return f"d2v_fast._cuda cannot be imported: {error}"
    with torch.cuda.device(device):  # which it makes current in a CUDA runtime of its own
        return _cuda.unusable(device.index)


def _obstacle_of_triton(device: torch.device) -> str | None:
    if find_spec("triton") is None:
        return "Triton is not installed (it comes with torch for CUDA on Linux: `pip install triton`)"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler when it runs and finds none: install gcc, or name one in CC"
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < (8, 0):
        return (
            f"the kernels are for compute capability 8.0 and later, and {device} has {'.'.join(map(str, capability))}"
        )
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"triton cannot be imported: {error}"
    try:
        probe(device)
    except Exception as error:  # of Triton, its compilers, the file system or the driver: each means "not here"
        reason = _why_triton_fails(error)
        logging.getLogger("d2v_fast").warning(
            f"Triton is here but does not work, plain torch serves in its place: {reason}"
        )
        return reason
    return None


def probe(device: torch.device) -> None:
    """Compiles and launches a Triton kernel that does nothing; whatever stands in the way is raised.

    A compiler that is found may still lack Python.h, and a cache may be one that cannot be written; without this the
    first operation of a run would end with a traceback of Triton's.
    """
    kernel = importlib.import_module("d2v_fast.kernels.probe").nothing
    with launching.on(device):
        launching.start(kernel, (1,), warps=1)


def _why_triton_fails(error: Exception) -> str:
    text = str(error).strip() or "no reason is given"
    reason = f"Triton cannot build and launch a kernel here: {type(error).__name__}: {text.splitlines()[0]}"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        return (
            f"{reason} (there is no {header}, which its launcher needs: install python3-dev, or a Python with headers)"
        )
    if isinstance(error, OSError):
        return f"{reason} (its cache has to be a folder that can be written: set TRITON_CACHE_DIR)"
    return reason
