"""What the compiler makes of each kernel for three GPUs: nothing spilled, wide accesses, registers as documented."""

from __future__ import annotations

import dataclasses
import re

import pytest

pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for Linux on x86-64)")

import compile_offline
import disassembly
import documented
import triton
from d2v_fast.kernels import probe
from occupancy import occupancy
from simulated import NAMES

ARCHS = [80, 90, 100]
NARROW = {"misaligned": {16, 32}, "odd": {16, 32, 64}, "target": {64, 128}}
"""Cases without a wide access, by a word of their names: addresses or rows that are not multiples of 16 bytes, and a
16-bit target, for which the loss, made for float32 targets, still takes four numbers a thread."""
SHORT = ("ema bf16", "forward bf16", "backward f32", "rows f32 K10", "merge", "restore bf16", "finish bf16 alone")
SINGLE_NUMBERS = ("attend", "queries", "keys", "norm gelu")
"""Beginnings of the names of cases that also read or write single numbers in their loops, those of a row."""
STACK = {"queries f32": 16}
"""Bytes of spilled registers at most, where there are any: of 256 threads the assembler puts four blocks on a
multiprocessor, which leaves 64 registers, rather than three without spills."""
needs_tools = pytest.mark.skipif(
    disassembly.missing_tool() is not None, reason=f"this Triton has no {disassembly.missing_tool()}"
)


@needs_tools
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHORT else pytest.mark.long) for name in NAMES]
)
def test_machine_code(name, tmp_path):
    uses, warps = [], []
    for arch in ARCHS:
        compiled = compile_offline.compile_case(name, arch)
        use = disassembly.use_of(compiled.asm["cubin"], tmp_path)
        assert (use.local, use.stack <= STACK.get(name, 0), use.spills <= STACK.get(name, 0)) == (0, True, True)
        narrow = next((widths for word, widths in NARROW.items() if word in name), None)
        # 64 bits are four 16-bit numbers, beside four float32 ones of 128.
        wide = use.widths & {64, 128} if name.startswith(SINGLE_NUMBERS) else use.widths
        assert use.widths <= narrow if narrow else 128 in wide <= {64, 128}
        uses.append(use)
        warps.append(occupancy(use.registers, compiled.metadata.num_warps, compiled.metadata.shared, arch))
    found = {
        "registers": documented.cell([use.registers for use in uses]),
        "warps": documented.cell(warps),
        "bits": documented.cell([", ".join(map(str, sorted(use.widths))) for use in uses]),
    }
    if name in compile_offline.CASES:
        documented.check("triton", name, found, f"triton {triton.__version__}")


def test_every_row_of_the_document_is_a_case():
    assert documented.Record("triton").rows.keys() == compile_offline.CASES.keys()


def test_the_kernel_that_asks_whether_triton_works_compiles():
    for arch in ARCHS:
        compiled = compile_offline.compiled(compile_offline.Case(probe.nothing, {}, {}, 1), arch)
        assert re.search(r"\.entry nothing\(", compiled.asm["ptx"])


# One of each kernel, and of each way to know the number of frames.
SIZED = ["forward bf16", "backward f32", "rows f32 K10", "statistics bf16 K8", "statistics f32 K8 lengths", "merge"]
SIZED += ["columns bf16 K8 batch", "columns f32 K8 lengths", "restore bf16", "unfinish f32", "norm gelu bf16"]
SIZED += ["norm gelu backward bf16"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in SHORT else pytest.mark.long) for n in SIZED])
def test_sizes_of_one_and_sizes_beyond_31_bits_compile(name):
    case = compile_offline.CASES[name]
    sizes = [argument for argument, kind in case.arguments.items() if kind == "i32"]
    others = {argument: kind for argument, kind in case.arguments.items() if argument not in sizes}
    # Triton makes a constant of every integer argument that is 1, which then is no tensor any more.
    constants, divisible = {**case.constants, **dict.fromkeys(sizes, 1)}, tuple({*case.divisible} - {*sizes})
    ones = dataclasses.replace(case, arguments=others, constants=constants, divisible=divisible)
    large = dataclasses.replace(case, arguments={**case.arguments, **dict.fromkeys(sizes, "i64")})
    for variant in (ones, large):
        assert ".entry" in compile_offline.compiled(variant, 90).asm["ptx"]


@needs_tools
def test_spilled_registers_are_seen(tmp_path):
    crowded = dataclasses.replace(compile_offline.CASES["columns bf16 K8"], warps=1)
    use = disassembly.use_of(compile_offline.compiled(crowded, 90).asm["cubin"], tmp_path)
    assert use.stack > 0
    assert use.spills > 0
