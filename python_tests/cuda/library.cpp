// The kernels' host functions for ctypes: "device" memory is the process's own.
#include <vector>

#include "cuda_cpu.h"
#include "cuda/kernels.h"

using namespace d2v;

extern "C" void choose(uint64_t seed, int shared_limit) {
  cuda_cpu::seed = seed;
  cuda_cpu::shared_limit = shared_limit;
}

// How often a kernel's limit of shared memory was raised so far.
extern "C" int raised() { return cuda_cpu::raised; }

extern "C" const char* ema(const EmaTensor* tensors, int64_t count, const double* decay) {
  std::vector<cuda::EmaChunk> chunks(static_cast<size_t>(cuda::ema_chunk_count(tensors, count)));
  cuda::ema_fill_chunks(tensors, count, chunks.data());
  return cuda::ema(chunks.data(), static_cast<int64_t>(chunks.size()), decay, nullptr);
}

// The table alone: nothing is read through the tensors' pointers.
extern "C" int64_t chunk_count(const EmaTensor* tensors, int64_t count) { return cuda::ema_chunk_count(tensors, count); }
extern "C" void fill_chunks(const EmaTensor* tensors, int64_t count, cuda::EmaChunk* chunks) { cuda::ema_fill_chunks(tensors, count, chunks); }

extern "C" const char* layer_targets(const LayerTargets* x) { return cuda::layer_targets(*x, nullptr); }

// 32-bit numbers rounded to 16 bits and back, for the conversions themselves.
extern "C" void convert(const float* x, int64_t count, uint16_t* bf16, uint16_t* f16, float* bf16_back, float* f16_back) {
  for (int64_t i = 0; i < count; ++i) {
    const __nv_bfloat16 b = __float2bfloat16_rn(x[i]);
    const __half h = __float2half_rn(x[i]);
    bf16[i] = b.bits;
    f16[i] = h.bits;
    bf16_back[i] = __bfloat162float(b);
    f16_back[i] = __half2float(h);
  }
}
