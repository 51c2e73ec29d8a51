// y = gelu(norm(convolution of a signal)), the first layer of a front end; nothing but the signal is kept for the backward pass, which
// computes all of it again and goes no further than to the parameters.
//
// A window has few numbers, so its row is made in the first-level cache and never written to memory before the norm. Sums over rows are cut
// into shares whose size depends on their number alone: no bit depends on the threads.
#include "norm_gelu.h"
#include "shares.h"

namespace d2v {
namespace D2V_ISA {

static const int64_t kPart = 256;        // rows whose gradients of parameters are summed in Real, before they are added in double
static const int64_t kMostShares = 64;   // each has sums of its own
static const int64_t kRows = 4;          // windows that are convolved at a time, so that weights are read once for all
static const int64_t kSide = 8;          // rows whose gradients are multiplied with their windows at a time
static const int64_t kLittle = 1 << 15;  // numbers that are not worth waking a thread for

template <typename Real>
static inline const Real* window_of(const FrontLayer& x, int64_t row) {
  return static_cast<const Real*>(x.signal) + row / x.frames * x.length + row % x.frames * x.step;
}

// z = the numbers of up to kRows windows, from that of `row` on, times the rows of `weight`. `z`: room for kRows rows, whatever `count` is.
template <typename Real>
static inline void convolve(const FrontLayer& x, int64_t row, int64_t count, Real* z) {
  typedef LanesOf<Real> Lanes;
  const int64_t lanes = lane_count<Real>();
  const Real* const weight = static_cast<const Real*>(x.weight);
  const Real* windows[kRows];
  for (int64_t i = 0; i < kRows; ++i) windows[i] = window_of<Real>(x, row + (i < count ? i : 0));
  each_registers<2, Real>(x.channels, [&](int64_t c, auto registers, int64_t n) {
    Lanes sum[kRows][2] = {};
    for (int64_t k = 0; k < x.width; ++k)
      for (int j = 0; j < registers.count; ++j) {
        const Lanes factor = load<registers.part>(weight + k * x.channels + c + j * lanes, n);
        for (int64_t i = 0; i < kRows; ++i) sum[i][j] += windows[i][k] * factor;
      }
    for (int64_t i = 0; i < kRows; ++i)
      for (int j = 0; j < registers.count; ++j) store<registers.part>(z + i * x.channels + c + j * lanes, sum[i][j], n);
  });
}

// sums += the windows of up to kSide rows from `row` on times the rows of z_gradient.
template <typename Real>
static inline void add_products(const FrontLayer& x, int64_t row, int64_t count, const Real* z_gradient, Real* sums) {
  typedef LanesOf<Real> Lanes;
  const Real* windows[kSide];
  for (int64_t i = 0; i < kSide; ++i) windows[i] = window_of<Real>(x, row + (i < count ? i : 0));
  each_registers<1, Real>(x.channels, [&](int64_t c, auto registers, int64_t n) {
    constexpr bool part = registers.part;
    Lanes d[kSide] = {};  // zero for the rows that are not there
    for (int64_t i = 0; i < count; ++i) d[i] = load<part>(z_gradient + i * x.channels + c, n);
    for (int64_t k = 0; k < x.width; ++k) {
      Real* const to = sums + k * x.channels + c;
      Lanes sum = load<part>(to, n);
      for (int64_t i = 0; i < kSide; ++i) sum += windows[i][k] * d[i];
      store<part>(to, sum, n);
    }
  });
}

// Where row `row` of `tensor`, which has x.dtype, is to be read or written as Real: there, if it has that format, else in `room`.
template <typename Real>
static inline Real* row_in(const FrontLayer& x, const void* tensor, int64_t row, Real* room) {
  if (x.dtype != code_of(room)) return room;
  return static_cast<Real*>(const_cast<void*>(tensor)) + row * x.channels;
}

// Gradients of the parameters, of rows `first` to `last`, added to `totals` [width + 2][channels]. `room`: as many numbers of Real, and
// kSide + kRows + 3 rows.
template <typename Real>
static void unfinish(const FrontLayer& x, const RowNorm<Real>& norm, int64_t first, int64_t last, Real* room, double* totals) {
  const int64_t numbers = (x.width + 2) * x.channels;
  Real *const sums = room, *const z_gradient = sums + numbers, *const z = z_gradient + kSide * x.channels;
  Real *const decoded = z + kRows * x.channels, *const units = decoded + x.channels, *const slopes = units + x.channels;
  for (int64_t begin = first; begin < last; begin += kPart) {
    const int64_t end = begin + kPart < last ? begin + kPart : last;
    memset(sums, 0, static_cast<size_t>(numbers) * sizeof(Real));
    for (int64_t row = begin; row < end; row += kSide) {
      const int64_t count = row + kSide < end ? kSide : end - row;
      for (int64_t i = 0; i < count; ++i) {
        if (i % kRows == 0) convolve(x, row + i, count - i, z);
        Real* const gradient = row_in(x, x.gradient, row + i, decoded);
        if (gradient == decoded) decode_any(x.dtype, x.gradient, (row + i) * x.channels, decoded, x.channels);
        Real* const of_norm = sums + x.width * x.channels;
        unfinish_row<true>(norm, z + i % kRows * x.channels, gradient, z_gradient + i * x.channels, units, slopes, of_norm);
      }
      add_products(x, row, count, z_gradient, sums);
    }
    for (int64_t i = 0; i < numbers; ++i) totals[i] += static_cast<double>(sums[i]);
  }
}

// `room`: kRows rows.
template <typename Real>
static void finish(const FrontLayer& x, const RowNorm<Real>& norm, int64_t first, int64_t last, Real* room) {
  for (int64_t row = first; row < last; ++row) {
    const int64_t i = (row - first) % kRows;
    if (i == 0) convolve(x, row, last - row, room);
    Real* const z = room + i * x.channels;
    Real* const y = row_in(x, x.y, row, z);
    finish_row<true>(norm, z, static_cast<const Real*>(nullptr), y);
    if (y == z) encode_any(x.dtype, z, x.y, row * x.channels, x.channels);
  }
}

template <typename Real>
static bool run(const FrontLayer& x, bool back, int threads) {
  const int64_t rows = x.samples * x.frames, numbers = (x.width + 2) * x.channels;
  const int64_t most = (rows + kMostShares - 1) / kMostShares, each = back && most > kPart ? most : kPart;
  const int64_t shares = (rows + each - 1) / each;
  double* const totals = back ? static_cast<double*>(calloc(static_cast<size_t>(shares * numbers + 1), sizeof(double))) : nullptr;
  if (back && !totals) return false;
  const Real *const weight = static_cast<const Real*>(x.norm_weight), *const bias = static_cast<const Real*>(x.norm_bias);
  const RowNorm<Real> norm = {x.channels, static_cast<Real>(x.eps), weight, bias};
  if (rows * x.channels < kLittle) threads = 1;
  const int64_t room_numbers = back ? numbers + (kSide + kRows + 3) * x.channels : kRows * x.channels;
  const bool done = each_share<Real>(shares, room_numbers, threads, [&](int64_t share, Real* room) {
    const int64_t first = share * each, last = first + each < rows ? first + each : rows;
    if (back) unfinish(x, norm, first, last, room, totals + share * numbers);
    else finish(x, norm, first, last, room);
  });
  if (back && done) {
    Real* const gradients = static_cast<Real*>(x.gradients);
    for (int64_t i = 0; i < numbers; ++i) {
      double total = 0;
      for (int64_t share = 0; share < shares; ++share) total += totals[share * numbers + i];
      gradients[i] = static_cast<Real>(total);
    }
  }
  free(totals);
  return done;
}

bool front_layer(const FrontLayer& x, bool back, int threads) {
  return x.real == F64 ? run<double>(x, back, threads) : run<float>(x, back, threads);
}

}  // namespace D2V_ISA
}  // namespace d2v
