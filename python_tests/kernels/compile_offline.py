"""Compiles a Triton kernel for a GPU that is not there, as the launcher would specialise it there."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import triton
import triton.language as tl
from d2v_fast.kernels import ema
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

FORMATS = {"f32": tl.float32, "bf16": tl.bfloat16, "f16": tl.float16}


@dataclass(frozen=True)
class Case:
    """A kernel with all that its compiler is told.

    `signature`: argument name -> Triton type, "constexpr" for constants; `aligned`: arguments that the launcher finds
    to be multiples of 16 (addresses and sizes), which is how Triton specialises a launch.
    """

    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    warps: int
    aligned: tuple[str, ...] = field(default=())


def ema_case(student: str, shadow: str | None, *, aligned: bool = True) -> Case:
    constants = {
        "STUDENT": FORMATS[student],
        "SHADOW": None if shadow is None else FORMATS[shadow],
        "ALIGNED": aligned,
        "BLOCK": 1024,
    }
    return Case(ema.ema_update, {"table": "*i64", "decay": "*fp64"}, constants, 8, ("table", "decay"))


CASES = {
    "ema f32": ema_case("f32", None),
    "ema f32 misaligned": ema_case("f32", None, aligned=False),
    "ema bf16": ema_case("bf16", None),
    "ema bf16 shadow bf16": ema_case("bf16", "bf16"),
    "ema f16 shadow f16": ema_case("f16", "f16"),
}


@functools.cache
def compile_case(name: str, arch: int) -> Any:
    """Triton's compiled kernel of `CASES[name]` for sm_<arch>.

    `.asm["ptx"]`, `.asm["cubin"]`; `.metadata.shared` bytes, `.metadata.num_warps`. The PTX takes the arguments that
    are not constants, in order, then two more pointers (0, 0) for scratch memory that these kernels do not use.
    """
    case = CASES[name]
    names = case.kernel.arg_names
    source = ASTSource(
        fn=case.kernel,
        signature={**case.signature, **dict.fromkeys(case.constants, "constexpr")},
        constexprs=case.constants,
        attrs={(names.index(argument),): [["tt.divisibility", 16]] for argument in case.aligned},
    )
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": case.warps})
