// Layer norm, no norm, and norms whose statistics are known: one row of the result at a time, from the first-level cache.
#include "layer_targets.h"

namespace d2v {
namespace D2V_ISA {

// Mean (`mean + rest`, as for columns) and 1 / deviation of one row.
template <typename Real>
struct RowMoments {
  Real mean, rest, scale;
};

static constexpr int kTogether = 4;  // layers whose rows are in the first-level cache at a time

// The moments of LAYERS rows, a stretch of each in turn: memory serves several rows at once better than one after the other.
// One pass around a guess, the mean of the first elements; a second one around the mean if the guess was far off. The sum of the
// deviations corrects the mean, so that nothing cancels; a constant row gives exact zeros. Memory is asked for the even cache lines of the
// rows in `next`, unless it is null.
template <int LAYERS, typename T>
static inline void row_moments(const T* const* x, const T* const* next, int64_t channels, RealOf<T> eps,
                               RowMoments<RealOf<T>>* moments) {
  typedef RealOf<T> Real;
  typedef LanesOf<T> Lanes;
  const int64_t lanes = lane_count<T>(), few = channels < 4 * lanes ? channels : 4 * lanes;
  const Real count = static_cast<Real>(channels);
  constexpr int parts = kTogether / LAYERS;  // of a sum: enough for the processor to be busy, and few enough for its registers
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
          if (begins_line<T>(j, false) && next && !again) __builtin_prefetch(next[k] + c + j * lanes);
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

// Adds the layers from k on, as many as LAYERS says, to `out`. `bias` sums up what rounding took from the means. Position `next` is the one
// that follows: memory is asked for the same layers' rows there, every second cache line while the moments are taken and the others while
// the rows are added up, from the first-level cache. (All of them in one of the two passes keeps too many requests waiting: a fifth slower
// on Zen 5; without any it is a third slower.)
template <int LAYERS, typename T>
static void add_group(const LayerTargets& x, const ColumnStatistics<RealOf<T>>* statistics, int64_t k, int64_t position, int64_t next,
                      RealOf<T>& bias, RealOf<T>* out) {
  typedef RealOf<T> Real;
  const bool first = k == 0, last = k + LAYERS == x.layer_count;
  const int64_t sample = position / x.frames, frame = position % x.frames;
  const T *row[LAYERS], *after[LAYERS];
  for (int j = 0; j < LAYERS; ++j) {
    row[j] = frame_of<T>(x, k + j, sample, frame);
    after[j] = frame_of<T>(x, k + j, next / x.frames, next % x.frames);
  }
  Normalised<T> of[LAYERS];
  if (statistics) {
    for (int j = 0; j < LAYERS; ++j) {
      const int64_t at = statistics->at(x, k + j, sample);
      of[j] = {row[j], statistics->mean + at, statistics->scale + at, nullptr};
    }
    add_layers<LAYERS, true>(of, first, last, statistics->bias + sample * x.channels, x.layer_count, out, x.channels);
    return;
  }
  RowMoments<Real> moments[LAYERS];
  if (x.layer_norm == NORM_LAYER) row_moments<LAYERS>(row, after, x.channels, static_cast<Real>(x.eps), moments);
  for (int j = 0; j < LAYERS; ++j) {
    if (x.layer_norm != NORM_LAYER) {
      moments[j] = {0, 0, 1};
      for (int64_t c = 0; c < x.channels; c += 128 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(after[j] + c);
    }
    bias -= moments[j].rest * moments[j].scale;
    of[j] = {row[j], &moments[j].mean, &moments[j].scale, after[j]};
  }
  add_layers<LAYERS, false>(of, first, last, &bias, x.layer_count, out, x.channels);
}

// Row number i of the result.
template <typename T>
static void target_row(const LayerTargets& x, const ColumnStatistics<RealOf<T>>* statistics, int64_t i, RealOf<T>* out) {
  typedef RealOf<T> Real;
  const int64_t position = row_index(x, i), next = row_index(x, i + 1 < x.count ? i + 1 : i);
  if (position % x.frames >= valid_frames(x, position / x.frames)) {
    memset(out, 0, static_cast<size_t>(x.channels) * sizeof(Real));
    return;
  }
  Real bias = 0;
  int64_t k = 0;
  for (; k + kTogether <= x.layer_count; k += kTogether) add_group<kTogether, T>(x, statistics, k, position, next, bias, out);
  const int64_t left = x.layer_count - k;
  if (left == 3) add_group<3, T>(x, statistics, k, position, next, bias, out);
  if (left == 2) add_group<2, T>(x, statistics, k, position, next, bias, out);
  if (left == 1) add_group<1, T>(x, statistics, k, position, next, bias, out);
  if (x.final_norm == NORM_LAYER) {
    const Real* row = out;
    RowMoments<Real> own;
    row_moments<1, Real>(&row, nullptr, x.channels, static_cast<Real>(x.eps), &own);
    const Normalised<Real> of = {out, &own.mean, &own.scale, out};
    bias = -own.rest * own.scale;
    add_layers<1, false>(&of, true, true, &bias, 1, out, x.channels);
  }
}

template <typename T>
void target_rows(const LayerTargets& x, const ColumnStatistics<RealOf<T>>* statistics, int threads, const Shared* shared) {
  typedef RealOf<T> Real;
  Real* out = static_cast<Real*>(x.out);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < x.count; ++i) {
    Real* const row = out + (shared ? shared->to[shared->starts[i]] : i) * x.channels;
    target_row<T>(x, statistics, i, row);
    for (int64_t k = shared ? shared->starts[i] + 1 : 0; shared && k < shared->starts[i + 1]; ++k)
      memcpy(out + shared->to[k] * x.channels, row, static_cast<size_t>(x.channels) * sizeof(Real));
  }
}

template void target_rows<float>(const LayerTargets&, const ColumnStatistics<float>*, int, const Shared*);
template void target_rows<double>(const LayerTargets&, const ColumnStatistics<double>*, int, const Shared*);
template void target_rows<bf16>(const LayerTargets&, const ColumnStatistics<float>*, int, const Shared*);
template void target_rows<f16>(const LayerTargets&, const ColumnStatistics<float>*, int, const Shared*);

}  // namespace D2V_ISA
}  // namespace d2v
