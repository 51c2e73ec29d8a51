// Smooth-L1 (or squared error) of rows, and its gradient.
//
// With g = clamp(d / beta, -1, 1) both branches of smooth-L1 are g * (d - beta / 2 * g), and g is the gradient (for the squared error
// d is half of it). A row is summed in blocks in Real and over blocks in double; rows are summed in order: no bit depends on the
// number of threads. The gradient has all positions of pred; those without a row are zeroed in the same pass. The backward pass of
// the head reads it next, so it is not written past the caches. The next row of pred is asked for early, because the processor
// cannot guess where it is.
#include <float.h>

#include "../kernels.h"
#include "lanes.h"

namespace d2v {
namespace D2V_ISA {

static const int64_t kBlock = 1024;           // elements summed in Real, each lane its share, before they go to a double
static const int kRegisters = 4;              // sums side by side: an addition takes as long as four start
static const int64_t kPart = 16384;           // elements that one thread takes at a time, more or less
static const int64_t kPerThread = 2 * kPart;  // elements that are worth waking a thread for


// A gradient that is written row by row.
struct Output {
  char* data;
  int64_t dtype, row_bytes;

  Output(void* tensor, int64_t type, int64_t channels) : data(static_cast<char*>(tensor)), dtype(type), row_bytes(channels * bytes_of(type)) {}
  void zero(int64_t from, int64_t to) const {
    if (row_bytes == 0) return;  // no memory at all
    memset(data + from * row_bytes, 0, static_cast<size_t>((to - from) * row_bytes));
  }
  // Where a block may be written at once: there is a gradient, in Real. Else null.
  template <typename Real>
  Real* direct(int64_t position, int64_t channel) const {
    if (!data || dtype != code_of(static_cast<const Real*>(nullptr))) return nullptr;
    return reinterpret_cast<Real*>(data + position * row_bytes) + channel;
  }
  template <typename Real>
  void put(int64_t position, int64_t channel, const Real* block, int64_t n) const {
    encode_any(dtype, block, data + position * row_bytes, channel, n);
  }
};

// Calls visit(row, position) for every row whose position is in [first, last), and zero(from, to) for the positions between.
// `rows` may be null when there is no row and when every position is one.
template <typename Visit, typename Zero>
static inline void walk(const int64_t* rows, int64_t count, int64_t positions, int64_t first, int64_t last, Visit visit, Zero zero) {
  if (count == positions) {
    for (int64_t row = first; row < last; ++row) visit(row, row);
    return;
  }
  int64_t row = 0, end = count;  // the first row at or above `first`, by bisection
  while (row < end) {
    const int64_t middle = (row + end) / 2;
    if (rows[middle] < first) row = middle + 1;
    else end = middle;
  }
  int64_t position = first;
  for (; row < count && rows[row] < last; ++row) {
    if (rows[row] > position) zero(position, rows[row]);
    visit(row, rows[row]);
    position = rows[row] + 1;
  }
  if (position < last) zero(position, last);
}

// The same over all positions, in parts of a fixed size. A thread keeps to parts side by side, which the processor reads ahead; taking the
// next free one takes up to two fifths longer.
template <typename Visit, typename Zero>
static inline void walk_all(const int64_t* rows, int64_t count, int64_t positions, int64_t channels, int threads, Visit visit, Zero zero) {
  const int64_t elements = positions * channels, part = channels < kPart ? kPart / (channels > 0 ? channels : 1) : 1;
  const int64_t parts = (positions + part - 1) / part;
  if (elements < threads * kPerThread) threads = elements < kPerThread ? 1 : static_cast<int>(elements / kPerThread);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t first = i * part, last = first + part < positions ? first + part : positions;
    walk(rows, count, positions, first, last, visit, zero);
  }
}

// Sum of a block's losses; writes its gradient times `factor`.
template <bool SMOOTH, typename Real>
static inline Real loss_block(const Real* pred, const Real* target, Real* gradient, Real inverse_beta, Real half_beta, Real factor, int64_t n) {
  typedef LanesOf<Real> Lanes;
  const Lanes one = Lanes{} + 1;
  Lanes sums[kRegisters] = {};
  each_registers<kRegisters, Real>(n, [&](int64_t c, auto registers, int64_t width) {
    constexpr bool part = registers.part;
    for (int r = 0; r < registers.count; ++r) {
      const int64_t at = c + r * lane_count<Real>();
      const Lanes d = load<part>(pred + at, width) - load<part>(target + at, width);
      Lanes g = d;
      if (SMOOTH) {
        g *= inverse_beta;
        g = g > one ? one : g;
        g = g < -one ? -one : g;  // comparisons with NaN are false: it stays
      }
      store<part>(gradient + at, g * factor, width);
      sums[r] += SMOOTH ? g * (d - half_beta * g) : d * d;
    }
  });
  for (int r = 1; r < kRegisters; ++r) sums[0] += sums[r];
  return sum_lanes(sums[0]);
}

// The loss of one row before `scale`; writes its gradient.
template <typename Real>
static inline double visit_row(const SmoothL1& x, const Output& gradient, int64_t row, int64_t position, Real inverse_beta, Real half_beta,
                               Real factor) {
  alignas(64) Real pred_block[kBlock];
  alignas(64) Real target_block[kBlock];
  alignas(64) Real gradient_block[kBlock];
  const int64_t own = code_of(pred_block), pred_bytes = bytes_of(x.pred_dtype);
  const int64_t next = x.rows && row + 1 < x.count ? x.rows[row + 1] : position;
  double total = 0;
  for (int64_t c = 0; c < x.channels; c += kBlock) {
    const int64_t n = x.channels - c < kBlock ? x.channels - c : kBlock;
    const int64_t at_pred = position * x.channels + c, at_target = row * x.channels + c;
    if (next != position) {
      const char* const ahead = static_cast<const char*>(x.pred) + (next * x.channels + c) * pred_bytes;
      for (int64_t i = 0; i < n * pred_bytes; i += 64) __builtin_prefetch(ahead + i);
    }
    const Real *pred = pred_block, *target = target_block;
    if (x.pred_dtype == own) pred = static_cast<const Real*>(x.pred) + at_pred;
    else decode_any(x.pred_dtype, x.pred, at_pred, pred_block, n);
    if (x.target_dtype == own) target = static_cast<const Real*>(x.target) + at_target;
    else decode_any(x.target_dtype, x.target, at_target, target_block, n);
    Real* const there = gradient.direct<Real>(position, c);
    Real* const result = there ? there : gradient_block;
    total += static_cast<double>(x.beta > 0 ? loss_block<true>(pred, target, result, inverse_beta, half_beta, factor, n)
                                            : loss_block<false>(pred, target, result, inverse_beta, half_beta, factor, n));
    if (gradient.data && !there) gradient.put(position, c, gradient_block, n);
  }
  return total;
}

template <typename Real>
static void forward(const SmoothL1& x, double* losses, int threads) {
  const double largest = sizeof(Real) == 8 ? DBL_MAX : static_cast<double>(FLT_MAX);
  const double inverse = x.beta > 0 ? (1.0 / x.beta < largest ? 1.0 / x.beta : largest) : 0.0;
  const Real inverse_beta = static_cast<Real>(inverse), half_beta = static_cast<Real>(0.5 * x.beta);
  const Real factor = static_cast<Real>(x.gradient_factor);
  const Output gradient(x.gradient, x.pred_dtype, x.channels);
  walk_all(
      x.rows, x.count, x.positions, x.channels, threads,
      [&](int64_t row, int64_t position) { losses[row] = x.scale * visit_row(x, gradient, row, position, inverse_beta, half_beta, factor); },
      [&](int64_t from, int64_t to) {
        if (gradient.data) gradient.zero(from, to);
      });
}

void smooth_l1_forward(const SmoothL1& x, double* losses, int threads) {
  const bool wide = x.pred_dtype == F64 || x.target_dtype == F64;
  if (wide) forward<double>(x, losses, threads);
  else forward<float>(x, losses, threads);
  if (x.reduction == REDUCE_NONE) {
    if (x.count > 0) encode_any(wide ? F64 : F32, losses, x.loss, 0, x.count);
    return;
  }
  double total = 0;
  for (int64_t row = 0; row < x.count; ++row) total += losses[row];
  if (x.reduction == REDUCE_MEAN && x.count > 0) total /= static_cast<double>(x.count);
  encode_any(wide ? F64 : F32, &total, x.loss, 0, 1);
}

// out = gradient * factor * incoming for one row.
template <typename Real>
static inline void scale_row(const SmoothL1Gradient& x, const Output& out, int64_t row, int64_t position) {
  alignas(64) Real block[kBlock];
  double incoming;
  decode_any(x.incoming_dtype, x.incoming, x.incoming_per_row ? row : 0, &incoming, 1);
  const Real factor = static_cast<Real>(incoming * x.factor);
  for (int64_t c = 0; c < x.channels; c += kBlock) {
    const int64_t n = x.channels - c < kBlock ? x.channels - c : kBlock;
    decode_any(x.dtype, x.gradient, position * x.channels + c, block, n);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) block[i] *= factor;
    out.put(position, c, block, n);
  }
}

void smooth_l1_backward(const SmoothL1Gradient& x, int threads) {
  const Output out(x.out, x.dtype, x.channels);
  walk_all(
      x.rows, x.count, x.positions, x.channels, threads,
      [&](int64_t row, int64_t position) {
        if (x.dtype == F64) scale_row<double>(x, out, row, position);
        else scale_row<float>(x, out, row, position);
      },
      [&](int64_t from, int64_t to) { out.zero(from, to); });
}

}  // namespace D2V_ISA
}  // namespace d2v
