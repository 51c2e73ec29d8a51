// Smooth-L1 (or squared error) of rows, and its gradient.
//
// With g = clamp(d / beta, -1, 1) both branches of smooth-L1 are g * (d - beta / 2 * g), and g is the gradient (for the squared error
// d is half of it). A row is summed in blocks in Real and over blocks in double; rows are summed in order: no bit depends on the
// number of threads. The gradient has all positions of pred; those without a row are zeroed in the same pass.
#include <float.h>

#include "../kernels.h"
#include "convert.h"
#include "stream.h"

namespace d2v {
namespace D2V_ISA {

static const int64_t kBlock = 128;      // elements summed in Real before they go to a double
static const int64_t kPart = 16384;     // elements that one thread takes at a time, more or less
static const int64_t kPerThread = 2 * kPart;  // elements that are worth waking a thread for

static int64_t bytes_of(int64_t dtype) { return dtype == F64 ? 8 : dtype == F32 ? 4 : 2; }
static int64_t code_of(const float*) { return F32; }
static int64_t code_of(const double*) { return F64; }

// Calls visit(row, position) for every row whose position is in [first, last), and zero(from, to) for the positions between.
template <typename Visit, typename Zero>
static inline void walk(const int64_t* rows, int64_t count, int64_t first, int64_t last, Visit visit, Zero zero) {
  if (!rows) {
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

// The same over all positions, in parts of a fixed size.
template <typename Visit, typename Zero>
static inline void walk_all(const int64_t* rows, int64_t count, int64_t positions, int64_t channels, int threads, Visit visit, Zero zero) {
  const int64_t elements = positions * channels, part = channels < kPart ? kPart / (channels > 0 ? channels : 1) : 1;
  const int64_t parts = (positions + part - 1) / part;
  if (elements < threads * kPerThread) threads = elements < kPerThread ? 1 : static_cast<int>(elements / kPerThread);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(dynamic) nowait
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t first = i * part, last = first + part < positions ? first + part : positions;
      walk(rows, count, first, last, visit, zero);
    }
    stream_fence();
  }
}

template <typename Real>
static inline Real smooth_block(const Real* pred, const Real* target, Real* gradient, Real inverse_beta, Real half_beta, Real factor, int64_t n) {
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const Real d = pred[i] - target[i];
    Real g = d * inverse_beta;
    g = g > Real(1) ? Real(1) : g;
    g = g < Real(-1) ? Real(-1) : g;  // comparisons with NaN are false: it stays
    gradient[i] = g * factor;
    sum += g * (d - half_beta * g);
  }
  return sum;
}

template <typename Real>
static inline Real square_block(const Real* pred, const Real* target, Real* gradient, Real factor, int64_t n) {
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const Real d = pred[i] - target[i];
    gradient[i] = d * factor;
    sum += d * d;
  }
  return sum;
}

// The loss of one row before `scale`; writes its gradient.
template <typename Real>
static inline double visit_row(const SmoothL1& x, int64_t pred_row, int64_t target_row, Real inverse_beta, Real half_beta, Real factor) {
  alignas(64) Real pred_block[kBlock];
  alignas(64) Real target_block[kBlock];
  alignas(64) Real gradient_block[kBlock];
  const Real* const direct_pred = static_cast<const Real*>(x.pred);
  const Real* const direct_target = static_cast<const Real*>(x.target);
  const bool own_pred = x.pred_dtype == code_of(direct_pred), own_target = x.target_dtype == code_of(direct_target);
  const bool own_gradient = x.gradient && own_pred;
  double total = 0;
  for (int64_t c = 0; c < x.channels; c += kBlock) {
    const int64_t n = x.channels - c < kBlock ? x.channels - c : kBlock;
    const int64_t at_pred = pred_row * x.channels + c, at_target = target_row * x.channels + c;
    if (!own_pred) decode_any(x.pred_dtype, x.pred, at_pred, pred_block, n);
    if (!own_target) decode_any(x.target_dtype, x.target, at_target, target_block, n);
    const Real* const pred = own_pred ? direct_pred + at_pred : pred_block;
    const Real* const target = own_target ? direct_target + at_target : target_block;
    Real* const gradient = own_gradient ? static_cast<Real*>(x.gradient) + at_pred : gradient_block;
    total += static_cast<double>(x.beta > 0 ? smooth_block(pred, target, gradient, inverse_beta, half_beta, factor, n)
                                            : square_block(pred, target, gradient, factor, n));
    if (x.gradient && !own_gradient) encode_any(x.pred_dtype, gradient_block, x.gradient, at_pred, n);
  }
  return total;
}

template <typename Real>
static void forward(const SmoothL1& x, double* losses, int threads) {
  const double largest = sizeof(Real) == 8 ? DBL_MAX : static_cast<double>(FLT_MAX);
  const double inverse = x.beta > 0 ? (1.0 / x.beta < largest ? 1.0 / x.beta : largest) : 0.0;
  const Real inverse_beta = static_cast<Real>(inverse), half_beta = static_cast<Real>(0.5 * x.beta);
  const Real factor = static_cast<Real>(x.gradient_factor);
  const int64_t bytes = x.channels * bytes_of(x.pred_dtype);
  walk_all(
      x.rows, x.count, x.positions, x.channels, threads,
      [&](int64_t row, int64_t position) { losses[row] = x.scale * visit_row(x, position, row, inverse_beta, half_beta, factor); },
      [&](int64_t from, int64_t to) {
        if (x.gradient) stream_zero(static_cast<char*>(x.gradient) + from * bytes, (to - from) * bytes);
      });
}

void smooth_l1_forward(const SmoothL1& x, double* losses, int threads) {
  const bool wide = x.pred_dtype == F64 || x.target_dtype == F64;
  if (wide) forward<double>(x, losses, threads);
  else forward<float>(x, losses, threads);
  if (x.reduction == REDUCE_NONE) {
    encode_any(wide ? F64 : F32, losses, x.loss, 0, x.count);
    return;
  }
  double total = 0;
  for (int64_t row = 0; row < x.count; ++row) total += losses[row];
  if (x.reduction == REDUCE_MEAN && x.count > 0) total /= static_cast<double>(x.count);
  encode_any(wide ? F64 : F32, &total, x.loss, 0, 1);
}

// out = gradient * factor * incoming for one row.
template <typename Real>
static inline void scale_row(const SmoothL1Gradient& x, int64_t row, int64_t position) {
  double incoming;
  decode_any(x.incoming_dtype, x.incoming, x.incoming_per_row ? row : 0, &incoming, 1);
  const Real factor = static_cast<Real>(incoming * x.factor);
  const int64_t from = position * x.channels;
  if (x.dtype == code_of(&factor)) {
    const Real* const gradient = static_cast<const Real*>(x.gradient) + from;
    Real* const out = static_cast<Real*>(x.out) + from;
#pragma omp simd
    for (int64_t i = 0; i < x.channels; ++i) out[i] = gradient[i] * factor;
    return;
  }
  alignas(64) Real block[kBlock];
  for (int64_t c = 0; c < x.channels; c += kBlock) {
    const int64_t n = x.channels - c < kBlock ? x.channels - c : kBlock;
    decode_any(x.dtype, x.gradient, from + c, block, n);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) block[i] *= factor;
    encode_any(x.dtype, block, x.out, from + c, n);
  }
}

void smooth_l1_backward(const SmoothL1Gradient& x, int threads) {
  const int64_t bytes = x.channels * bytes_of(x.dtype);
  walk_all(
      x.rows, x.count, x.positions, x.channels, threads,
      [&](int64_t row, int64_t position) {
        if (x.dtype == F64) scale_row<double>(x, row, position);
        else scale_row<float>(x, row, position);
      },
      [&](int64_t from, int64_t to) { stream_zero(static_cast<char*>(x.out) + from * bytes, (to - from) * bytes); });
}

}  // namespace D2V_ISA
}  // namespace d2v
