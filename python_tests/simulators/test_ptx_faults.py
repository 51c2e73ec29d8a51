"""Faults planted in CUDA C++, compiled by nvcc: each is found, and the PTX line that shows it is named."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import Fault, Memory, launch, parse

# FAULT 0 is right; each other number plants one fault.
SOURCE = r"""
extern "C" __global__ void total(const float* x, int n, float* partial, unsigned* ticket, float* out) {
  __shared__ float sums[8];
  __shared__ bool last;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float sum = 0.f;
  int end = FAULT == 1 ? n + 1 : n;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < end; i += gridDim.x * blockDim.x) sum += x[i];
  for (int step = 16; step; step /= 2) {
    unsigned lanes = FAULT == 2 && step == 1 ? 1u << lane : ~0u;
    sum += __shfl_xor_sync(lanes, sum, FAULT == 3 && step == 16 ? 8 : step);
  }
  if (lane == 0) sums[warp] = sum;
  if (FAULT != 4) __syncthreads();
  if (threadIdx.x == 0) {
    sum = 0.f;
    for (int w = 0; w < blockDim.x / 32; ++w) sum += sums[w];
    if (FAULT == 5) { *out += sum; return; }
    partial[blockIdx.x] = sum;
    if (FAULT != 6) __threadfence();
    last = atomicAdd(ticket, 1u) == gridDim.x - 1;
    if (FAULT != 7) __threadfence();
  }
  if (FAULT != 8) __syncthreads();
  if (FAULT != 5 && last && threadIdx.x < gridDim.x) {
    if (FAULT == 9 && threadIdx.x > 0) __syncthreads();
    float part = partial[FAULT == 10 ? threadIdx.x + 1 : threadIdx.x];
    sums[threadIdx.x] = part;
  }
  if (FAULT != 5 && last) {
    if (FAULT != 11) __syncwarp();
    if (threadIdx.x == 0) {
      float all = 0.f;
      for (int b = 0; b < gridDim.x; ++b) all += sums[b];
      *out = all;
    }
  }
}
"""


def total(ptx: str, *, blocks: int = 4, n: int = 1000) -> tuple[float, float]:
    memory = Memory(1 << 16)
    values = np.random.default_rng(0).random(n, dtype=np.float32)
    x = memory.put(values, "x")
    partial, ticket = memory.reserve(blocks, np.float32, "partial"), memory.put(np.zeros(1, np.uint32), "ticket")
    out = memory.put(np.zeros(1, np.float32), "out")
    launch(parse(ptx)["total"], blocks, 128, [x, n, partial, ticket, out], memory)
    return float(out.numpy()[0]), float(values.sum(dtype=np.float64))


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_the_right_kernel_is_right(nvcc_ptx, arch):
    got, exact = total(nvcc_ptx(SOURCE, arch, FAULT=0))
    assert got == pytest.approx(exact, rel=1e-6)


def test_a_swapped_lane_gives_a_wrong_sum(nvcc_ptx):
    got, exact = total(nvcc_ptx(SOURCE, FAULT=3))
    assert abs(got - exact) > 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param(1, r"out of bounds.*byte 4000 of buffer 'x'.*ld\.global", id="off-by-one bound"),
        pytest.param(2, r"reads a lane that the mask does not name.*shfl", id="shuffle mask of one lane"),
        pytest.param(4, r"race.*shared.*ld\.shared", id="dropped barrier before the sums"),
        pytest.param(5, r"race.*buffer 'out'.*st\.global", id="accumulation without atomics"),
        pytest.param(6, r"race.*buffer 'partial'.*ld\.global", id="lost fence before the ticket"),
        pytest.param(7, r"race.*buffer 'partial'.*ld\.global", id="lost fence after the ticket"),
        pytest.param(8, r"race.*shared.*ld\.shared", id="dropped barrier before the last block"),
        pytest.param(9, r"do not take part.*bar\.warp", id="divergent barrier"),
        pytest.param(10, r"uninitialised|out of bounds.*buffer 'partial'.*ld\.global", id="neighbour's element"),
        pytest.param(11, r"race.*shared.*ld\.shared", id="dropped __syncwarp"),
    ],
)
def test_planted_faults_are_found(nvcc_ptx, fault, message):
    with pytest.raises(Fault, match=message) as caught:
        total(nvcc_ptx(SOURCE, FAULT=fault))
    assert "[PTX line " in str(caught.value)
