"""CPU tensors that stand for those of a GPU: the public operations run what a CUDA tensor would make them run.

The glue in d2v_fast/ops/device goes through a few functions of `launching` and does not care about the device; here
they note what is asked of them.
"""

from __future__ import annotations

import contextlib
import importlib
import sys

import torch
from torch import library as torch_library

from d2v_fast.ops.device import (
    decoder_layer,
    ema,
    launching,
    layer_targets,
    restore,
    routes,
    smooth_l1,
)

NONE_HERE = "not here"


def module(name):
    """A module of d2v_fast.ops, whose name there is the function's."""
    importlib.import_module("d2v_fast.ops")
    return sys.modules[f"d2v_fast.ops.{name}"]


@contextlib.contextmanager
def registered_for_gpus():
    """The operators of data2vec 2.0, whose autograd is registered with them, have a GPU's implementations here."""
    library = torch_library.Library("d2v_fast", "IMPL")
    for name, function in {
        "restore": restore.restore,
        "decoder_layer": decoder_layer.forward,
        "decoder_layer_backward": decoder_layer.backward,
        "norm_gelu": module("norm_gelu")._forward_cuda,
        "norm_gelu_backward": module("norm_gelu")._backward_cuda,
        "fused_attention": module("fused_attention")._forward_cuda,
        "fused_attention_backward": module("fused_attention")._backward_cuda,
    }.items():
        library.impl(name, function, "CPU", allow_override=True)
    try:
        yield
    finally:
        library._destroy()


class Pretended:
    """What was launched and how; `stream` and `capturing` are what the tests make of them."""

    def __init__(self, monkeypatch, *, registered=False):
        """With `registered`, the operators themselves are the GPU's already (interpreted_registered.py)."""
        self.patch = monkeypatch
        self.stream, self.capturing = 64, False
        self.launches = []
        self.guards = 0
        self.inside = 0
        self.kept = []
        patch = monkeypatch.setattr
        patch(launching, "on", self._on)
        patch(launching, "place", lambda device: (0, self.stream))
        patch(launching, "capturing", lambda: self.capturing)
        patch(launching, "keep_for", lambda tensors, device: self.kept.extend(tensors))
        patch(launching, "upload", lambda array, device: torch.from_numpy(array))
        patch(ema, "_plans", {})
        if not registered:
            patch(module("ema"), "_ema_update", module("ema")._on_gpu)
            patch(module("layer_targets"), "_layer_targets", layer_targets.layer_targets)
            patch(module("smooth_l1"), "_forward", module("smooth_l1")._forward_gpu)
            patch(module("smooth_l1"), "_backward", smooth_l1.backward)
        patch(module("smooth_l1"), "_is_final", lambda gradient, incoming: False)  # as for a gradient on a GPU
        self.routes()

    @contextlib.contextmanager
    def _on(self, device):
        assert isinstance(device, torch.device)
        self.guards += 1
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def routes(self, *, cuda=False, triton=False):
        """Which kernels there are."""
        found = routes.Obstacles(None if cuda else NONE_HERE, None if triton else NONE_HERE)
        self.patch.setattr(routes, "obstacles", lambda device: found)

    def launched(self, name):
        """Notes a launch, which must happen with the device made current."""
        assert self.inside == 1, f"{name} is launched without a device guard"
        self.launches.append(name)

    def with_cuda(self, compiled):
        """Puts a module in the place of d2v_fast._cuda."""
        watched = Watched(compiled, self)
        self.patch.setitem(sys.modules, "d2v_fast._cuda", watched)
        self.patch.setattr(sys.modules["d2v_fast"], "_cuda", watched, raising=False)
        self.routes(cuda=True)

    def with_triton(self, strict_launch, memory):
        """Runs Triton kernels by strict_launch(kernel, grid, *arguments, memory=...)."""

        def start(kernel, grid, *arguments, warps):
            assert warps in (1, 2, 4, 8, 16)
            assert all(size > 0 for size in grid)
            self.launched(kernel.__name__)
            strict_launch(kernel, grid, *arguments, memory=memory)

        self.patch.setattr(launching, "start", start)
        self.routes(triton=True)


class Watched:
    """The module of the CUDA kernels, with launches noted."""

    def __init__(self, compiled, pretended):
        self._compiled, self._pretended = compiled, pretended

    def __getattr__(self, name):
        function = getattr(self._compiled, name)
        if name not in ("ema", "layer_targets"):
            return function

        def call(*arguments):
            assert arguments[-2:] == (0, self._pretended.stream), "the device's number and its current stream"
            self._pretended.launched(name)
            return function(*arguments)

        return call
