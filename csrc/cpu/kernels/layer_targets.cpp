// The mean over K layers, each normalised, then normalised again. Which passes over memory a pair of norms takes:
//   none or layer norm, then none or layer norm        the wanted rows, once
//   instance norm                                      all frames, once; then the layer norm of the results in place
//   batch norm, or instance norm of long sequences     all frames for the statistics, then the wanted rows
// A final instance or batch norm needs every row of the mean: the caller makes it with a second call on one layer.
#include <stdlib.h>
#include <string.h>

#include "layer_targets.h"

namespace d2v {
namespace D2V_ISA {

template <typename T>
static bool with_statistics(const LayerTargets& x, int threads, const Shared* shared) {
  typedef RealOf<T> Real;
  const int64_t size = x.layer_count * x.batch * x.channels;
  Real* memory = static_cast<Real*>(malloc(static_cast<size_t>(3 * size + x.batch * x.channels) * sizeof(Real)));
  if (!memory) return false;
  const ColumnStatistics<Real> statistics = {memory, memory + size, memory + 2 * size, memory + 3 * size, x.layer_norm == NORM_BATCH};
  column_statistics<T>(x, statistics, threads);
  target_rows<T>(x, &statistics, threads, shared);
  free(memory);
  return true;
}

template <typename T>
static bool targets(const LayerTargets& x, int threads, const Shared* shared) {
  if (x.layer_norm == NORM_NONE || x.layer_norm == NORM_LAYER) {
    target_rows<T>(x, nullptr, threads, shared);
    return true;
  }
  if (x.layer_norm == NORM_BATCH || !samples_fit(x, threads)) return with_statistics<T>(x, threads, shared);
  if (shared) return instance_views(x, *shared, threads);
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

static bool any_targets(const LayerTargets& x, int threads, const Shared* shared) {
  if (x.dtype == F32) return targets<float>(x, threads, shared);
  if (x.dtype == F64) return targets<double>(x, threads, shared);
  if (x.dtype == BF16) return targets<bf16>(x, threads, shared);
  return targets<f16>(x, threads, shared);
}

// Rows of several views: each frame that is wanted at all is made once.
static bool of_views(const LayerTargets& x, int threads) {
  const int64_t places = x.batch * x.frames, all = x.count;
  int64_t* const memory = static_cast<int64_t*>(malloc(static_cast<size_t>(2 * places + 1 + 2 * all + 1) * sizeof(int64_t)));
  if (!memory) return false;
  int64_t *const wanted = memory, *const rows = wanted + places, *const starts = rows + all, *const to = starts + 1 + places;
  memset(wanted, 0, static_cast<size_t>(places) * sizeof(int64_t));
  const int64_t whole = x.views * x.frames;
  for (int64_t i = 0; i < all; ++i) ++wanted[x.rows[i] / whole * x.frames + x.rows[i] % x.frames];
  Shared shared = {rows, starts, to, 0};
  starts[0] = 0;
  for (int64_t place = 0; place < places; ++place) {
    if (!wanted[place]) continue;
    rows[shared.count] = place;
    starts[shared.count + 1] = starts[shared.count] + wanted[place];
    wanted[place] = starts[shared.count++];  // where its next row goes
  }
  for (int64_t i = 0; i < all; ++i) to[wanted[x.rows[i] / whole * x.frames + x.rows[i] % x.frames]++] = i;
  LayerTargets own = x;
  own.rows = rows;
  own.count = shared.count;
  own.views = 1;
  const bool done = any_targets(own, threads, &shared);
  free(memory);
  return done;
}

bool layer_targets(const LayerTargets& x, int threads) {
  if (x.layer_count * x.count * x.channels < (1 << 15)) threads = 1;  // waking a second thread would cost more
  return x.views > 1 && x.rows ? of_views(x, threads) : any_targets(x, threads, nullptr);
}

}  // namespace D2V_ISA
}  // namespace d2v
