"""The operations: plain functions on tensors, compiled where a kernel exists."""

from d2v_fast.ops.layer_targets import layer_targets

__all__ = ["layer_targets"]
