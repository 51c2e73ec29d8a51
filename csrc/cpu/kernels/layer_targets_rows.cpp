// Layer norm, no norm, and norms whose statistics are known: one row of the result at a time, from the first-level cache.
#include "layer_targets.h"

namespace d2v {
namespace D2V_ISA {

// Mean (`mean + rest`, as for columns) and 1 / deviation of one row.
template <typename Real>
struct RowMoments {
  Real mean, rest, scale;
};

// The sum around a first mean, which is off by its rounding, corrects it: exact for a constant row.
template <typename T>
static inline RowMoments<RealOf<T>> row_moments(const T* x, int64_t channels, RealOf<T> eps) {
  typedef RealOf<T> Real;
  typedef LanesOf<T> Lanes;
  const int64_t lanes = lane_count<T>(), step = 4 * lanes;
  const Real count = static_cast<Real>(channels);
  int64_t c = 0;
  Lanes sums[4] = {};
  for (; c + step <= channels; c += step)
    for (int64_t j = 0; j < 4; ++j) sums[j] += load(x + c + j * lanes);
  each_register<T>(channels - c, [&](int64_t i, auto part, int64_t n) { sums[0] += load<part.value>(x + c + i, n); });
  const Real mean = sum_lanes<Real>((sums[0] + sums[1]) + (sums[2] + sums[3])) / count;

  Lanes rests[4] = {}, squares[4] = {};
  for (c = 0; c + step <= channels; c += step)
    for (int64_t j = 0; j < 4; ++j) {
      const Lanes d = load(x + c + j * lanes) - mean;
      rests[j] += d;
      squares[j] += d * d;
    }
  each_register<T>(channels - c, [&](int64_t i, auto part, int64_t n) {
    Lanes d = load<part.value>(x + c + i, n) - mean;
    if (part.value)
      for (int64_t lane = n; lane < lanes; ++lane) d[lane] = 0;
    rests[0] += d;
    squares[0] += d * d;
  });
  const Real total = sum_lanes<Real>((rests[0] + rests[1]) + (rests[2] + rests[3]));
  const Real square = sum_lanes<Real>((squares[0] + squares[1]) + (squares[2] + squares[3]));
  const Real shift = total / count, moved = mean + shift;
  return {moved, shift - (moved - mean), inverse_deviation(square - total * shift, count, eps)};
}

template <typename T>
static void target_row(const LayerTargets& x, const ColumnStatistics<RealOf<T>>* statistics, int64_t index, int64_t next_index,
                       RealOf<T>* out) {
  typedef RealOf<T> Real;
  typedef LanesOf<T> Lanes;
  const int64_t sample = index / x.frames, frame = index % x.frames;
  if (frame >= valid_frames(x, sample)) {
    memset(out, 0, static_cast<size_t>(x.channels) * sizeof(Real));
    return;
  }
  const Real eps = static_cast<Real>(x.eps), layers = static_cast<Real>(x.layer_count);
  Real bias = 0;
  for (int64_t k = 0; k < x.layer_count; ++k) {
    const T* row = frame_of<T>(x, k, sample, frame);
    const T* next = frame_of<T>(x, k, next_index / x.frames, next_index % x.frames);
    const bool first = k == 0, last = k + 1 == x.layer_count;
    RowMoments<Real> moments = {0, 0, 1};
    if (x.layer_norm == NORM_LAYER) moments = row_moments(row, x.channels, eps);
    bias -= moments.rest * moments.scale;
    const int64_t at = statistics ? statistics->at(x, k, sample) : 0;
    each_register<T>(x.channels, [&](int64_t c, auto part, int64_t n) {
      __builtin_prefetch(next + c, 0, 3);
      Lanes y = load<part.value>(row + c, n);
      if (statistics) {
        const Lanes mean = load<part.value>(statistics->mean + at + c, n), rest = load<part.value>(statistics->rest + at + c, n);
        y = ((y - mean) - rest) * load<part.value>(statistics->scale + at + c, n);
      } else {
        y = (y - moments.mean) * moments.scale;
      }
      if (!first) y += load<part.value>(out + c, n);
      if (last) y = (y + bias) / layers;
      store<part.value>(out + c, y, n);
    });
  }
  if (x.final_norm == NORM_LAYER) {
    const RowMoments<Real> moments = row_moments<Real>(out, x.channels, eps);
    const Real shift = moments.rest * moments.scale;
    each_register<Real>(x.channels, [&](int64_t c, auto part, int64_t n) {
      store<part.value>(out + c, (load<part.value>(out + c, n) - moments.mean) * moments.scale - shift, n);
    });
  }
}

template <typename T>
void target_rows(const LayerTargets& x, const ColumnStatistics<RealOf<T>>* statistics, int threads) {
  RealOf<T>* out = static_cast<RealOf<T>*>(x.out);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < x.count; ++i)
    target_row<T>(x, statistics, row_index(x, i), row_index(x, i + 1 < x.count ? i + 1 : i), out + i * x.channels);
}

template void target_rows<float>(const LayerTargets&, const ColumnStatistics<float>*, int);
template void target_rows<double>(const LayerTargets&, const ColumnStatistics<double>*, int);
template void target_rows<bf16>(const LayerTargets&, const ColumnStatistics<float>*, int);
template void target_rows<f16>(const LayerTargets&, const ColumnStatistics<float>*, int);

}  // namespace D2V_ISA
}  // namespace d2v
