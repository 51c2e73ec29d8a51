"""What the compiler makes of each kernel for three GPUs: nothing spilled, wide accesses, registers as recorded."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import pytest

pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for Linux on x86-64)")

import compile_offline
import disassembly

ARCHS = [80, 90, 100]
pytestmark = pytest.mark.skipif(
    disassembly.missing_tool() is not None, reason=f"this Triton has no {disassembly.missing_tool()}"
)


class Expected(NamedTuple):
    """Registers at most, warps on a multiprocessor at least, and the widths (bits) of the accesses in the hot loop."""

    registers: int
    warps: int
    widths: set[int]


EXPECTED = {
    # 64 bits are four 16-bit numbers, beside four float32 ones of 128.
    "ema f32": Expected(32, 64, {128}),
    "ema bf16": Expected(32, 64, {64, 128}),
    "ema bf16 shadow bf16": Expected(32, 64, {64, 128}),
    "ema f16 shadow f16": Expected(32, 64, {64, 128}),
    "ema f32 misaligned": Expected(32, 64, {32}),
    # One warp is a block, of which 32 fit at most.
    "forward f32": Expected(56, 32, {128}),
    "forward bf16": Expected(56, 32, {128}),
    "forward bf16 squared rows": Expected(48, 32, {128}),
    "forward f16 no gradient": Expected(48, 32, {128}),
    "forward bf16 odd": Expected(56, 32, {16, 32}),
    "backward f32": Expected(40, 32, {128}),
    "backward bf16 rows": Expected(40, 32, {128}),
    "rows bf16 K6 final": Expected(96, 21, {128}),
    "rows f32 K10": Expected(96, 21, {128}),
    "rows bf16 K6 plain final lengths": Expected(72, 28, {64, 128}),  # no loop is left; rows and lengths are int64
    "statistics bf16 K8": Expected(64, 32, {128}),
    "statistics f32 K8 lengths": Expected(64, 32, {128}),
    "statistics bf16 K8 batch": Expected(64, 32, {128}),
    "merge": Expected(40, 32, {128}),
    "columns bf16 K8": Expected(80, 24, {128}),
    "columns f32 K8 lengths": Expected(104, 16, {128}),
    "columns bf16 K10 final": Expected(112, 16, {64, 128}),  # two statistics for each thread
    "columns bf16 K8 batch": Expected(80, 24, {128}),
}


def test_every_case_has_its_record():
    assert EXPECTED.keys() == compile_offline.CASES.keys()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", EXPECTED)
def test_machine_code(name, arch, tmp_path):
    compiled = compile_offline.compile_case(name, arch)
    use = disassembly.use_of(compiled.asm["cubin"], tmp_path)
    assert (use.stack, use.local, use.spills) == (0, 0, 0)
    expected = EXPECTED[name]
    assert use.widths == expected.widths
    assert use.registers <= expected.registers
    assert disassembly.occupancy(use, compiled.metadata.num_warps, compiled.metadata.shared, arch) >= expected.warps


# One of each kernel, and of each way to know the number of frames.
SIZED = ["forward bf16", "backward f32", "rows f32 K10", "statistics bf16 K8", "statistics f32 K8 lengths", "merge"]
SIZED += ["columns bf16 K8 batch", "columns f32 K8 lengths"]


@pytest.mark.parametrize("name", SIZED)
def test_sizes_of_one_and_sizes_beyond_31_bits_compile(name):
    case = compile_offline.CASES[name]
    sizes = [argument for argument, kind in case.arguments.items() if kind == "i32"]
    others = {argument: kind for argument, kind in case.arguments.items() if argument not in sizes}
    # Triton makes a constant of every integer argument that is 1, which then is no tensor any more.
    ones = dataclasses.replace(case, arguments=others, constants={**case.constants, **dict.fromkeys(sizes, 1)})
    large = dataclasses.replace(case, arguments={**case.arguments, **dict.fromkeys(sizes, "i64")})
    for variant in (ones, large):
        assert ".entry" in compile_offline.compiled(variant, 90).asm["ptx"]


def test_spilled_registers_are_seen(tmp_path):
    crowded = dataclasses.replace(compile_offline.CASES["columns bf16 K8"], warps=1)
    use = disassembly.use_of(compile_offline.compiled(crowded, 90).asm["cubin"], tmp_path)
    assert use.stack > 0
    assert use.spills > 0


def test_occupancy_by_hand():
    use = disassembly.Use(registers=33, stack=0, local=0, spills=0, widths=frozenset())
    # 40 registers for each thread, 10 kB for 8 warps: 6 blocks of 8 warps in 64 k registers.
    assert disassembly.occupancy(use, 8, 0, 90) == 48
    assert disassembly.occupancy(use, 8, (57 << 10) - 1024, 90) == 32
    assert disassembly.occupancy(use._replace(registers=16), 1, 0, 90) == 32
