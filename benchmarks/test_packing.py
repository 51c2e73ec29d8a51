"""What leaving the padding out saves, on a CPU."""

from __future__ import annotations

import pytest
import torch
from packed_encoder import packed_encoder


@pytest.mark.benchmark(group="packing")
def test_packed_encoder(compare, quick):
    name, run = packed_encoder(torch.device("cpu"), quick)
    compare(
        f"{name}, one after the other", run("blocks"), {"padded, SDPA with a mask": run("sdpa")}, moved=None, rounds=5
    )
