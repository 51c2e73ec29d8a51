// Layer norm, no norm, and norms whose statistics are known: one row of the result at a time, from the first-level cache.
#include "layer_targets.h"

namespace d2v {
namespace D2V_ISA {

// Mean (`mean + rest`, as for columns) and 1 / deviation of one row.
template <typename Real>
struct RowMoments {
  Real mean, rest, scale;
};

static constexpr int64_t kTogether = 4;  // layers whose rows are in the first-level cache at a time

// Rows that the next step needs. Each call of one() asks memory for one line, of each row in turn: lines of several rows arrive
// faster than those of one. The rows of every layer often share their place in the cache, so that few may be fetched ahead.
template <typename T>
struct Ahead {
  const T* rows[kTogether];
  int64_t count, channels, row, at;
  void one() {
    if (at >= channels) return;
    __builtin_prefetch(rows[row] + at);
    if (++row == count) {
      row = 0;
      at += 64 / static_cast<int64_t>(sizeof(T));
    }
  }
};

// One pass around a guess, the mean of the first elements; a second one around the mean if the guess was far off. The sum of the
// deviations corrects the mean, so that nothing cancels; a constant row gives exact zeros.
template <typename T>
static inline RowMoments<RealOf<T>> row_moments(const T* x, int64_t channels, RealOf<T> eps, Ahead<T>& ahead) {
  typedef RealOf<T> Real;
  typedef LanesOf<T> Lanes;
  const int64_t lanes = lane_count<T>(), few = channels < 4 * lanes ? channels : 4 * lanes;
  const Real count = static_cast<Real>(channels);
  Lanes start[4] = {};
  each_registers<4, T>(few, [&](int64_t c, auto registers, int64_t n) {
    for (int j = 0; j < registers.count; ++j) start[j] += load<registers.part>(x + c + j * lanes, n);
  });
  Real guess = sum_lanes((start[0] + start[1]) + (start[2] + start[3])) / static_cast<Real>(few);
  for (bool again = false;; again = true) {
    Lanes totals[4] = {}, squares[4] = {};
    each_registers<4, T>(channels, [&](int64_t c, auto registers, int64_t n) {
      for (int j = 0; j < registers.count; ++j) {
        ahead.one();
        Lanes d = load<registers.part>(x + c + j * lanes, n) - guess;
        if (registers.part)
          for (int64_t lane = n; lane < lanes; ++lane) d[lane] = 0;
        totals[j] += d;
        squares[j] += d * d;
      }
    });
    const Real total = sum_lanes((totals[0] + totals[1]) + (totals[2] + totals[3]));
    const Real square = sum_lanes((squares[0] + squares[1]) + (squares[2] + squares[3]));
    const Real shift = total / count, mean = guess + shift;
    if (again || !(total * shift > square / 5))
      return {mean, shift - (mean - guess), inverse_deviation(square - total * shift, count, eps)};
    guess = mean;
  }
}

// Row number i of the result.
template <typename T>
static void target_row(const LayerTargets& x, const ColumnStatistics<RealOf<T>>* statistics, int64_t i, RealOf<T>* out) {
  typedef RealOf<T> Real;
  const int64_t index = row_index(x, i), next_index = row_index(x, i + 1 < x.count ? i + 1 : i);
  const int64_t sample = index / x.frames, frame = index % x.frames;
  if (frame >= valid_frames(x, sample)) {
    memset(out, 0, static_cast<size_t>(x.channels) * sizeof(Real));
    return;
  }
  const Real eps = static_cast<Real>(x.eps);
  Real bias = 0;
  for (int64_t k = 0; k < x.layer_count; k += kTogether) {
    const int64_t end = k + kTogether < x.layer_count ? k + kTogether : x.layer_count;
    const bool last = end == x.layer_count;
    Ahead<T> ahead = {{}, 0, x.channels, 0, 0};
    for (int64_t next = last ? 0 : end; next < x.layer_count && ahead.count < kTogether; ++next)
      ahead.rows[ahead.count++] = last ? frame_of<T>(x, next, next_index / x.frames, next_index % x.frames) : frame_of<T>(x, next, sample, frame);
    Normalised<T> of[kTogether];
    RowMoments<Real> moments[kTogether];
    for (int64_t j = k; j < end; ++j) {
      const T* row = frame_of<T>(x, j, sample, frame);
      RowMoments<Real>& own = moments[j - k];
      if (statistics) {
        of[j - k] = {row, statistics->mean + statistics->at(x, j, sample), statistics->scale + statistics->at(x, j, sample)};
        continue;
      }
      own = {0, 0, 1};
      if (x.layer_norm == NORM_LAYER) own = row_moments(row, x.channels, eps, ahead);
      bias -= own.rest * own.scale;
      of[j - k] = {row, &own.mean, &own.scale};
    }
    if (statistics) add_layers<true>(of, end - k, k == 0, last, statistics->bias + sample * x.channels, x.layer_count, out, x.channels);
    else add_layers<false>(of, end - k, k == 0, last, &bias, x.layer_count, out, x.channels);
  }
  if (x.final_norm == NORM_LAYER) {
    Ahead<Real> nothing = {{}, 0, 0, 0, 0};
    const RowMoments<Real> own = row_moments<Real>(out, x.channels, eps, nothing);
    const Normalised<Real> of = {out, &own.mean, &own.scale};
    bias = -own.rest * own.scale;
    add_layers<false>(&of, 1, true, true, &bias, 1, out, x.channels);
  }
}

template <typename T>
void target_rows(const LayerTargets& x, const ColumnStatistics<RealOf<T>>* statistics, int threads) {
  RealOf<T>* out = static_cast<RealOf<T>*>(x.out);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < x.count; ++i) target_row<T>(x, statistics, i, out + i * x.channels);
}

template void target_rows<float>(const LayerTargets&, const ColumnStatistics<float>*, int);
template void target_rows<double>(const LayerTargets&, const ColumnStatistics<double>*, int);
template void target_rows<bf16>(const LayerTargets&, const ColumnStatistics<float>*, int);
template void target_rows<f16>(const LayerTargets&, const ColumnStatistics<float>*, int);

}  // namespace D2V_ISA
}  // namespace d2v
