// teacher += weight * (student - teacher), over a list of tensors. First version: float32 only, to prove the build.
#include "../kernels.h"

namespace d2v {
namespace D2V_ISA {

void ema(const EmaTensor* tensors, int64_t count, double weight, int threads) {
  for (int64_t i = 0; i < count; ++i) {
    float* t = static_cast<float*>(tensors[i].teacher);
    const float* s = static_cast<const float*>(tensors[i].student);
    const float w = static_cast<float>(weight);
#pragma omp parallel for simd num_threads(threads)
    for (int64_t j = 0; j < tensors[i].size; ++j) t[j] += w * (s[j] - t[j]);
  }
}

}  // namespace D2V_ISA
}  // namespace d2v
