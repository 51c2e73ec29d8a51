// A list of tensors, cut into chunks of a fixed number of elements, so that nothing depends on the number of threads.
#pragma once
#include <stdint.h>

#include "../kernels.h"
#include "stream.h"

namespace d2v {
namespace D2V_ISA {

// work(i, from, to) for the elements [from, to) of tensor i, until all `count` tensors are done, in one parallel region. Each thread takes
// one part of the list: two threads that leapfrog through memory are a twentieth slower.
template <typename Tensor, typename Work>
static inline void for_chunks(const Tensor* tensors, int64_t count, int64_t chunk, int threads, Work work) {
  const auto chunks_of = [chunk](int64_t size) { return (size + chunk - 1) / chunk; };
  int64_t chunks = 0;
  for (int64_t i = 0; i < count; ++i) chunks += chunks_of(tensors[i].size);
  if (chunks < threads) threads = chunks < 1 ? 1 : static_cast<int>(chunks);
#pragma omp parallel num_threads(threads)
  {
    int64_t index = 0, first = 0;  // the tensor that holds the chunk, and its first chunk; a thread's chunks only go up
#pragma omp for schedule(static) nowait
    for (int64_t number = 0; number < chunks; ++number) {
      while (number - first >= chunks_of(tensors[index].size)) first += chunks_of(tensors[index++].size);
      const int64_t from = (number - first) * chunk, size = tensors[index].size;
      work(index, from, from + chunk < size ? from + chunk : size);
    }
    stream_fence();
  }
}

}  // namespace D2V_ISA
}  // namespace d2v
