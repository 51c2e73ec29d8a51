// What the three files of layer_targets share. Input rows have channel stride 1; results are float, or double for double.
#pragma once
#include <math.h>

#include "lanes.h"

namespace d2v {
namespace D2V_ISA {

// Statistics of the columns, one number per channel: of each (layer, sample), or of each layer (in its sample 0) when `shared`.
// The mean is `mean + rest`: `rest` is what rounding took from it, so that channels with mean >> deviation keep their digits.
template <typename Real>
struct ColumnStatistics {
  Real *mean, *rest, *scale;  // each [layers, batch, channels]; scale = 1 / sqrt(variance + eps)
  Real* bias;                 // [batch, channels]: minus the sum over the layers of rest * scale
  bool shared;
  int64_t at(const LayerTargets& x, int64_t layer, int64_t sample) const {
    return (layer * x.batch + (shared ? 0 : sample)) * x.channels;
  }
};

static inline int64_t valid_frames(const LayerTargets& x, int64_t sample) { return x.lengths ? x.lengths[sample] : x.frames; }
static inline int64_t row_index(const LayerTargets& x, int64_t i) { return x.rows ? x.rows[i] : i; }

// The first of the rows, which are ascending, that belongs to this sample or to a later one.
static inline int64_t first_row_of(const LayerTargets& x, int64_t sample) {
  if (!x.rows) return sample * x.frames;
  int64_t low = 0, high = x.count;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (x.rows[middle] < sample * x.frames) low = middle + 1;
    else high = middle;
  }
  return low;
}

template <typename T>
static inline const T* frame_of(const LayerTargets& x, int64_t layer, int64_t sample, int64_t frame) {
  return static_cast<const T*>(x.layers[layer]) + sample * x.strides[2 * layer] + frame * x.strides[2 * layer + 1];
}

template <typename Real>
static inline Real inverse_deviation(Real squares, Real count, Real eps) {
  const Real variance = squares < 0 ? 0 : squares / count;  // a rounding error below zero; NaN stays NaN
  return 1 / sqrt(variance + eps);
}

// Of several views: the frames that any view wants, each made once, and the rows of the result that it goes to.
struct Shared {
  int64_t* rows;  // [count], of batch * frames, ascending
  int64_t *starts, *to;  // row i goes to rows to[starts[i]] ... to[starts[i + 1] - 1] of the result
  int64_t count;
};

// A stretch of one layer's row, and its mean and scale: one of each, or one per channel.
template <typename T>
struct Normalised {
  const T* x;
  const RealOf<T>*mean, *scale;
  const T* next;  // memory is asked for this stretch's odd cache lines meanwhile; nobody looks at it if there is a mean per channel
};

// Whether register number `j` of a stretch that begins at a cache line begins an odd line, or an even one.
template <typename T>
static constexpr bool begins_line(int64_t j, bool odd) {
  return j * lane_count<T>() * static_cast<int64_t>(sizeof(T)) % 128 == (odd ? 64 : 0);
}

// out = the sum over LAYERS layers of (x - mean) * scale, on top of what is there unless `first`; then, if `last`, the mean of (out + bias).
template <int LAYERS, bool PER_CHANNEL, typename T>
static inline void add_layers(const Normalised<T>* of, bool first, bool last, const RealOf<T>* bias, int64_t layers, RealOf<T>* out,
                              int64_t width) {
  typedef RealOf<T> Real;
  typedef LanesOf<T> Lanes;
  const int64_t lanes = lane_count<T>();
  const Real share = 1 / static_cast<Real>(layers);  // a division here would cost 4 % of the whole
  Lanes mean[LAYERS], scale[LAYERS];  // in registers: the compiler does not know that `out` is no part of them
  if (!PER_CHANNEL)
    for (int k = 0; k < LAYERS; ++k) {
      mean[k] = Lanes{} + *of[k].mean;
      scale[k] = Lanes{} + *of[k].scale;
    }
  each_registers<4, T>(width, [&](int64_t c, auto registers, int64_t n) {
    constexpr bool part = registers.part;
    constexpr int r = registers.count;
    Lanes y[r] = {};
    if (!first)
      for (int j = 0; j < r; ++j) y[j] = load<part>(out + c + j * lanes, n);
    for (int k = 0; k < LAYERS; ++k)
      for (int j = 0; j < r; ++j) {
        const int64_t at = c + j * lanes;
        if (!PER_CHANNEL && begins_line<T>(j, true)) __builtin_prefetch(of[k].next + at);
        const Lanes value = load<part>(of[k].x + at, n);
        if (PER_CHANNEL) y[j] += (value - load<part>(of[k].mean + at, n)) * load<part>(of[k].scale + at, n);
        else y[j] += (value - mean[k]) * scale[k];
      }
    if (last)
      for (int j = 0; j < r; ++j)
        y[j] = (y[j] + (PER_CHANNEL ? load<part>(bias + c + j * lanes, n) : Lanes{} + *bias)) * share;
    for (int j = 0; j < r; ++j) store<part>(out + c + j * lanes, y[j], n);
  });
}

// Each sample's instance-normalised rows, mean over the layers: one pass over memory, if what a thread works on stays in the cache. With
// samples_fit it does, and every thread has its share.
void instance_samples(const LayerTargets& x, int threads);
// The same for several views; `x.rows` are those of `shared`, and a final layer norm is done. False when memory is short.
bool instance_views(const LayerTargets& x, const Shared& shared, int threads);
bool samples_fit(const LayerTargets& x, int threads);
// The statistics alone, for instance norm where samples don't fit, and for the batch norm.
template <typename T> void column_statistics(const LayerTargets& x, ColumnStatistics<RealOf<T>> statistics, int threads);
// Row by row: none or layer norm of each layer, or the columns' statistics if given; mean; then none or layer norm.
template <typename T>
void target_rows(const LayerTargets& x, const ColumnStatistics<RealOf<T>>* statistics, int threads, const Shared* shared = nullptr);

}  // namespace D2V_ISA
}  // namespace d2v
