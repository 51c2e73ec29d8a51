"""The operations of data2vec as plain functions on tensors; `backends()` says which code serves them."""

from d2v_fast.ops._library import Backend, backends
from d2v_fast.ops.adamw_ema import adamw_ema_
from d2v_fast.ops.attention import attention
from d2v_fast.ops.decoder_layer import decoder_layer
from d2v_fast.ops.ema import ema_update_
from d2v_fast.ops.front_layer import front_layer
from d2v_fast.ops.layer_targets import layer_targets
from d2v_fast.ops.linear import linear
from d2v_fast.ops.norm_gelu import norm_gelu
from d2v_fast.ops.recomputed import gelu_linear
from d2v_fast.ops.restore import restore
from d2v_fast.ops.smooth_l1 import masked_smooth_l1
from d2v_fast.ops.strided_convolution import strided_convolution

__all__ = [
    "Backend",
    "adamw_ema_",
    "attention",
    "backends",
    "decoder_layer",
    "ema_update_",
    "front_layer",
    "gelu_linear",
    "layer_targets",
    "linear",
    "masked_smooth_l1",
    "norm_gelu",
    "restore",
    "strided_convolution",
]
