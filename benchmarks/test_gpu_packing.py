"""What leaving the padding out saves on a GPU, in bfloat16."""

from __future__ import annotations

import pytest
import torch
from packed_encoder import packed_encoder


@pytest.mark.benchmark(group="gpu packing")
def test_packed_encoder(compare_on_gpu, gpu, quick):
    name, run = packed_encoder(gpu, quick)

    def half(kernel):
        once = run(kernel)

        def in_bfloat16(turn):
            with torch.autocast(gpu.type, torch.bfloat16):
                once(turn)

        return in_bfloat16

    baselines = {"padded, SDPA with a mask": half("sdpa"), "packed, one after the other": half("blocks")}
    compare_on_gpu(f"{name}, bfloat16", half("auto"), baselines, moved=None)
