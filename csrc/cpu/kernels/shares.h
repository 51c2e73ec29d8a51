// Work in shares, each thread with room of its own.
#pragma once
#include <stdint.h>
#include <stdlib.h>

namespace d2v {
namespace D2V_ISA {

// Calls work(share, room) for each of `shares` shares, `room` being `numbers` of Real of the thread. False: there was no memory for it, and
// nothing was done.
template <typename Real, typename Work>
static bool each_share(int64_t shares, int64_t numbers, int threads, const Work& work) {
  int failed = 0;
#pragma omp parallel num_threads(threads)
  {
    Real* const room = static_cast<Real*>(malloc(static_cast<size_t>(numbers + 1) * sizeof(Real)));
    if (!room) {
#pragma omp atomic write
      failed = 1;
    }
#pragma omp barrier
    if (!failed) {
#pragma omp for schedule(static)
      for (int64_t share = 0; share < shares; ++share) work(share, room);
    }
    free(room);
  }
  return !failed;
}

}  // namespace D2V_ISA
}  // namespace d2v
