// Instance and batch norm: statistics of each channel over the frames of a sample.
//
// The frames come in blocks of 16. A block is summed around the mean so far, m: with s the sum of x - m and q the sum of (x - m)^2,
//   mean' = m + s / n',   squares' = squares + q - s^2 / n'    (n' frames with the block).
// q - s^2 / n' is at least half of q from the second block on, and the first block is summed around its own mean, so nothing cancels,
// whatever the mean. (m is a rounded number; `rest` carries the difference, and `lost` what rounding took from squares.) Each channel's
// operations are the same for every tile width and number of threads.
//
// Blocks of 8 or 32 frames, several registers side by side, several layers at a time, and normalising one layer while the next one is
// summed were tried and were not faster. Asking for the next block's frames ahead is worth 10 %.
#include <stdlib.h>

#include "layer_targets.h"
#include "stream.h"

namespace d2v {
namespace D2V_ISA {

static constexpr int64_t kBlock = 16;
static constexpr int64_t kMaxWidth = 512;      // channels of a tile, at most
static constexpr int64_t kWidthStep = 64;      // tiles start at multiples of it: a channel always meets the same code
static constexpr int64_t kCacheBytes = 384 << 10;  // of a tile: its frames of one layer, and its rows of the result
static constexpr int64_t kStreamed = 1 << 20;      // results of so many bytes are written past the caches

template <typename Real>
struct alignas(64) Moments {
  Real mean[kMaxWidth], rest[kMaxWidth], squares[kMaxWidth], lost[kMaxWidth];
};

template <typename T>
static inline void first_guess(const T* x, int64_t stride, int64_t frames, Moments<RealOf<T>>& moments, int64_t width) {
  typedef RealOf<T> Real;
  each_registers<1, T>(width, [&](int64_t c, auto registers, int64_t n) {
    constexpr bool part = registers.part;
    LanesOf<T> sum = {};
    for (int64_t t = 0; t < frames; ++t) sum += load<part>(x + t * stride + c, n);
    store(moments.mean + c, sum * (1 / static_cast<Real>(frames)));
    store(moments.rest + c, LanesOf<T>{});
    store(moments.squares + c, LanesOf<T>{});
    store(moments.lost + c, LanesOf<T>{});
  });
}

// FRAMES 0: as many as `frames` says, at most kBlock.
template <int64_t FRAMES, typename T>
static inline void add_frames(const T* x, int64_t stride, int64_t frames, int64_t before, Moments<RealOf<T>>& moments, int64_t width) {
  typedef RealOf<T> Real;
  typedef LanesOf<T> Lanes;
  const int64_t count = FRAMES ? FRAMES : frames;
  const Real old = static_cast<Real>(before), all = static_cast<Real>(before + count), inverse = 1 / all;
  each_registers<1, T>(width, [&](int64_t c, auto registers, int64_t n) {
    constexpr bool part = registers.part;
    const Lanes mean = load(moments.mean + c), rest = load(moments.rest + c), squares = load(moments.squares + c);
    Lanes sum = {}, square = {};
#pragma GCC unroll 16
    for (int64_t t = 0; t < count; ++t) {
      __builtin_prefetch(x + (t + kBlock) * stride + c);
      const Lanes d = load<part>(x + t * stride + c, n) - mean;
      sum += d;
      square += d * d;
    }
    const Lanes shift = (sum + old * rest) * inverse, moved = mean + shift;
    store(moments.mean + c, moved);
    store(moments.rest + c, shift - (moved - mean));
    const Lanes more = (old * rest * rest + (square - all * shift * shift)) - load(moments.lost + c), total = squares + more;
    store(moments.squares + c, total);
    store(moments.lost + c, (total - squares) - more);
  });
}

template <typename T>
static void moments_of(const T* x, int64_t stride, int64_t frames, Moments<RealOf<T>>& moments, int64_t width) {
  first_guess(x, stride, frames < kBlock ? frames : kBlock, moments, width);
  int64_t t = 0;
  for (; t + kBlock <= frames; t += kBlock) add_frames<kBlock>(x + t * stride, stride, kBlock, t, moments, width);
  if (t < frames) add_frames<0>(x + t * stride, stride, frames - t, t, moments, width);
}

// Frames of the next layer that are asked for while this one is normalised from the cache: memory would be idle.
template <typename T>
struct NextLayer {
  const T* at;
  void one() {
    const int64_t step = 2 * lane_count<T>();  // add_layers calls it for every second register
    for (int64_t c = 0; c < step; c += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(at + c);
    at += step;
  }
};

// `sums` has room for all rows of the tile. Summing in the result itself would let two threads that work on neighbouring tiles take
// each other's cache lines away, by the processor's own prefetching (twice the time, where the memory is fast).
template <typename T>
static void instance_tile(const LayerTargets& x, int64_t sample, int64_t channel, int64_t width, int64_t first_row, int64_t end_row,
                          RealOf<T>* sums) {
  typedef RealOf<T> Real;
  const int64_t frames = valid_frames(x, sample), start = sample * x.frames;
  Real* out = static_cast<Real*>(x.out) + channel;
  int64_t padded = end_row;  // rows are ascending: those past the valid frames are the last ones
  while (padded > first_row && row_index(x, padded - 1) - start >= frames) --padded;
  for (int64_t i = padded; i < end_row; ++i) memset(out + i * x.channels, 0, static_cast<size_t>(width) * sizeof(Real));
  if (padded == first_row) return;

  Moments<Real> moments;
  alignas(64) Real scale[kMaxWidth], bias[kMaxWidth];
  memset(bias, 0, sizeof bias);
  for (int64_t k = 0; k < x.layer_count; ++k) {
    const T* source = frame_of<T>(x, k, sample, 0) + channel;
    const int64_t stride = x.strides[2 * k + 1];
    moments_of(source, stride, frames, moments, width);
    for (int64_t c = 0; c < width; ++c) {
      scale[c] = inverse_deviation(moments.squares[c], static_cast<Real>(frames), static_cast<Real>(x.eps));
      bias[c] -= moments.rest[c] * scale[c];
    }
    const bool last = k + 1 == x.layer_count;
    for (int64_t i = first_row; i < padded; ++i) {
      const Normalised<T> of = {source + (row_index(x, i) - start) * stride, moments.mean, scale};
      NextLayer<T> next = {last ? source : frame_of<T>(x, k + 1, sample, i - first_row) + channel};
      add_layers<true>(&of, 1, k == 0, last, bias, x.layer_count, sums + (i - first_row) * width, width, next);
    }
  }
  const int64_t bytes = width * static_cast<int64_t>(sizeof(Real));
  const bool streamed = x.count * x.channels * static_cast<int64_t>(sizeof(Real)) >= kStreamed;
  for (int64_t i = first_row; i < padded; ++i) {
    if (streamed) stream_copy(out + i * x.channels, sums + (i - first_row) * width, bytes);
    else memcpy(out + i * x.channels, sums + (i - first_row) * width, static_cast<size_t>(bytes));
  }
}

// --- tiles -----------------------------------------------------------------------------------------------------------------------

static inline int64_t up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

static int64_t element_bytes(const LayerTargets& x) { return x.dtype == F64 ? 8 : x.dtype == F32 ? 4 : 2; }

// Bytes that one channel of a tile keeps in the cache.
static int64_t channel_bytes(const LayerTargets& x) {
  const int64_t rows = x.batch ? (x.count + x.batch - 1) / x.batch : 0;
  return x.frames * element_bytes(x) + rows * (x.dtype == F64 ? 8 : 4);
}

bool tiles_fit(const LayerTargets& x) { return channel_bytes(x) * kWidthStep <= 2 * kCacheBytes; }

// Equal tiles, narrow enough for the cache and for every thread to have two.
static int64_t tile_width(const LayerTargets& x, int64_t widest, int64_t samples, int threads) {
  int64_t tiles = (x.channels + widest - 1) / widest;
  const int64_t wanted = (2 * threads + samples - 1) / samples;
  if (threads > 1 && tiles < wanted) tiles = wanted;
  return up((x.channels + tiles - 1) / tiles, kWidthStep);
}

// False when memory is short.
template <typename T>
static bool run_tiles(const LayerTargets& x, int threads) {
  typedef RealOf<T> Real;
  int64_t widest = kCacheBytes / (channel_bytes(x) + 1) / kWidthStep * kWidthStep;
  widest = widest < kWidthStep ? kWidthStep : widest > kMaxWidth ? kMaxWidth : widest;
  const int64_t width = tile_width(x, widest, x.batch, threads), tiles = (x.channels + width - 1) / width;
  int64_t most = 0;  // rows of a sample
  for (int64_t b = 0; b < x.batch; ++b) {
    const int64_t rows = first_row_of(x, b + 1) - first_row_of(x, b);
    most = rows > most ? rows : most;
  }
  const int64_t together = x.batch >= 2 * threads ? tiles : 1;  // a thread takes whole samples if there are enough
  bool enough = true;
#pragma omp parallel num_threads(threads) reduction(&& : enough)
  {
    Real* sums = static_cast<Real*>(malloc(static_cast<size_t>(most * width) * sizeof(Real) + 1));
    enough = sums != nullptr;
#pragma omp for schedule(dynamic, together)
    for (int64_t task = 0; task < x.batch * tiles; ++task) {
      const int64_t sample = task / tiles, channel = task % tiles * width, left = x.channels - channel;
      if (sums)
        instance_tile<T>(x, sample, channel, left < width ? left : width, first_row_of(x, sample), first_row_of(x, sample + 1), sums);
    }
    stream_fence();
    free(sums);
  }
  return enough;
}

bool instance_tiles(const LayerTargets& x, int threads) {
  if (x.dtype == F32) return run_tiles<float>(x, threads);
  if (x.dtype == F64) return run_tiles<double>(x, threads);
  if (x.dtype == BF16) return run_tiles<bf16>(x, threads);
  return run_tiles<f16>(x, threads);
}

// --- statistics alone --------------------------------------------------------------------------------------------------------------

// One mean and scale for each layer from those of its samples; `squares` still holds sums of squares.
template <typename Real>
static void merge_samples(const LayerTargets& x, const ColumnStatistics<Real>& of, int64_t layer, int64_t c) {
  const int64_t stride = x.channels, at = layer * x.batch * stride + c;
  Real frames = 0, offset = 0, squares = 0;
  const Real origin = of.mean[at];
  for (int64_t b = 0; b < x.batch; ++b) {
    const Real n = static_cast<Real>(valid_frames(x, b));
    frames += n;
    offset += n * ((of.mean[at + b * stride] - origin) + of.rest[at + b * stride]);
  }
  offset /= frames;
  for (int64_t b = 0; b < x.batch; ++b) {
    const Real distance = (of.mean[at + b * stride] - origin) + of.rest[at + b * stride] - offset;
    squares += of.scale[at + b * stride] + static_cast<Real>(valid_frames(x, b)) * distance * distance;
  }
  const Real moved = origin + offset;
  of.mean[at] = moved;
  of.rest[at] = offset - (moved - origin);
  of.scale[at] = inverse_deviation(squares, frames, static_cast<Real>(x.eps));
}

template <typename T>
void column_statistics(const LayerTargets& x, ColumnStatistics<RealOf<T>> statistics, int threads) {
  typedef RealOf<T> Real;
  const int64_t width = tile_width(x, kMaxWidth, x.layer_count * x.batch, threads), tiles = (x.channels + width - 1) / width;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < x.layer_count * x.batch * tiles; ++task) {
      const int64_t pair = task / tiles, layer = pair / x.batch, sample = pair % x.batch, channel = task % tiles * width;
      const int64_t left = x.channels - channel, n = left < width ? left : width, frames = valid_frames(x, sample);
      Moments<Real> moments;
      moments_of(frame_of<T>(x, layer, sample, 0) + channel, x.strides[2 * layer + 1], frames, moments, n);
      const int64_t at = pair * x.channels + channel;
      memcpy(statistics.mean + at, moments.mean, static_cast<size_t>(n) * sizeof(Real));
      memcpy(statistics.rest + at, moments.rest, static_cast<size_t>(n) * sizeof(Real));
      for (int64_t c = 0; c < n; ++c)
        statistics.scale[at + c] = statistics.shared ? moments.squares[c]
            : inverse_deviation(moments.squares[c], static_cast<Real>(frames), static_cast<Real>(x.eps));
    }
    if (statistics.shared) {
#pragma omp for schedule(static)
      for (int64_t task = 0; task < x.layer_count * x.channels; ++task)
        merge_samples(x, statistics, task / x.channels, task % x.channels);
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < x.batch * x.channels; ++i) {
      Real bias = 0;
      for (int64_t k = 0; k < x.layer_count; ++k) {
        const int64_t at = statistics.at(x, k, i / x.channels) + i % x.channels;
        bias -= statistics.rest[at] * statistics.scale[at];
      }
      statistics.bias[i] = bias;
    }
  }
}

template void column_statistics<float>(const LayerTargets&, ColumnStatistics<float>, int);
template void column_statistics<double>(const LayerTargets&, ColumnStatistics<double>, int);
template void column_statistics<bf16>(const LayerTargets&, ColumnStatistics<float>, int);
template void column_statistics<f16>(const LayerTargets&, ColumnStatistics<float>, int);

}  // namespace D2V_ISA
}  // namespace d2v
