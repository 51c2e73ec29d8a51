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

// Rows that the next step needs. Each call of one() asks memory for one line, of each row in turn: lines of several rows arrive faster
// than those of one. Calls are spread evenly over all loops of a step, for memory never to be idle (worth 20 %). The rows of every
// layer often share their place in the first-level cache, so that few may be fetched ahead.
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

// The moments of LAYERS rows, a stretch of each in turn: memory serves several rows at once better than one after the other.
// One pass around a guess, the mean of the first elements; a second one around the mean if the guess was far off. The sum of the
// deviations corrects the mean, so that nothing cancels; a constant row gives exact zeros.
template <int LAYERS, typename T>
static inline void row_moments(const T* const* x, int64_t channels, RealOf<T> eps, Ahead<T>& ahead, RowMoments<RealOf<T>>* moments) {
  typedef RealOf<T> Real;
  typedef LanesOf<T> Lanes;
  const int64_t lanes = lane_count<T>(), few = channels < 4 * lanes ? channels : 4 * lanes;
  const Real count = static_cast<Real>(channels);
  constexpr int parts = 64 / D2V_REGISTER_BYTES;  // as many partial sums whatever the width of a register
  Real guess[LAYERS];
  for (int k = 0; k < LAYERS; ++k) {
    Lanes start = {};
    each_registers<4, T>(few, [&](int64_t c, auto registers, int64_t n) {
      for (int j = 0; j < registers.count; ++j) start += load<registers.part>(x[k] + c + j * lanes, n);
    });
    guess[k] = sum_lanes(start) / static_cast<Real>(few);
  }
  for (bool again = false;; again = true) {
    Lanes totals[LAYERS][parts] = {}, squares[LAYERS][parts] = {};
    each_registers<4, T>(channels, [&](int64_t c, auto registers, int64_t n) {
      for (int k = 0; k < LAYERS; ++k)
        for (int j = 0; j < registers.count; ++j) {
          if (j % 2 == 0) ahead.one();
          Lanes d = load<registers.part>(x[k] + c + j * lanes, n) - guess[k];
          if (registers.part)
            for (int64_t lane = n; lane < lanes; ++lane) d[lane] = 0;
          totals[k][j % parts] += d;
          squares[k][j % parts] += d * d;
        }
    });
    bool far = false;
    for (int k = 0; k < LAYERS; ++k) {
      Real total = 0, square = 0;
      for (int j = 0; j < parts; ++j) {
        total += sum_lanes(totals[k][j]);
        square += sum_lanes(squares[k][j]);
      }
      const Real shift = total / count, mean = guess[k] + shift;
      moments[k] = {mean, shift - (mean - guess[k]), inverse_deviation(square - total * shift, count, eps)};
      far |= total * shift > square / 5;
      guess[k] = mean;
    }
    if (again || !far) return;
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
    const T* row[kTogether];
    Normalised<T> of[kTogether];
    RowMoments<Real> moments[kTogether];
    for (int64_t j = 0; j < end - k; ++j) {
      row[j] = frame_of<T>(x, k + j, sample, frame);
      moments[j] = {0, 0, 1};
      const int64_t at = statistics ? statistics->at(x, k + j, sample) : 0;
      of[j] = {row[j], statistics ? statistics->mean + at : &moments[j].mean, statistics ? statistics->scale + at : &moments[j].scale};
    }
    if (x.layer_norm == NORM_LAYER) {
      if (end - k == kTogether) row_moments<kTogether>(row, x.channels, eps, ahead, moments);
      else
        for (int64_t j = 0; j < end - k; ++j) row_moments<1>(row + j, x.channels, eps, ahead, moments + j);
    }
    for (int64_t j = 0; j < end - k; ++j) bias -= moments[j].rest * moments[j].scale;
    if (statistics) add_layers<true>(of, end - k, k == 0, last, statistics->bias + sample * x.channels, x.layer_count, out, x.channels, ahead);
    else add_layers<false>(of, end - k, k == 0, last, &bias, x.layer_count, out, x.channels, ahead);
  }
  if (x.final_norm == NORM_LAYER) {
    Ahead<Real> nothing = {{}, 0, 0, 0, 0};
    const Real* row = out;
    RowMoments<Real> own;
    row_moments<1>(&row, x.channels, eps, nothing, &own);
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
