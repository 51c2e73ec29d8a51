"""The built extension itself: every function keeps to its instruction set, and nothing of torch is in it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from d2v_fast import _C

needs = {
    tool: pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} (binutils) is not installed")
    for tool in ("objdump", "nm")
}


@pytest.fixture(scope="module")
def functions() -> dict[str, dict[str, str]]:
    """Instruction set -> function -> its disassembly, for the functions in namespace d2v::<instruction set>."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", "--demangle", _C.__file__], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, dict[str, str]] = {}
    for name, body in re.findall(r"^[0-9a-f]+ <(.*)>:\n((?:.+\n)*)", text, flags=re.MULTILINE):
        space = re.search(r"\bd2v::(baseline|avx2|avx512|avx512bf16)::", name)
        if space:
            found.setdefault(space[1], {})[name] = body
    return found


@needs["objdump"]
def test_every_instruction_set_is_there(functions):
    assert set(functions) == {name.strip() for name in _C.instruction_sets.split(",")}
    for names in functions.values():
        for operation in ("ema", "smooth_l1", "layer_targets", "streaming_copy"):
            assert any(operation in name for name in names), f"no code of {operation}"


@needs["objdump"]
def test_registers_are_those_of_the_instruction_set(functions):
    if "avx2" not in functions:
        pytest.skip("not an x86 build")
    code = {isa: "".join(bodies.values()) for isa, bodies in functions.items()}
    assert "%xmm" in code["baseline"]
    assert "%ymm" not in code["baseline"]
    assert "%zmm" not in code["baseline"]
    assert not re.search(r"\sv[a-z0-9]+ps\s", code["baseline"]), "no VEX instruction at all"
    assert "%ymm" in code["avx2"]
    assert "%zmm" not in code["avx2"]
    assert "%k1" not in code["avx2"], "no AVX-512 mask register"
    assert "%zmm" in code["avx512"]
    assert "vdpbf16ps" not in code["avx512"]
    assert "vdpbf16ps" in code["avx512bf16"]


@needs["objdump"]
def test_the_loops_are_vector_code(functions):
    """Not only some instruction somewhere: each float loop has fused multiply-adds on the widest registers."""
    kernels = {"ema": r"\bupdate<float>", "smooth_l1": r"visit_row<float>", "layer_targets": r"target|column|tile"}
    for isa, register in (("avx2", "%ymm"), ("avx512", "%zmm")):
        if isa not in functions:
            continue
        for operation, names in kernels.items():
            code = "".join(body for name, body in functions[isa].items() if re.search(names, name))
            assert re.search(rf"vfn?m(add|sub)[0-9]+ps .*{register}", code), f"{operation} in {isa}"


@needs["nm"]
def test_no_symbol_of_torch():
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", _C.__file__], capture_output=True, text=True, check=True
    ).stdout
    assert "omp_" in symbols.lower() or "GOMP" in symbols, "the list is the right one"
    wrong = [line for line in symbols.splitlines() if re.search(r"c10|torch|_ZN2at|aoti", line)]
    assert wrong == []


@needs["nm"]
def test_nothing_but_the_module_is_exported():
    """Standard library templates compiled with AVX-512 flags must not become the copy that another library uses."""
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", "--demangle", _C.__file__], capture_output=True, text=True, check=True
    ).stdout
    assert "PyInit__C" in symbols
    assert [line for line in symbols.splitlines() if "d2v::" in line] == []
