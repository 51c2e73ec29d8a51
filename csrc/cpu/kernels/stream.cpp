// A copy that writes past the caches: what this machine's memory can do at most, the yardstick of the benchmarks.
#include "../kernels.h"
#include "stream.h"

namespace d2v {
namespace D2V_ISA {

void streaming_copy(void* dst, const void* src, int64_t bytes, int threads) {
  const int64_t chunk = 1 << 18, chunks = (bytes + chunk - 1) / chunk;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t from = i * chunk, size = from + chunk < bytes ? chunk : bytes - from;
      stream_copy(static_cast<char*>(dst) + from, static_cast<const char*>(src) + from, size);
    }
    stream_fence();
  }
}

}  // namespace D2V_ISA
}  // namespace d2v
