// What the files of decoder_layer share: one group's convolution of a block of places.
#pragma once
#include "norm_gelu.h"
#include "products.h"

namespace d2v {
namespace D2V_ISA {

static inline int64_t places(const DecoderLayer& x) { return x.samples * x.height * x.width; }

// A block is some rows of the grid of one sample, about as many places as `wanted`; over time a row is one place.
struct Blocks {
  int64_t rows, per_sample, count;
  Blocks(const DecoderLayer& x, int64_t wanted) {
    rows = wanted / x.width > 0 ? wanted / x.width : 1;
    rows = rows < x.height ? rows : x.height;
    per_sample = rows ? (x.height + rows - 1) / rows : 0;
    count = x.samples * per_sample;
  }
};

static constexpr int64_t kMostTaps = 1024;  // of a kernel

// Numbers of a row of a tensor as Real; a copy where they are that already.
template <typename Real>
static inline void read_row(const DecoderLayer& x, const void* tensor, int64_t at, Real* to, int64_t n) {
  if (x.dtype == (sizeof(Real) == 8 ? F64 : F32)) memcpy(to, static_cast<const Real*>(tensor) + at, static_cast<size_t>(n) * sizeof(Real));
  else decode_any(x.dtype, tensor, at, to, n);
}

// Registers across the result's channels of a group, and rows of a tile beside them.
template <int LANES> struct Shape {
  static constexpr int most = (D2V_REGISTER_BYTES == 64 ? 24 : 12) / LANES;
  static constexpr int rows = most < 12 ? most : 12;
};

// One direction of a grouped convolution: what each group reads and makes, and its weights as panels.
template <typename Real>
struct Groups {
  int64_t groups, in, out, high, wide, top, left;  // channels of a group; kernel; zeros before the first row and place
  int lanes;                                       // registers of a panel
  int64_t panels;                                  // of a group
  Real* weights;                                   // [groups][panels][high * wide * in][lanes * lane_count]

  int64_t depth() const { return high * wide * in; }
  int64_t panel_columns() const { return lanes * lane_count<Real>(); }
  const Real* panel(int64_t group, int64_t number) const { return weights + (group * panels + number) * depth() * panel_columns(); }
  // Numbers of a padded piece of the input: `rows` of the grid with their neighbours, one group.
  int64_t piece_size(int64_t rows, int64_t width) const { return (rows + high - 1) * (width + wide - 1) * in; }

  void shape(const DecoderLayer& x, bool back) {
    groups = x.groups;
    in = (back ? x.out_channels : x.channels) / groups;
    out = (back ? x.channels : x.out_channels) / groups;
    high = x.kernel_height;
    wide = x.kernel_width;
    top = back ? high - 1 - high / 2 : high / 2;
    left = back ? wide - 1 - wide / 2 : wide / 2;
    const int64_t registers = (out + lane_count<Real>() - 1) / lane_count<Real>();
    lanes = registers % 3 == 0 ? 3 : registers == 1 ? 1 : 2;
    panels = (registers + lanes - 1) / lanes;
  }
  int64_t weights_size() const { return groups * panels * depth() * panel_columns(); }

  // From [out_channels, channels / groups, high, wide]; backwards with the kernel turned round and the channels swapped.
  void pack(const DecoderLayer& x, bool back, int threads) const {
    const int64_t columns = panel_columns(), taps = high * wide, own = x.channels / groups, each = x.out_channels / groups;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t group = 0; group < groups; ++group) {
      Real* const first = weights + group * panels * depth() * columns;
      memset(first, 0, static_cast<size_t>(panels * depth() * columns) * sizeof(Real));
      for (int64_t o = 0; o < each; ++o)
        for (int64_t i = 0; i < own; ++i) {
          Real line[kMostTaps];
          decode_any(x.dtype, x.weight, ((group * each + o) * own + i) * taps, line, taps);
          const int64_t row = back ? o : i, column = back ? i : o;
          Real* to = first + (column / columns * depth() + row) * columns + column % columns;
          for (int64_t tap = 0; tap < taps; ++tap, to += in * columns) *to = line[back ? taps - 1 - tap : tap];
        }
    }
  }
};

// One group of some rows of a sample's grid, with zeros around: [rows + high - 1][width + wide - 1][in].
template <typename Real>
static inline void cut_piece(const DecoderLayer& x, const Groups<Real>& g, const void* tensor, int64_t sample, int64_t first, int64_t rows,
                             int64_t group, Real* piece) {
  const int64_t width = x.width + g.wide - 1, channels = g.in * g.groups;
  for (int64_t r = 0; r < rows + g.high - 1; ++r) {
    Real* to = piece + r * width * g.in;
    const int64_t row = first + r - g.top;
    if (row < 0 || row >= x.height) {
      memset(to, 0, static_cast<size_t>(width * g.in) * sizeof(Real));
      continue;
    }
    memset(to, 0, static_cast<size_t>(g.left * g.in) * sizeof(Real));
    to += g.left * g.in;
    for (int64_t c = 0; c < x.width; ++c, to += g.in)
      read_row(x, tensor, ((sample * x.height + row) * x.width + c) * channels + group * g.in, to, g.in);
    memset(to, 0, static_cast<size_t>((g.wide - 1 - g.left) * g.in) * sizeof(Real));
  }
}

// The convolution of a piece: places of `rows` rows, into out [rows * width][stride] at this group's channels.
template <int LANES, typename Real>
static inline void convolve_piece(const DecoderLayer& x, const Groups<Real>& g, int64_t group, const Real* piece, int64_t rows, Real* out,
                                  int64_t stride) {
  typedef LanesOf<Real> Lanes;
  constexpr int tile = Shape<LANES>::rows;
  const int64_t lanes = lane_count<Real>(), width = x.width + g.wide - 1, count = rows * x.width, run = g.wide * g.in;
  for (int64_t number = 0; number < g.panels; ++number) {
    const Real* const panel = g.panel(group, number);
    const int64_t channel = number * g.panel_columns(), left = g.out - channel;
    for (int64_t first = 0; first < count; first += tile) {
      Lanes sums[tile][LANES] = {};
      const Real* place[tile];
      for (int i = 0; i < tile; ++i) {
        const int64_t p = first + i < count ? first + i : count - 1;
        place[i] = piece + (p / x.width * width + p % x.width) * g.in;
      }
      for (int64_t y = 0; y < g.high; ++y) {
        add_products<tile, LANES>(place, 1, panel + y * run * LANES * lanes, run, sums);
        for (int i = 0; i < tile; ++i) place[i] += width * g.in;
      }
      for (int i = 0; i < tile && first + i < count; ++i)
        for (int j = 0; j < LANES; ++j) {
          const int64_t n = left - j * lanes;
          Real* const to = out + (first + i) * stride + channel + j * lanes;
          if (n >= lanes) store(to, sums[i][j]);
          else if (n > 0) store<true>(to, sums[i][j], n);
        }
    }
  }
}

template <typename Real>
static inline void convolve_any(const DecoderLayer& x, const Groups<Real>& g, int64_t group, const Real* piece, int64_t rows, Real* out,
                                int64_t stride) {
  if (g.lanes == 3) convolve_piece<3>(x, g, group, piece, rows, out, stride);
  else if (g.lanes == 2) convolve_piece<2>(x, g, group, piece, rows, out, stride);
  else convolve_piece<1>(x, g, group, piece, rows, out, stride);
}

// The gradient of the weights from x and z_gradient; false when memory is short.
template <typename Real> bool decoder_weight_gradient(const DecoderLayer& x, int threads);

}  // namespace D2V_ISA
}  // namespace d2v
