"""The CUDA C++ route: the operations on CPU tensors, with the kernels and their binding built for the CPU."""

from __future__ import annotations

import cases
import pytest
import torch

from d2v_fast import ops


@pytest.mark.parametrize("decay", [0.999, 0.25])
@pytest.mark.parametrize("name", cases.EMA)
def test_ema(name, decay, cuda_gpu, no_worse_than):
    cases.ema(name, decay, no_worse_than)
    nothing = name in ("gaps", "gaps alike", "nothing", "empty tensors")
    assert cuda_gpu.launches == ([] if nothing else ["ema"]), "one launch, whatever the formats"


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_ema_ends_are_exact(decay, cuda_gpu):
    cases.ema_ends(decay)


def test_decay_tensor(cuda_gpu):
    cases.ema_of_a_decay_tensor()


@pytest.mark.parametrize("dtype", cases.LOW, ids=str)
def test_targets(dtype, cuda_gpu, no_worse_than):
    cases.targets_of_all_norms(dtype, ("instance", None), no_worse_than)
    assert cuda_gpu.launches == ["layer_targets"] * 3


@pytest.mark.parametrize("norms", [("layer", None), ("instance", "layer"), ("batch", None), (None, None)], ids=str)
def test_other_norms_are_not_this_routes(norms, cuda_gpu, no_worse_than):
    cases.targets_of_all_norms(torch.float32, norms, no_worse_than)
    assert cuda_gpu.launches == []


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts(layout, cuda_gpu, no_worse_than):
    cases.targets_of_a_layout(layout, "instance", no_worse_than)
    assert cuda_gpu.launches == ["layer_targets"]


def test_awkward_sizes(cuda_gpu, no_worse_than):
    cases.targets_of_awkward_sizes("instance", no_worse_than)
    cases.targets_of_nothing("instance")


def test_more_layers_than_the_kernel_takes(cuda_gpu, no_worse_than):
    cases.targets(cases.make_layers(65, (1, 4, 8), torch.float32), no_worse_than)
    assert cuda_gpu.launches == []


def test_sequences_too_long_for_shared_memory(cuda_gpu, compiled, no_worse_than):
    layers = cases.make_layers(1, (1, 9000, 8), torch.float32)
    sizes = 1, 1, 9000, 8, 9000
    assert compiled.layer_targets_reads(*sizes, 0, 0) == 2, "32 bytes a frame do not fit into 227 kB"
    assert compiled.layer_targets_reads(1, 1, 3000, 8, 3000, 0, 0) == 1
    assert compiled.layer_targets_reads(*sizes, 1, 0) == 0, "float64 is refused"
    cases.targets(layers, no_worse_than)
    assert cuda_gpu.launches == ["layer_targets"], "still better than plain torch"
    cuda_gpu.routes(cuda=True, triton=True)
    started = []
    cuda_gpu.patch.setattr(
        "d2v_fast.ops.device.launching.start", lambda kernel, *_, warps: started.append(kernel.__name__)
    )
    ops.layer_targets(layers)
    assert started == ["column_statistics", "column_targets"], "two passes either way, and Triton's are the better ones"


def test_a_failed_launch_is_raised(cuda_gpu, compiled):
    with pytest.raises(RuntimeError, match="CUDA kernel layer_targets: the CUDA kernel takes 1 to 64 layers"):
        compiled.layer_targets([], [], 0, 0, 0, 1, 1, 1, 1, 0, 1e-5, 0, 64)


def test_the_loss_is_not_this_routes(cuda_gpu, no_worse_than):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        cases.losses_of_formats(dtype, torch.float32, 0.5, no_worse_than)
    cases.losses_of_layouts(no_worse_than)
    cases.losses_of_nothing()
    cases.float16_does_not_underflow()
    assert cuda_gpu.launches == []
