// Instance and batch norm: statistics of each channel over the frames of a sample.
//
// The frames come in blocks. A block is summed around the mean so far, m: with s the sum of x - m and q the sum of (x - m)^2,
//   mean' = m + s / n',   squares' = squares + q - s^2 / n'    (n' frames with the block).
// q - s^2 / n' is at least a quarter of q: n' is at least twice the block, but in the first one, where m is the mean of a quarter of the
// block's frames or more. So nothing cancels, whatever the mean. (m is a rounded number; `rest` carries the difference, and `lost` what
// rounding took from squares.) Each channel's operations are the same for any number of threads.
//
// A core alone does not keep memory busy: how it asks decides (measured on Zen 3). A layer of a sample is read in whole rows, not in
// pieces of 512 bytes that would stay in the second-level cache (half again the time), and the frames of a block come from 8 stretches
// of the sample, a cache line of each in turn (reading alone takes a third less time than along one). The wanted rows are then read
// once more, from the last-level cache. Asking memory ahead, 16 stretches, several frames of each, four layers or several rows at a
// time, a block of the next layer between the rows of this one, rows from the last to the first and results that go past the caches were
// tried and were not faster.
#include <stdlib.h>

#include "layer_targets.h"

namespace d2v {
namespace D2V_ISA {

static constexpr int64_t kStretches = 8;
static constexpr int64_t kRuns = 4;              // frames of a block from each stretch
static constexpr int kPair = 2;                  // layers whose rows are added up at a time
static constexpr int64_t kMaxWidth = 1024;       // channels at a time, at most
static constexpr int64_t kWidthStep = 64;        // they start at multiples of it: a channel always meets the same code
static constexpr int64_t kCacheBytes = 8 << 20;  // a sample's frames of one layer and its rows of the result; with more, statistics come first

template <typename Real>
struct alignas(64) Moments {
  Real mean[kMaxWidth], rest[kMaxWidth], squares[kMaxWidth], lost[kMaxWidth];
  Real sum[kMaxWidth], square[kMaxWidth];  // of the block, around the mean
};

// The mean of some frames, `stride` elements apart, and nothing else.
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

// Adds frames, `stride` elements apart, to the block; FRAMES 0: as many as `frames` says. A whole cache line of each at a time: frames
// that lie a multiple of 4 KB apart share their place in the first-level cache, and a second visit would find the line gone.
template <int64_t FRAMES, typename T>
static inline void add_frames(const T* x, int64_t stride, int64_t frames, bool first, Moments<RealOf<T>>& moments, int64_t width) {
  typedef LanesOf<T> Lanes;
  const int64_t count = FRAMES ? FRAMES : frames, lanes = lane_count<T>();
  each_registers<64 / D2V_REGISTER_BYTES, T>(width, [&](int64_t c, auto registers, int64_t n) {
    constexpr bool part = registers.part;
    constexpr int r = registers.count;
    Lanes mean[r], sum[r] = {}, square[r] = {};
    for (int j = 0; j < r; ++j) {
      const int64_t at = c + j * lanes;
      mean[j] = load(moments.mean + at);
      if (first) continue;
      sum[j] = load(moments.sum + at);
      square[j] = load(moments.square + at);
    }
#pragma GCC unroll 8
    for (int64_t t = 0; t < count; ++t)
      for (int j = 0; j < r; ++j) {
        const Lanes d = load<part>(x + t * stride + c + j * lanes, n) - mean[j];
        sum[j] += d;
        square[j] += d * d;
      }
    for (int j = 0; j < r; ++j) {
      store(moments.sum + c + j * lanes, sum[j]);
      store(moments.square + c + j * lanes, square[j]);
    }
  });
}

// The block of `count` frames joins the `before` ones.
template <typename T>
static inline void end_block(int64_t before, int64_t count, Moments<RealOf<T>>& moments, int64_t width) {
  typedef RealOf<T> Real;
  typedef LanesOf<T> Lanes;
  const Real old = static_cast<Real>(before), all = static_cast<Real>(before + count), inverse = 1 / all;
  for (int64_t c = 0; c < width; c += lane_count<T>()) {
    const Lanes mean = load(moments.mean + c), rest = load(moments.rest + c), squares = load(moments.squares + c);
    const Lanes shift = (load(moments.sum + c) + old * rest) * inverse, moved = mean + shift;
    store(moments.mean + c, moved);
    store(moments.rest + c, shift - (moved - mean));
    const Lanes within = load(moments.square + c) - all * shift * shift;
    const Lanes more = (old * rest * rest + within) - load(moments.lost + c), total = squares + more;
    store(moments.squares + c, total);
    store(moments.lost + c, (total - squares) - more);
  }
}

template <typename T>
static void moments_of(const T* x, int64_t stride, int64_t frames, Moments<RealOf<T>>& moments, int64_t width) {
  const int64_t length = frames / kStretches, left = frames % kStretches;
  first_guess(x, length ? length * stride : stride, length ? kStretches : left, moments, width);
  for (int64_t t = 0; t < length; t += kRuns) {
    const int64_t end = t + kRuns < length ? t + kRuns : length;
    for (int64_t i = t; i < end; ++i) add_frames<kStretches>(x + i * stride, length * stride, kStretches, i == t, moments, width);
    end_block<T>(t * kStretches, (end - t) * kStretches, moments, width);
  }
  if (left) {
    add_frames<0>(x + (frames - left) * stride, stride, left, true, moments, width);
    end_block<T>(frames - left, left, moments, width);
  }
}

// `result` is where row `base` of the result would stand.
template <typename T>
static void instance_sample(const LayerTargets& x, int64_t sample, int64_t channel, int64_t width, RealOf<T>* result, int64_t base) {
  typedef RealOf<T> Real;
  const int64_t frames = valid_frames(x, sample), start = sample * x.frames;
  Real* out = result + channel;
  const int64_t first_row = first_row_of(x, sample), end_row = first_row_of(x, sample + 1);
  int64_t padded = end_row;  // rows are ascending: those past the valid frames are the last ones
  while (padded > first_row && row_index(x, padded - 1) - start >= frames) --padded;
  for (int64_t i = padded; i < end_row; ++i) memset(out + (i - base) * x.channels, 0, static_cast<size_t>(width) * sizeof(Real));
  if (padded == first_row) return;

  Moments<Real> moments[kPair];
  alignas(64) Real scale[kPair][kMaxWidth], bias[kMaxWidth];
  memset(bias, 0, sizeof bias);
  for (int64_t k = 0; k < x.layer_count; k += kPair) {
    const int64_t pair = k + kPair <= x.layer_count ? kPair : x.layer_count - k;
    for (int64_t j = 0; j < pair; ++j) {
      moments_of(frame_of<T>(x, k + j, sample, 0) + channel, x.strides[2 * (k + j) + 1], frames, moments[j], width);
      for (int64_t c = 0; c < width; ++c) {
        scale[j][c] = inverse_deviation(moments[j].squares[c], static_cast<Real>(frames), static_cast<Real>(x.eps));
        bias[c] -= moments[j].rest[c] * scale[j][c];
      }
    }
    const bool first = k == 0, last = k + pair == x.layer_count;
    for (int64_t i = first_row; i < padded; ++i) {
      Normalised<T> of[kPair];
      for (int64_t j = 0; j < pair; ++j)
        of[j] = {frame_of<T>(x, k + j, sample, row_index(x, i) - start) + channel, moments[j].mean, scale[j], nullptr};
      Real* const sums = out + (i - base) * x.channels;
      if (pair == kPair) add_layers<kPair, true>(of, first, last, bias, x.layer_count, sums, width);
      else add_layers<1, true>(of, first, last, bias, x.layer_count, sums, width);
    }
  }
}

// A thread takes whole samples, channels in turn if they are many. Two threads in one sample took two and a half times as long, perhaps
// because the processor's prefetching takes lines of the result away from the other one.
template <typename T>
static void run_samples(const LayerTargets& x, int threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t sample = 0; sample < x.batch; ++sample)
    for (int64_t channel = 0; channel < x.channels; channel += kMaxWidth) {
      const int64_t left = x.channels - channel;
      instance_sample<T>(x, sample, channel, left < kMaxWidth ? left : kMaxWidth, static_cast<RealOf<T>*>(x.out), 0);
    }
}

// A sample's rows are made in memory of the thread's own and copied to every view that wants them.
template <typename T>
static bool run_views(const LayerTargets& x, const Shared& shared, int threads) {
  typedef RealOf<T> Real;
  const size_t row_bytes = static_cast<size_t>(x.channels) * sizeof(Real);
  int64_t most = 0;
  for (int64_t sample = 0; sample < x.batch; ++sample) {
    const int64_t rows = first_row_of(x, sample + 1) - first_row_of(x, sample);
    most = rows > most ? rows : most;
  }
  int failed = 0;
#pragma omp parallel num_threads(threads)
  {
    Real* const own = static_cast<Real*>(malloc(static_cast<size_t>(most) * row_bytes + 1));
    if (!own) {
#pragma omp atomic write
      failed = 1;
    }
#pragma omp barrier
    if (!failed) {
#pragma omp for schedule(dynamic)
      for (int64_t sample = 0; sample < x.batch; ++sample) {
        const int64_t first = first_row_of(x, sample), end = first_row_of(x, sample + 1);
        for (int64_t channel = 0; channel < x.channels; channel += kMaxWidth) {
          const int64_t left = x.channels - channel;
          instance_sample<T>(x, sample, channel, left < kMaxWidth ? left : kMaxWidth, own, first);
        }
        if (x.final_norm == NORM_LAYER) {
          const void* const layer = own;
          const int64_t strides[2] = {0, x.channels};
          const LayerTargets again = {&layer, strides, nullptr, nullptr, own, 1, 1, end - first, x.channels, end - first,
                                      sizeof(Real) == 8 ? F64 : F32, NORM_LAYER, NORM_NONE, 1, x.eps};
          target_rows<Real>(again, nullptr, 1);
        }
        for (int64_t i = first; i < end; ++i)
          for (int64_t k = shared.starts[i]; k < shared.starts[i + 1]; ++k)
            memcpy(static_cast<Real*>(x.out) + shared.to[k] * x.channels, own + (i - first) * x.channels, row_bytes);
      }
    }
    free(own);
  }
  return !failed;
}

bool instance_views(const LayerTargets& x, const Shared& shared, int threads) {
  if (x.dtype == F32) return run_views<float>(x, shared, threads);
  if (x.dtype == F64) return run_views<double>(x, shared, threads);
  if (x.dtype == BF16) return run_views<bf16>(x, shared, threads);
  return run_views<f16>(x, shared, threads);
}

void instance_samples(const LayerTargets& x, int threads) {
  if (x.dtype == F32) run_samples<float>(x, threads);
  else if (x.dtype == F64) run_samples<double>(x, threads);
  else if (x.dtype == BF16) run_samples<bf16>(x, threads);
  else run_samples<f16>(x, threads);
}

bool samples_fit(const LayerTargets& x, int threads) {
  const int64_t real = x.dtype == F64 ? 8 : 4, element = x.dtype == F64 || x.dtype == F32 ? real : 2;
  const int64_t rows = x.batch ? (x.count + x.batch - 1) / x.batch : 0, width = x.channels < kMaxWidth ? x.channels : kMaxWidth;
  const int64_t turns = (x.batch + threads - 1) / threads;  // of the thread that has most to do
  return (x.frames * element + rows * real) * width <= kCacheBytes && 5 * turns * threads <= 6 * x.batch;
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

// Channels of a task: all of them, unless they are too many or the samples of all layers too few for the threads.
static int64_t tile_width(int64_t channels, int64_t pairs, int threads) {
  const int64_t least = (channels + kMaxWidth - 1) / kMaxWidth, wanted = (threads + pairs - 1) / pairs, tiles = least < wanted ? wanted : least;
  return ((channels + tiles - 1) / tiles + kWidthStep - 1) / kWidthStep * kWidthStep;
}

template <typename T>
void column_statistics(const LayerTargets& x, ColumnStatistics<RealOf<T>> statistics, int threads) {
  typedef RealOf<T> Real;
  const int64_t pairs = x.layer_count * x.batch;
  const int64_t width = tile_width(x.channels, pairs, threads), tiles = (x.channels + width - 1) / width;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < pairs * tiles; ++task) {
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
