"""Builds CUDA C++ for the CPU with the simulator in cuda_cpu/: plain, or under a sanitizer."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from pathlib import Path

SIMULATOR = Path(__file__).parent / "cuda_cpu"
ROOT = Path(__file__).parents[2]

# Name of a form -> its options. The kernels read one memory through several types, as nvcc lets them.
FORMS = {
    "plain": ["-O1"],
    "ucontext": ["-O1", "-DCUDA_CPU_UCONTEXT"],
    "address": ["-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-O1", "-g", "-fsanitize=thread"],
    "library": ["-O1", "-fPIC", "-shared"],
}
_COMMON = ["-x", "c++", "-std=c++17", "-DD2V_CUDA_CPU", "-fno-strict-aliasing", "-ffp-contract=off"]
_WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
_LIBRARIES = {"address": ("asan", "ubsan"), "thread": ("tsan",)}


@functools.cache
def compiler() -> str | None:
    """GCC's g++, if it is here: the simulator knows that compiler's sanitizers."""
    name = shutil.which("g++")
    if name is None or platform.system() != "Linux":
        return None
    macros = [name, "-dM", "-E", "-x", "c++", os.devnull]
    is_clang = "__clang__" in subprocess.run(macros, capture_output=True, text=True, check=True).stdout
    return None if is_clang else name


class Builder:
    """Programs and libraries in one folder; each is built once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: dict[tuple[str, tuple[Path, ...]], Path] = {}
        self._missing: dict[str, str | None] = {}

    def missing(self, form: str) -> str | None:
        """Why nothing can be built in this form here, or None."""
        if form not in self._missing:
            self._missing[form] = self._look_for(form)
        return self._missing[form]

    def _look_for(self, form: str) -> str | None:
        name = compiler()
        if name is None:
            return "no g++ of GCC on Linux to build the CUDA kernels for the CPU"
        for library in _LIBRARIES.get(form, ()):
            # The compiler answers with a whole path when it has the library.
            answer = [name, f"-print-file-name=lib{library}.so"]
            path = subprocess.run(answer, capture_output=True, text=True, check=True).stdout.strip()
            if not Path(path).is_absolute():
                return f"{name} has no lib{library}"
        if form in _LIBRARIES:
            source = self._folder / "empty.cpp"
            source.write_text("int main() { return 0; }\n")
            done = run(self.build(form, [source]))
            if done.returncode:
                return f"programs with {FORMS[form][-1]} do not run here: {done.stderr.strip()[:200]}"
        return None

    def build(self, form: str, sources: list[Path], include: Path = ROOT / "csrc") -> Path:
        """Compiles and links the sources.

        Args:
            form: a key of FORMS.
            sources: .cu and .cpp files.
            include: where the project's headers are; a changed copy for a planted fault.

        Returns:
            The program, or the shared library.
        """
        key = (form, tuple(sources))
        if key not in self._built:
            target = self._folder / f"{sources[-1].stem}.{form}.{len(self._built)}"
            command = [compiler() or "g++", *_COMMON, *_WARNINGS, *FORMS[form], f"-I{SIMULATOR}", f"-I{include}"]
            done = subprocess.run([*command, *sources, "-o", target], capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            self._built[key] = target
        return self._built[key]


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a built program; sanitizers report the first error and end it."""
    options = {
        "TSAN_OPTIONS": "halt_on_error=1 exitcode=66 report_thread_leaks=0 history_size=0",
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    return subprocess.run(
        [program, *arguments], env={**os.environ, **options}, capture_output=True, text=True, timeout=300
    )
