"""What nvcc makes of a .cu file: PTX, machine code, and the resources that it takes. No GPU is needed."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

# The GPUs that the wheel names: A100, H100, B200.
ARCHITECTURES = (80, 90, 100)
_FLAGS = ["-std=c++17", "-O3", "--Werror", "all-warnings"]


@dataclass(frozen=True)
class Resources:
    """What ptxas reports of one kernel, bytes but for the registers of a thread."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


@functools.cache
def missing(arch: int = ARCHITECTURES[0]) -> str | None:
    """Why nothing can be compiled for this GPU here, or None."""
    if shutil.which("nvcc") is None:
        return "nvcc is not installed"
    known = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    return None if f"sm_{arch}" in known else f"this nvcc does not know sm_{arch}"


@functools.cache
def version() -> str:
    """As `nvcc 13.0`."""
    text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release (\d+\.\d+)", text)
    return f"nvcc {found[1]}" if found else text


def _compile(source: Path, arch: int, defines: tuple[str, ...], *options: str) -> subprocess.CompletedProcess[str]:
    command = ["nvcc", *_FLAGS, f"-arch=sm_{arch}", *(f"-D{define}" for define in defines), *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"nvcc on {source.name} for sm_{arch}: {done.stderr}")
    return done


@functools.cache
def ptx(source: Path, arch: int = 90, *defines: str) -> str:
    """The PTX text of a .cu file, for example ptx(path, 90, "FAULT=1")."""
    return _compile(source, arch, defines, "-ptx", "-o", "-").stdout


@functools.cache
def cubin(source: Path, arch: int = 90) -> tuple[bytes, dict[str, Resources]]:
    """The machine code of a .cu file, and what each kernel takes, by mangled name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cubin"
        report = _compile(source, arch, (), "-cubin", "-Xptxas", "-v", "-o", str(path)).stderr
        code = path.read_bytes()
    resources = {}
    for part in report.split("Compiling entry function '")[1:]:
        counts = {
            field: int(found[1]) if (found := re.search(pattern, part)) else 0
            for field, pattern in {
                "registers": r"Used (\d+) registers",
                "stack": r"(\d+) bytes stack frame",
                "spill_stores": r"(\d+) bytes spill stores",
                "spill_loads": r"(\d+) bytes spill loads",
                "shared": r"(\d+) bytes smem",
            }.items()
        }
        resources[part.partition("'")[0]] = Resources(**counts)
    return code, resources


def _cuobjdump() -> str | None:
    """CUDA's disassembler: on the path, or the one that Triton brings."""
    if found := shutil.which("cuobjdump"):
        return found
    try:
        import triton
    except ImportError:
        return None
    path = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return str(path) if path.exists() else None


def disassembly_missing(arch: int = ARCHITECTURES[0]) -> str | None:
    """Why nothing can be disassembled here, or None."""
    return missing(arch) or (None if _cuobjdump() else "no cuobjdump, neither CUDA's nor Triton's")


@functools.cache
def disassembly(source: Path, arch: int = 90) -> dict[str, str]:
    """The machine instructions of each kernel of a .cu file, by mangled name."""
    tool = _cuobjdump()
    assert tool is not None, "ask disassembly_missing() first"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin(source, arch)[0])
        file.flush()
        listing = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=True).stdout
    parts = re.split(r"\n\s*Function : (\S+)", listing)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
