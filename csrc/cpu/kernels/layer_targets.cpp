// The mean over K layers, each normalised, then normalised again. Which passes over memory a pair of norms takes:
//   none or layer norm, then none or layer norm        the wanted rows, once
//   instance norm                                      all frames, once; then the layer norm of the results in place
//   batch norm, or instance norm of long sequences     all frames for the statistics, then the wanted rows
// A final instance or batch norm needs every row of the mean: the caller makes it with a second call on one layer.
#include <stdlib.h>

#include "layer_targets.h"

namespace d2v {
namespace D2V_ISA {

template <typename T>
static bool with_statistics(const LayerTargets& x, int threads) {
  typedef RealOf<T> Real;
  const int64_t size = x.layer_count * x.batch * x.channels;
  Real* memory = static_cast<Real*>(malloc(static_cast<size_t>(3 * size + x.batch * x.channels) * sizeof(Real)));
  if (!memory) return false;
  const ColumnStatistics<Real> statistics = {memory, memory + size, memory + 2 * size, memory + 3 * size, x.layer_norm == NORM_BATCH};
  column_statistics<T>(x, statistics, threads);
  target_rows<T>(x, &statistics, threads);
  free(memory);
  return true;
}

template <typename T>
static bool targets(const LayerTargets& x, int threads) {
  if (x.layer_norm == NORM_NONE || x.layer_norm == NORM_LAYER) {
    target_rows<T>(x, nullptr, threads);
    return true;
  }
  if (x.layer_norm == NORM_BATCH || !samples_fit(x, threads)) return with_statistics<T>(x, threads);
  instance_samples(x, threads);
  if (x.final_norm == NORM_LAYER) {
    const void* layer = x.out;
    const int64_t strides[2] = {0, x.channels};
    LayerTargets again = x;
    again.layers = &layer;
    again.strides = strides;
    again.rows = again.lengths = nullptr;
    again.layer_count = again.batch = 1;
    again.frames = x.count;
    again.layer_norm = NORM_LAYER;
    again.final_norm = NORM_NONE;
    target_rows<RealOf<T>>(again, nullptr, threads);
  }
  return true;
}

bool layer_targets(const LayerTargets& x, int threads) {
  if (x.layer_count * x.count * x.channels < (1 << 15)) threads = 1;  // waking a second thread would cost more
  if (x.dtype == F32) return targets<float>(x, threads);
  if (x.dtype == F64) return targets<double>(x, threads);
  if (x.dtype == BF16) return targets<bf16>(x, threads);
  return targets<f16>(x, threads);
}

}  // namespace D2V_ISA
}  // namespace d2v
