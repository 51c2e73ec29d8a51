// The gradient of a decoder layer's weights: for each tap the products of the input's channels and the gradient's, summed over all places.
//
// The blocks are dealt out to a fixed number of shares, each with sums of its own for all groups, so that a block is read once while all
// groups take from it; the shares are added up in order.
#include <stdlib.h>

#include "decoder_layer.h"

namespace d2v {
namespace D2V_ISA {

static const int64_t kPlaces = 128;  // of a block, about
static const int64_t kShares = 8;

// Adds a block: sums [depth rounded up to tiles][columns] of one panel += piece^T * gradient, where `gradient` is [places][columns].
template <int LANES, typename Real>
static inline void add_block(const DecoderLayer& x, const Groups<Real>& g, const Real* piece, int64_t rows, const Real* gradient, Real* sums) {
  typedef LanesOf<Real> Lanes;
  constexpr int tile = Shape<LANES>::rows;
  const int64_t lanes = lane_count<Real>(), columns = LANES * lanes, width = x.width + g.wide - 1, depth = g.depth(), run = g.wide * g.in;
  for (int64_t first = 0; first < depth; first += tile) {
    Lanes acc[tile][LANES];
    const Real* at[tile];
    for (int i = 0; i < tile; ++i) {
      const int64_t d = first + i < depth ? first + i : depth - 1;
      at[i] = piece + d / run * width * g.in + d % run;
      for (int j = 0; j < LANES; ++j) acc[i][j] = load(sums + (first + i) * columns + j * lanes);
    }
    if (x.width == 1) {
      add_products<tile, LANES>(at, g.in, gradient, rows, acc);
    } else {
      for (int64_t r = 0; r < rows; ++r) {
        add_products<tile, LANES>(at, g.in, gradient + r * x.width * columns, x.width, acc);
        for (int i = 0; i < tile; ++i) at[i] += width * g.in;
      }
    }
    for (int i = 0; i < tile; ++i)
      for (int j = 0; j < LANES; ++j) store(sums + (first + i) * columns + j * lanes, acc[i][j]);
  }
}

template <typename Real>
bool decoder_weight_gradient(const DecoderLayer& x, int threads) {
  Groups<Real> g;
  g.shape(x, false);
  const Blocks blocks(x, kPlaces);
  const int64_t columns = g.panel_columns(), depth = round_up(g.depth(), 12 * 8), panel = depth * columns;
  const int64_t share_size = g.groups * g.panels * panel, shares = blocks.count < kShares ? (blocks.count ? blocks.count : 1) : kShares;
  const int64_t piece_size = round_up(g.piece_size(blocks.rows, x.width), 16), gradient_size = blocks.rows * x.width * columns;
  Real* const sums = static_cast<Real*>(calloc(static_cast<size_t>(shares * share_size), sizeof(Real)));
  if (!sums) return false;
  int failed = 0;
#pragma omp parallel num_threads(threads)
  {
    Real* const piece = static_cast<Real*>(malloc(static_cast<size_t>(piece_size + gradient_size) * sizeof(Real)));
    if (!piece) {
#pragma omp atomic write
      failed = 1;
    }
#pragma omp barrier
    if (!failed) {
      Real* const gradient = piece + piece_size;
#pragma omp for schedule(dynamic)
      for (int64_t share = 0; share < shares; ++share)
        for (int64_t block = blocks.count * share / shares; block < blocks.count * (share + 1) / shares; ++block) {
          const int64_t sample = block / blocks.per_sample, first = block % blocks.per_sample * blocks.rows;
          const int64_t rows = x.height - first < blocks.rows ? x.height - first : blocks.rows, start = (sample * x.height + first) * x.width;
          for (int64_t group = 0; group < g.groups; ++group) {
            cut_piece(x, g, x.x, sample, first, rows, group, piece);
            for (int64_t number = 0; number < g.panels; ++number) {
              const int64_t channel = number * columns, left = g.out - channel, n = left < columns ? left : columns;
              for (int64_t i = 0; i < rows * x.width; ++i) {
                Real* const to = gradient + i * columns;
                read_row(x, x.z_gradient, (start + i) * x.out_channels + group * g.out + channel, to, n);
                for (int64_t c = n; c < columns; ++c) to[c] = 0;
              }
              Real* const own = sums + share * share_size + (group * g.panels + number) * panel;
              if (g.lanes == 3) add_block<3>(x, g, piece, rows, gradient, own);
              else if (g.lanes == 2) add_block<2>(x, g, piece, rows, gradient, own);
              else add_block<1>(x, g, piece, rows, gradient, own);
            }
          }
        }
    }
    free(piece);
  }
  const int64_t taps = g.high * g.wide;
  for (int64_t group = 0; !failed && group < g.groups; ++group)
    for (int64_t o = 0; o < g.out; ++o)
      for (int64_t d = 0; d < g.depth(); ++d) {
        const int64_t at = (group * g.panels + o / columns) * panel + d * columns + o % columns, tap = d / g.in, i = d % g.in;
        double total = 0;
        for (int64_t share = 0; share < shares; ++share) total += static_cast<double>(sums[share * share_size + at]);
        encode_any(x.dtype, &total, x.weight_gradient, ((group * g.out + o) * g.in + i) * taps + tap, 1);
      }
  free(sums);
  return !failed;
}

template bool decoder_weight_gradient<float>(const DecoderLayer&, int);
template bool decoder_weight_gradient<double>(const DecoderLayer&, int);

}  // namespace D2V_ISA
}  // namespace d2v
