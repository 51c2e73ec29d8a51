// The moving average's step, for the kernels of the EMA and of AdamW with it.
#pragma once
#include <stdint.h>

#include "../kernels.h"

namespace d2v {
namespace D2V_ISA {

// teacher += weight * (student - teacher) with weight = 1 - decay, in the form whose rounding error shrinks with the smaller of the two.
template <typename Real>
static inline void move(Real* teacher, const Real* student, Real decay, Real weight, int64_t n) {
  if (weight < Real(0.5)) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) teacher[i] = teacher[i] + weight * (student[i] - teacher[i]);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) teacher[i] = student[i] + decay * (teacher[i] - student[i]);
  }
}

}  // namespace D2V_ISA
}  // namespace d2v
