"""Installs d2v_fast in every form a user may choose and checks each: `python python_tests/packaging/check_forms.py`.

Run it with the Python of an environment that already holds the run-time dependencies: each form gets an environment of
its own that borrows them, so that only d2v_fast itself is built and installed. Works on copies of the committed tree,
and needs a package index for the build requirements. The plain `pip install .` is not among them: the README's commands
are that. Prints one line per check; exit status 1 if one fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
import d2v_fast, d2v_fast.kernels, torch
from d2v_fast import _C, Data2VecTrainer, ops
t, s = [torch.zeros(5)], [torch.ones(5)]
ops.ema_update_(t, s, 0.5)
assert t[0].tolist() == [0.5] * 5
ops.backends()
parts = [_C.__file__, d2v_fast.kernels.__file__]
if not _C.cuda.startswith("not built"):
    from d2v_fast import _cuda  # loads on machines without a driver too
    parts.append(_cuda.__file__)
print(_C.cuda)
print(" | ".join(parts))
"""
OLD_NVCC = """#!/bin/sh
case "$1" in --list-gpu-code) {nvcc} "$@" | grep -v sm_1;; *) exec {nvcc} "$@";; esac
"""
BROKEN_NVCC = """#!/bin/sh
case "$1" in --list-gpu-code) exec {nvcc} "$@";; esac
echo '#error -- unsupported GNU version! "gcc" later than 15; $(are) %not% supported \\' >&2
exit 2
"""


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, text=True, capture_output=True, check=False
    )


def must(result: subprocess.CompletedProcess[str]) -> str:
    if result.returncode:
        raise RuntimeError(f"{' '.join(result.args)} failed:\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}")
    return result.stdout


def fresh_environment(folder: Path) -> Path:
    """A virtual environment that sees this one's packages behind its own, all but d2v_fast, which will be installed."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    own = must(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=folder)).strip()
    borrowed = folder / "borrowed"
    borrowed.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "d2v_fast" not in entry.name:
            (borrowed / entry.name).symlink_to(entry)
    (Path(own) / "borrowed.pth").write_text(f"{borrowed}\n")
    return python


def probe(python: Path, cwd: Path, inside: Path) -> tuple[str, list[str]]:
    """Imports the package outside its source tree: what is said of CUDA, and where its compiled parts came from."""
    cuda, where = must(run(python, "-c", PROBE, cwd=cwd)).strip().splitlines()[-2:]
    parts = where.split(" | ")
    if any(not Path(part).resolve().is_relative_to(inside.resolve()) for part in parts):
        raise RuntimeError(f"expected the package in {inside}, found {where}")
    return cuda, parts


def fake_nvcc(folder: Path, text: str) -> Path:
    """A script in the place of nvcc, which stands for the real one as {nvcc} in its text."""
    script = folder / "nvcc"
    script.write_text(text.replace("{nvcc}", shutil.which("nvcc") or "false"))
    script.chmod(0o755)
    return script


def check_source_tree_without_build(tree: Path, scratch: Path) -> str:
    result = run(fresh_environment(scratch / "unbuilt"), "-c", "import d2v_fast", cwd=tree)
    if result.returncode == 0 or "pip install ." not in result.stderr:
        raise RuntimeError(f"importing the unbuilt source tree should name the remedy, got:\n{result.stderr}")
    return result.stderr.strip().splitlines()[-1]


def check_no_compiler(tree: Path, scratch: Path) -> str:
    tools = scratch / "tools"  # a PATH with Python and the commands pip needs, but no compiler
    tools.mkdir()
    for name in ("env", "sh", "uname", "sed", "cat"):
        if path := shutil.which(name):
            (tools / name).symlink_to(path)
    env = {k: v for k, v in os.environ.items() if k not in ("CXX", "CC")} | {"PATH": str(tools)}
    python = fresh_environment(scratch / "no-compiler")
    result = run(python, "-m", "pip", "install", "--no-deps", tree, cwd=scratch, env=env)
    output = result.stdout + result.stderr
    if result.returncode == 0 or "needs a C++17 compiler" not in output:
        raise RuntimeError(f"an installation without a compiler should say what to install, got:\n{output[-3000:]}")
    return next(line.strip() for line in output.splitlines() if "needs a C++17 compiler" in line)


def check_sdist_then_wheel(tree: Path, scratch: Path) -> str:
    python = fresh_environment(scratch / "sdist")
    must(run(python, "-m", "pip", "install", "build", cwd=scratch))
    must(run(python, "-m", "build", "--sdist", "--outdir", scratch / "dist", tree, cwd=scratch))
    (sdist,) = (scratch / "dist").glob("*.tar.gz")
    start = time.monotonic()
    must(run(python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", scratch / "dist", sdist, cwd=scratch))
    seconds = time.monotonic() - start
    (wheel,) = (scratch / "dist").glob("*.whl")
    size = wheel.stat().st_size / 1e6
    if size > 5:
        raise RuntimeError(f"the wheel has {size:.1f} MB, more than 5")
    must(run(python, "-m", "pip", "install", "--no-deps", wheel, cwd=scratch))
    cuda, parts = probe(python, scratch, scratch / "sdist")
    if shutil.which("nvcc") and cuda.startswith("not built"):
        raise RuntimeError(f"there is an nvcc, but CUDA is {cuda}")
    for module in (part for part in parts if part.endswith(".so")):
        symbols = must(run("nm", "-D", "--undefined-only", module, cwd=scratch))
        alien = [line.split()[-1] for line in symbols.splitlines() if "c10" in line or "torch" in line]
        if alien:
            raise RuntimeError(f"{module} refers to torch symbols: {alien[:5]}")
    built = f"built from the sdist in {seconds:.0f} s with an isolated build environment"
    return f"wheel {size:.2f} MB without a torch symbol, {built}; {cuda}"


def check_editable(tree: Path, scratch: Path) -> str:
    python = fresh_environment(scratch / "editable")
    # An nvcc that does not work, as with a host compiler too new for it, costs the CUDA kernels and nothing else.
    env = os.environ | {"CUDACXX": str(fake_nvcc(scratch, BROKEN_NVCC))}
    must(run(python, "-m", "pip", "install", "--no-deps", "-e", tree, cwd=scratch, env=env))
    cuda, parts = probe(python, scratch, tree)
    if not cuda.startswith("not built: ") or "unsupported GNU version!" not in cuda:
        raise RuntimeError(f"nvcc does not work, but CUDA is {cuda}")
    return f"{parts[0]}; CUDA {cuda}"


def check_cuda_choices(tree: Path, scratch: Path) -> str:
    """What CMake decides about CUDA, without building anything."""
    python = fresh_environment(scratch / "choices")
    must(run(python, "-m", "pip", "install", "--ignore-installed", "cmake", "ninja", "pybind11", cwd=scratch))
    pybind11 = must(run(python, "-m", "pybind11", "--cmakedir", cwd=scratch)).strip()
    old_nvcc = fake_nvcc(scratch, OLD_NVCC)

    def configured(name: str, *options: str, **environment: str) -> str:
        command = [python.parent / "cmake", "-G", "Ninja", "-S", tree, "-B", scratch / name, *options]
        command += [f"-Dpybind11_DIR={pybind11}", f"-DPython_EXECUTABLE={python}"]
        env = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"} | environment
        output = must(run(*command, cwd=scratch, env=env))
        said = next(line for line in output.splitlines() if "d2v_fast CUDA kernels: " in line)
        return said.partition("kernels: ")[2] + (
            "" if "/_cuda." in (scratch / name / "build.ninja").read_text() else " -"
        )

    for name, expected, said in (
        ("off", "D2V_FAST_CUDA=off was set", configured("off", D2V_FAST_CUDA="off")),
        ("none", "there was no nvcc", configured("none", "-DD2V_NVCC=")),
    ):
        if not said.startswith("not built: ") or expected not in said or not said.endswith(" -"):
            raise RuntimeError(f"with nvcc {name}: {said}")
    if shutil.which("nvcc") is None:
        return "switched off, no nvcc (which is not installed here)"
    said = configured("old", CUDACXX=str(old_nvcc))
    if "sm_80, sm_90, and PTX" not in said or said.endswith(" -"):
        raise RuntimeError(f"with an nvcc that knows no GPU after sm_90: {said}")
    return "switched off, no nvcc, an older nvcc"


CHECKS: tuple[Callable[[Path, Path], str], ...] = (
    check_sdist_then_wheel,  # the longest first
    check_source_tree_without_build,
    check_no_compiler,
    check_editable,
    check_cuda_choices,
)


def report(check: Callable[[Path, Path], str], scratch: Path, archive: bytes) -> bool:
    """Runs one check in a folder and on a tree of its own, and prints its line: whether it passed."""
    tree = scratch / "tree"
    tree.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", tree], input=archive, check=True)
    name = check.__name__.removeprefix("check_").replace("_", " ")
    try:
        print(f"ok    {name}: {check(tree, scratch)}", flush=True)
    except (RuntimeError, ValueError, StopIteration) as error:
        print(f"FAIL  {name}: {error}", flush=True)
        return False
    return True


def main() -> int:
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    # Side by side: their processes use one core most of the time.
    with tempfile.TemporaryDirectory(prefix="d2v-forms-") as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        passed = list(pool.map(lambda check: report(check, Path(folder) / check.__name__, archive), CHECKS))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
