"""Compiles a Triton kernel for a GPU that is not there, as the launcher would specialise it there."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from d2v_fast.kernels import (
    adamw_ema,
    decoder_layer,
    distance_attention,
    ema,
    launch,
    layer_targets,
    norm_gelu,
    restore,
    smooth_l1,
)
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

FORMATS = {"f32": tl.float32, "bf16": tl.bfloat16, "f16": tl.float16}


@dataclass(frozen=True, eq=False)
class Case:
    """A kernel with all that its compiler is told.

    `arguments`: name -> Triton type, or a tuple of them; `constants`: name -> value, None for an argument that is not
    passed. Addresses, and the arguments named in `divisible`, are multiples of 16: the launcher's usual case, which
    Triton finds by looking at the values.
    """

    kernel: Any
    arguments: dict[str, Any]
    constants: dict[str, Any]
    warps: int
    divisible: tuple[str, ...] = ()
    simulated_for: int = 90
    """The GPU whose PTX is executed by default: 80 where that of newer ones multiplies by instructions that the
    simulator has not (wgmma, tcgen05)."""


def ema_case(student: str, shadow: str | None, *, aligned: bool = True) -> Case:
    constants = {
        "STUDENT": FORMATS[student],
        "SHADOW": None if shadow is None else FORMATS[shadow],
        "ALIGNED": aligned,
        "BLOCK": launch.EMA_BLOCK,
    }
    return Case(ema.ema_update, {"table": "*i64", "decay": "*fp64"}, constants, launch.EMA_WARPS)


def adamw_case(shadow: str | None, *, aligned: bool = True) -> Case:
    """With a teacher; `shadow` is the format of both shadows."""
    arguments = {"rows": "*i64", "chunks": "*i64", "gradient_scale": "*fp32", "found_inf": "*fp32", "decay": "*fp64"}
    arguments |= dict.fromkeys(("first", "first_weight", "second", "second_weight", "eps"), "fp32")
    kind = None if shadow is None else FORMATS[shadow]
    constants = {"TEACHER": True, "SHADOW": kind, "TEACHER_SHADOW": kind, "ALIGNED": aligned, "BLOCK": launch.EMA_BLOCK}
    return Case(adamw_ema.adamw_ema, arguments, constants, launch.EMA_WARPS)


def forward_case(
    pred: str,
    *,
    target: str = "f32",
    beta: float = 1.0,
    rows: bool = False,
    gradient: bool = True,
    odd: bool = False,
) -> Case:
    arguments = {"pred": f"*{_name(pred)}", "target": f"*{_name(target)}", "losses": "*fp32", "channels": "i32"}
    arguments |= dict.fromkeys(("beta", "inverse_beta", "scale", "factor"), "fp32")
    tile = launch.smooth_l1_block()
    constants = {"SQUARED": beta == 0, "BLOCK": tile.channels}
    _optional(arguments, constants, rows="*i64" if rows else None, gradient=f"*{_name(pred)}" if gradient else None)
    return Case(smooth_l1.smooth_l1_forward, arguments, constants, tile.warps, () if odd else ("channels",))


def backward_case(pred: str, *, rows: bool = False, per_row: bool = False) -> Case:
    arguments = {"gradient": f"*{_name(pred)}", "incoming": "*fp32", "out": f"*{_name(pred)}"}
    arguments |= {"channels": "i32", "factor": "fp32"}
    tile = launch.smooth_l1_backward_block(768)
    constants = {"PER_ROW": per_row, "BLOCK": tile.channels}
    _optional(arguments, constants, rows="*i64" if rows else None)
    return Case(smooth_l1.smooth_l1_backward, arguments, constants, tile.warps, ("channels",))


_STRIDES = ("sample_stride", "frame_stride")


def _layers(dtype: str, count: int, lengths: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments and constants that all kernels of the layers share."""
    arguments: dict[str, Any] = {"layers": (f"*{_name(dtype)}",) * count, "frames": "i32", "channels": "i32"}
    arguments |= {"sample_stride": "i32", "frame_stride": "i32", "eps": "fp32"}
    constants: dict[str, Any] = {}
    _optional(arguments, constants, lengths="*i64" if lengths else None)
    return arguments, constants


def rows_case(
    dtype: str,
    count: int,
    *,
    layer_norm: bool = True,
    final_norm: bool = False,
    channels: int = 768,
    rows: bool = True,
    lengths: bool = False,
) -> Case:
    arguments, constants = _layers(dtype, count, lengths)
    tile = launch.row_tile(channels)
    constants |= {"LAYER_NORM": layer_norm, "FINAL_NORM": final_norm, "BLOCK": tile.channels}
    arguments["out"] = "*fp32"
    _optional(arguments, constants, rows="*i64" if rows else None)
    return Case(layer_targets.row_targets, arguments, constants, tile.warps, ("channels", *_STRIDES))


def statistics_case(dtype: str, count: int, *, instance: bool = True, lengths: bool = False) -> Case:
    arguments, constants = _layers(dtype, count, lengths)
    tile = launch.statistics_tile()
    constants |= {"INSTANCE": instance, "FRAMES": tile.rows, "BLOCK": tile.channels}
    arguments |= {"means": "*fp32", "scales": "*fp32"}
    return Case(layer_targets.column_statistics, arguments, constants, tile.warps, ("channels", *_STRIDES))


def merge_case(*, lengths: bool = False) -> Case:
    arguments = {"means": "*fp32", "scales": "*fp32", "batch": "i32", "frames": "i32", "channels": "i32", "eps": "fp32"}
    tile = launch.merge_tile()
    constants: dict[str, Any] = {"BLOCK": tile.channels}
    _optional(arguments, constants, lengths="*i64" if lengths else None)
    return Case(layer_targets.merge_samples, arguments, constants, tile.warps, ("channels",))


def columns_case(
    dtype: str, count: int, *, instance: bool = True, final_norm: bool = False, rows: bool = True, lengths: bool = False
) -> Case:
    arguments, constants = _layers(dtype, count, lengths)
    tile = launch.column_tile(768, final_norm=final_norm)
    constants |= {"INSTANCE": instance, "FINAL_NORM": final_norm, "ROWS": tile.rows, "BLOCK": tile.channels}
    arguments |= {"means": "*fp32", "scales": "*fp32", "out": "*fp32", "count": "i32", "batch": "i32"}
    _optional(arguments, constants, rows="*i64" if rows else None)
    return Case(layer_targets.column_targets, arguments, constants, tile.warps, ("channels", *_STRIDES))


def restore_case(dtype: str, *, odd: bool = False) -> Case:
    arguments = dict.fromkeys(("tokens", "noise", "out"), f"*{_name(dtype)}") | {"kept": "*i64"}
    arguments |= dict.fromkeys(("places", "count", "channels"), "i32")
    tile = launch.restore_tile()
    constants = {"HALVINGS": RESTORE_HALVINGS, "ROWS": tile.rows, "BLOCK": tile.channels}
    return Case(restore.restore, arguments, constants, tile.warps, () if odd else ("channels",))


def finish_case(dtype: str, *, residual: bool = True, channels: int = 768) -> Case:
    arguments = dict.fromkeys(("z", "y"), f"*{_name(dtype)}") | {"channels": "i32", "eps": "fp32"}
    tile = launch.row_tile(channels)
    constants: dict[str, Any] = {"BLOCK": tile.channels}
    _optional(arguments, constants, x=f"*{_name(dtype)}" if residual else None)
    return Case(decoder_layer.finish, arguments, constants, tile.warps, ("channels",))


def unfinish_case(dtype: str, *, channels: int = 768) -> Case:
    arguments = dict.fromkeys(("z", "gradient", "of_z"), f"*{_name(dtype)}") | {"channels": "i32", "eps": "fp32"}
    tile = launch.row_tile(channels)
    return Case(decoder_layer.unfinish, arguments, {"BLOCK": tile.channels}, tile.warps, ("channels",))


def norm_gelu_case(dtype: str, *, parameters: str = "f32", backward: bool = False, channels: int = 512) -> Case:
    own = ("x", "gradient", "of_x") if backward else ("x", "y")
    arguments = dict.fromkeys(own, f"*{_name(dtype)}") | dict.fromkeys(("weight", "bias"), f"*{_name(parameters)}")
    arguments |= dict.fromkeys(("means", "scales", *(["sums"] if backward else [])), "*fp32")
    arguments |= dict.fromkeys(("rows", "channels", "share"), "i32") | ({} if backward else {"eps": "fp32"})
    tile = launch.norm_gelu_tile(channels)
    kernel = norm_gelu.norm_gelu_backward if backward else norm_gelu.norm_gelu
    return Case(kernel, arguments, {"BLOCK": tile.channels}, tile.warps, ("channels", "share"))


_ATTENTION = {
    "attend": (distance_attention.attend, ("out",), ("logs",)),
    "queries": (distance_attention.attend_backward_queries, ("gradient", "of_query"), ("logs", "means", "of_factors")),
    "keys": (distance_attention.attend_backward_keys, ("gradient", "of_key", "of_value"), ("logs", "means")),
}


def attention_case(which: str, dtype: str, *, dim: int = 64, dropout: bool = False) -> Case:
    """With `dropout`, also with keys that are not to be seen."""
    kernel, own, single = _ATTENTION[which]
    strides = [f"{name}_{what}" for name in ("query", "key", "value") for what in ("stride", "head")]
    arguments = dict.fromkeys(("query", "key", "value", *own), f"*{_name(dtype)}")
    arguments |= dict.fromkeys(("factors", *single), "*fp32") | {"starts": "*i32", "positions": "*i64"}
    arguments |= dict.fromkeys(("tokens", "dim", *strides), "i32") | {"scale": "fp32", "limit": "i64", "kept": "fp32"}
    tile = launch.attention_tile({"f32": 4}.get(dtype, 2), dim)
    constants: dict[str, Any] = {"QUERIES": tile.queries, "KEYS": tile.keys, "BLOCK": tile.channels}
    _optional(arguments, constants, visible="*u8" if dropout else None, seed="*i64" if dropout else None)
    simulated_for = 90 if dtype == "f32" else 80
    return Case(kernel, arguments, constants, tile.warps, ("dim", *strides), simulated_for)


def _name(dtype: str) -> str:
    """Triton's name of a number format in a signature."""
    return {"f32": "fp32", "f16": "fp16"}.get(dtype, dtype)


def _optional(arguments: dict[str, Any], constants: dict[str, Any], **given: str | None) -> None:
    """Sorts arguments that may be None: Triton then takes them for constants."""
    for name, kind in given.items():
        if kind is None:
            constants[name] = None
        else:
            arguments[name] = kind


RESTORE_HALVINGS = 8
"""For up to 255 kept tokens."""
_SHADOWS = (("bf16", "bf16"), ("f16", "f16"))
CASES = {
    "ema f32": ema_case("f32", None),
    "ema f32 misaligned": ema_case("f32", None, aligned=False),
    "ema bf16": ema_case("bf16", None),
    **{f"ema {x} shadow {y}": ema_case(x, y) for x, y in _SHADOWS},
    "adamw f32": adamw_case(None),
    "adamw f32 misaligned": adamw_case(None, aligned=False),
    "adamw shadows bf16": adamw_case("bf16"),
    "forward f32": forward_case("f32"),
    "forward bf16": forward_case("bf16"),
    "forward bf16 squared rows": forward_case("bf16", beta=0, rows=True),
    "forward f16 no gradient": forward_case("f16", gradient=False),
    "forward bf16 odd": forward_case("bf16", odd=True),
    "backward f32": backward_case("f32"),
    "backward bf16 rows": backward_case("bf16", rows=True, per_row=True),
    "rows bf16 K6 final": rows_case("bf16", 6, final_norm=True),
    "rows f32 K10": rows_case("f32", 10),
    "rows bf16 K6 plain final lengths": rows_case("bf16", 6, layer_norm=False, final_norm=True, lengths=True),
    "statistics bf16 K8": statistics_case("bf16", 8),
    "statistics f32 K8 lengths": statistics_case("f32", 8, lengths=True),
    "statistics bf16 K8 batch": statistics_case("bf16", 8, instance=False),
    "merge": merge_case(),
    "columns bf16 K8": columns_case("bf16", 8),
    "columns f32 K8 lengths": columns_case("f32", 8, lengths=True),
    "columns bf16 K10 final": columns_case("bf16", 10, final_norm=True),
    "columns bf16 K8 batch": columns_case("bf16", 8, instance=False),
    "restore f32": restore_case("f32"),
    "restore bf16": restore_case("bf16"),
    "restore f32 odd": restore_case("f32", odd=True),
    "finish f32": finish_case("f32"),
    "finish bf16 alone": finish_case("bf16", residual=False),
    "unfinish f32": unfinish_case("f32"),
    "unfinish bf16": unfinish_case("bf16"),
    "norm gelu f32": norm_gelu_case("f32"),
    "norm gelu bf16": norm_gelu_case("bf16"),
    "norm gelu backward f32": norm_gelu_case("f32", backward=True),
    "norm gelu backward bf16": norm_gelu_case("bf16", backward=True),
    **{f"{which} f32": attention_case(which, "f32") for which in _ATTENTION},
    **{f"{which} bf16 dropout": attention_case(which, "bf16", dropout=True) for which in _ATTENTION},
}


FURTHER_CASES = {
    **{f"ema {x} shadow {y}": ema_case(x, y) for x in FORMATS for y in FORMATS if (x, y) not in _SHADOWS},
    "ema f16": ema_case("f16", None),
    "ema bf16 shadow bf16 misaligned": ema_case("bf16", "bf16", aligned=False),
    "ema f16 misaligned": ema_case("f16", None, aligned=False),
    **{f"forward {x} target {y}": forward_case(x, target=y) for x in FORMATS for y in ("bf16", "f16")},
    "forward f32 squared": forward_case("f32", beta=0),
    "forward f16 rows": forward_case("f16", rows=True),
    "forward f32 odd": forward_case("f32", odd=True),
    "backward f16 rows": backward_case("f16", rows=True),
    "backward bf16": backward_case("bf16", per_row=True),
    **{f"rows {x} K8": rows_case(x, 8) for x in ("bf16", "f16")},
    "rows f16 K12 plain": rows_case("f16", 12, layer_norm=False),
    "rows f32 K1 final all lengths": rows_case("f32", 1, final_norm=True, rows=False, lengths=True),
    **{f"statistics {x} K8": statistics_case(x, 8) for x in ("f32", "f16")},
    "statistics f16 K8 batch lengths": statistics_case("f16", 8, instance=False, lengths=True),
    "merge lengths": merge_case(lengths=True),
    **{f"columns {x} K8": columns_case(x, 8) for x in ("f32", "f16")},
    "columns f16 K12 batch final": columns_case("f16", 12, instance=False, final_norm=True),
    "columns bf16 K1 all": columns_case("bf16", 1, rows=False),
    "columns f32 K8 batch lengths": columns_case("f32", 8, instance=False, lengths=True),
    "finish f16": finish_case("f16"),
    "finish f32 wide": finish_case("f32", channels=launch.LARGEST_ROW),
    "unfinish f32 wide": unfinish_case("f32", channels=launch.LARGEST_ROW),
    "norm gelu f16 alike": norm_gelu_case("f16", parameters="f16"),
    "norm gelu backward f16 alike": norm_gelu_case("f16", parameters="f16", backward=True),
    "norm gelu backward bf16 1024": norm_gelu_case("bf16", backward=True, channels=1024),
    "norm gelu backward f32 wide": norm_gelu_case("f32", backward=True, channels=launch.LARGEST_AFFINE_ROW),
    **{f"{which} bf16": attention_case(which, "bf16") for which in _ATTENTION},
    **{f"{which} f32 dropout": attention_case(which, "f32", dropout=True) for which in _ATTENTION},
    **{f"{which} {dtype} 128": attention_case(which, dtype, dim=128) for which in _ATTENTION for dtype in FORMATS},
}
"""More formats and options, for D2V_FAST_SIMULATE=all."""


def case_named(name: str) -> Case:
    return CASES[name] if name in CASES else FURTHER_CASES[name]


@functools.cache
def compile_case(name: str, arch: int) -> Any:
    """Triton's compiled kernel of a case for sm_<arch>; see `compiled`."""
    return compiled(case_named(name), arch)


def compiled(case: Case, arch: int) -> Any:
    """Triton's compiled kernel for sm_<arch>.

    `.asm["ptx"]`, `.asm["cubin"]`; `.metadata.shared` bytes, `.metadata.num_warps`. The PTX takes the arguments that
    are not constants, in the kernel's order, tuples spread out, then two more pointers (0, 0) for scratch memory that
    these kernels do not use.
    """
    signature = {name: case.arguments.get(name, "constexpr") for name in case.kernel.arg_names}
    places: list[tuple[int, ...]] = []
    for index, (name, kind) in enumerate(signature.items()):
        if isinstance(kind, tuple):
            places += [(index, place) for place in range(len(kind))]
        elif kind.startswith("*") or name in case.divisible:
            places.append((index,))
    source = ASTSource(
        fn=case.kernel,
        signature=signature,
        constexprs=case.constants,
        attrs={place: [["tt.divisibility", 16]] for place in places},
    )
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": case.warps})
