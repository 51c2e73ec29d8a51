// A layer of a decoder: grouped convolution, layer norm without affine parameters, GELU, residual; forward and backward.
//
// A block of places goes through everything while it is in the second-level cache: one group after the other is cut out with zeros around it
// and multiplied by its weights, then the whole rows are normalised. Only z, the convolution's result, is kept for the backward pass, which
// makes the gradient of z (and of the bias), then that of the input by the same convolution turned round, then that of the weights. Sums
// over places are cut into blocks and shares of fixed sizes: no bit depends on the threads.
#include <stdlib.h>

#include "decoder_layer.h"
#include "shares.h"

namespace d2v {
namespace D2V_ISA {

static const int64_t kPlaces = 64;       // of a block, about
static const int64_t kSumRows = 256;     // rows whose gradients of the bias are summed in Real
static const int64_t kLittle = 1 << 15;  // numbers that are not worth waking a thread for

template <typename Real>
static Real* memory_for(int64_t count) {
  return static_cast<Real*>(aligned_alloc(64, static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(Real)), 64) + 64)));
}

template <typename Real>
static RowNorm<Real> norm_of(const DecoderLayer& x) {
  return {x.out_channels, static_cast<Real>(x.eps), nullptr, nullptr};
}

// z in Real, as it was stored, to y; `line` is room for the residual's row.
template <typename Real>
static inline void finish(const DecoderLayer& x, Real* z, int64_t place, Real* line) {
  const bool residual = x.residual && x.channels == x.out_channels;
  if (residual) decode_any(x.dtype, x.x, place * x.channels, line, x.channels);
  finish_row<false>(norm_of<Real>(x), z, residual ? line : nullptr, z);
  encode_any(x.dtype, z, x.y, place * x.out_channels, x.out_channels);
}

template <typename Real>
static bool norm_only(const DecoderLayer& x, int threads) {
  return each_share<Real>(places(x), 2 * x.out_channels, threads, [&](int64_t place, Real* row) {
    decode_any(x.dtype, x.z, place * x.out_channels, row, x.out_channels);
    finish(x, row, place, row + x.out_channels);
  });
}

// The convolution of one block of places, all groups: [places][groups * out] in `out`.
template <typename Real>
static inline void convolve_block(const DecoderLayer& x, const Groups<Real>& g, const void* tensor, int64_t sample, int64_t first, int64_t rows,
                                  Real* piece, Real* out) {
  for (int64_t group = 0; group < g.groups; ++group) {
    cut_piece(x, g, tensor, sample, first, rows, group, piece);
    convolve_any(x, g, group, piece, rows, out + group * g.out, g.groups * g.out);
  }
}

// Calls finish(block's result, first place, places, a row's room) for every block of the convolution of `tensor`.
template <typename Real, typename Finish>
static bool convolve(const DecoderLayer& x, const void* tensor, bool back, int threads, Finish finish) {
  Groups<Real> g;
  g.shape(x, back);
  g.weights = memory_for<Real>(g.weights_size());
  if (!g.weights) return false;
  g.pack(x, back, threads);
  const Blocks blocks(x, kPlaces);
  const int64_t result = blocks.rows * x.width * g.groups * g.out, row = g.groups * (g.in > g.out ? g.in : g.out);
  int failed = 0;
#pragma omp parallel num_threads(threads)
  {
    Real* const piece = memory_for<Real>(round_up(g.piece_size(blocks.rows, x.width), 16) + round_up(result, 16) + row);
    if (!piece) {
#pragma omp atomic write
      failed = 1;
    }
#pragma omp barrier
    if (!failed) {
      Real* const out = piece + round_up(g.piece_size(blocks.rows, x.width), 16);
#pragma omp for schedule(static)
      for (int64_t block = 0; block < blocks.count; ++block) {
        const int64_t sample = block / blocks.per_sample, first = block % blocks.per_sample * blocks.rows;
        const int64_t rows = x.height - first < blocks.rows ? x.height - first : blocks.rows;
        convolve_block(x, g, tensor, sample, first, rows, piece, out);
        finish(out, (sample * x.height + first) * x.width, rows * x.width, out + round_up(result, 16));
      }
    }
    free(piece);
  }
  free(g.weights);
  return !failed;
}

template <typename Real>
static bool forward(const DecoderLayer& x, int threads) {
  if (!x.weight) return norm_only<Real>(x, threads);
  Real* const bias = memory_for<Real>(x.out_channels);
  if (!bias) return false;
  decode_any(x.dtype, x.bias, 0, bias, x.out_channels);
  const bool wide = x.dtype == (sizeof(Real) == 8 ? F64 : F32);
  const bool done = convolve<Real>(x, x.x, false, threads, [&](Real* out, int64_t first, int64_t count, Real* line) {
    for (int64_t i = 0; i < count; ++i) {
      Real* const z = out + i * x.out_channels;
      for (int64_t c = 0; c < x.out_channels; ++c) z[c] += bias[c];
      encode_any(x.dtype, z, x.z, (first + i) * x.out_channels, x.out_channels);
      if (!wide) decode_any(x.dtype, x.z, (first + i) * x.out_channels, z, x.out_channels);  // what the backward pass will find
      finish(x, z, first + i, line);
    }
  });
  free(bias);
  return done;
}

// The gradient of z, and that of the bias.
template <typename Real>
static bool norm_backward(const DecoderLayer& x, int threads) {
  const int64_t channels = x.out_channels, count = places(x), shares = (count + kSumRows - 1) / kSumRows;
  Real* const sums = memory_for<Real>(shares * channels);
  if (!sums) return false;
  const bool done = each_share<Real>(shares, 3 * channels, threads, [&](int64_t share, Real* row) {
    Real* const sum = sums + share * channels;
    memset(sum, 0, static_cast<size_t>(channels) * sizeof(Real));
    for (int64_t place = share * kSumRows; place < (share + 1) * kSumRows && place < count; ++place) {
      decode_any(x.dtype, x.z, place * channels, row, channels);
      decode_any(x.dtype, x.gradient, place * channels, row + channels, channels);
      unfinish_row<false>(norm_of<Real>(x), row, row + channels, row, row, row + 2 * channels, sum);
      encode_any(x.dtype, row, x.z_gradient, place * channels, channels);
    }
  });
  for (int64_t c = 0; done && c < channels; ++c) {
    double total = 0;
    for (int64_t share = 0; share < shares; ++share) total += static_cast<double>(sums[share * channels + c]);
    encode_any(x.dtype, &total, x.bias_gradient, c, 1);
  }
  free(sums);
  return done;
}

template <typename Real>
static bool input_gradient(const DecoderLayer& x, int threads) {
  const bool residual = x.residual && x.channels == x.out_channels;
  return convolve<Real>(x, x.z_gradient, true, threads, [&](Real* out, int64_t first, int64_t count, Real* line) {
    for (int64_t i = 0; i < count; ++i) {
      Real* const row = out + i * x.channels;
      if (residual) {
        decode_any(x.dtype, x.gradient, (first + i) * x.channels, line, x.channels);
        for (int64_t c = 0; c < x.channels; ++c) row[c] += line[c];
      }
      encode_any(x.dtype, row, x.x_gradient, (first + i) * x.channels, x.channels);
    }
  });
}

template <typename Real>
static bool backward(const DecoderLayer& x, int threads) {
  if (!norm_backward<Real>(x, threads)) return false;
  if (!x.weight) return true;
  if (x.x_gradient && !input_gradient<Real>(x, threads)) return false;
  return !x.weight_gradient || decoder_weight_gradient<Real>(x, threads);
}

static int useful(const DecoderLayer& x, int threads) { return places(x) * x.out_channels < kLittle ? 1 : threads; }

bool decoder_layer_forward(const DecoderLayer& x, int threads) {
  return x.dtype == F64 ? forward<double>(x, useful(x, threads)) : forward<float>(x, useful(x, threads));
}

bool decoder_layer_backward(const DecoderLayer& x, int threads) {
  return x.dtype == F64 ? backward<double>(x, useful(x, threads)) : backward<float>(x, useful(x, threads));
}

}  // namespace D2V_ISA
}  // namespace d2v
