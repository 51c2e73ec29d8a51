// Smooth-L1 (or squared error) of rows, and its gradient.
//
// With g = clamp(d / beta, -1, 1) both branches of smooth-L1 are g * (d - beta / 2 * g), and g is the gradient. The forward pass
// stores g (d itself for the squared error, so that no format overflows); the backward pass multiplies it by the factors that
// are known only then. A row is summed in blocks in Real and over blocks in double; rows are summed in order: no bit depends on
// the number of threads.
#include <float.h>

#include "../kernels.h"
#include "convert.h"

namespace d2v {
namespace D2V_ISA {

static const int64_t kBlock = 128;        // elements summed in Real before they go to a double
static const int64_t kPerThread = 32768;  // elements that are worth waking a thread for

static int64_t bytes_of(int64_t dtype) { return dtype == F64 ? 8 : dtype == F32 ? 4 : 2; }
static int64_t code_of(const float*) { return F32; }
static int64_t code_of(const double*) { return F64; }
static int worth(int threads, int64_t elements) {
  const int64_t most = elements / kPerThread;
  return most < threads ? (most < 1 ? 1 : static_cast<int>(most)) : threads;
}

template <typename Real>
static inline Real smooth_block(const Real* pred, const Real* target, Real* gradient, Real inverse_beta, Real half_beta, int64_t n) {
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const Real d = pred[i] - target[i];
    Real g = d * inverse_beta;
    g = g > Real(1) ? Real(1) : g;
    g = g < Real(-1) ? Real(-1) : g;  // comparisons with NaN are false: it stays
    gradient[i] = g;
    sum += g * (d - half_beta * g);
  }
  return sum;
}

template <typename Real>
static inline Real square_block(const Real* pred, const Real* target, Real* gradient, int64_t n) {
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const Real d = pred[i] - target[i];
    gradient[i] = d;
    sum += d * d;
  }
  return sum;
}

template <typename Real>
static void forward(const SmoothL1& x, double* losses, int threads) {
  const Real* const wide_pred = static_cast<const Real*>(x.pred);
  const Real* const wide_target = static_cast<const Real*>(x.target);
  const int64_t own = code_of(wide_pred), channels = x.channels;
  const double largest = sizeof(Real) == 8 ? DBL_MAX : static_cast<double>(FLT_MAX);
  const double inverse = x.beta > 0 ? (1.0 / x.beta < largest ? 1.0 / x.beta : largest) : 0.0;
  const Real inverse_beta = static_cast<Real>(inverse), half_beta = static_cast<Real>(0.5 * x.beta);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t row = 0; row < x.count; ++row) {
    alignas(64) Real pred_block[kBlock];
    alignas(64) Real target_block[kBlock];
    alignas(64) Real gradient_block[kBlock];
    const int64_t pred_row = (x.rows ? x.rows[row] : row) * channels, target_row = row * channels;
    double total = 0;
    for (int64_t c = 0; c < channels; c += kBlock) {
      const int64_t n = channels - c < kBlock ? channels - c : kBlock;
      const Real *p = pred_block, *t = target_block;
      if (x.pred_dtype == own) p = wide_pred + pred_row + c;
      else decode_any(x.pred_dtype, x.pred, pred_row + c, pred_block, n);
      if (x.target_dtype == own) t = wide_target + target_row + c;
      else decode_any(x.target_dtype, x.target, target_row + c, target_block, n);
      const bool in_place = x.gradient && x.pred_dtype == own;
      Real* const g = in_place ? static_cast<Real*>(x.gradient) + target_row + c : gradient_block;
      total += static_cast<double>(x.beta > 0 ? smooth_block(p, t, g, inverse_beta, half_beta, n) : square_block(p, t, g, n));
      if (x.gradient && !in_place) encode_any(x.pred_dtype, gradient_block, x.gradient, target_row + c, n);
    }
    losses[row] = total * x.scale;
  }
}

void smooth_l1_forward(const SmoothL1& x, double* losses, int threads) {
  threads = worth(threads, x.count * x.channels);
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

// out = gradient * factor for one row.
template <typename Real>
static inline void scale_row(const SmoothL1Gradient& x, int64_t row) {
  double incoming;
  decode_any(x.incoming_dtype, x.incoming, x.incoming_per_row ? row : 0, &incoming, 1);
  const Real factor = static_cast<Real>(incoming * x.factor);
  const int64_t from = row * x.channels, to = (x.rows ? x.rows[row] : row) * x.channels;
  if (x.dtype == code_of(&factor)) {
    const Real* const gradient = static_cast<const Real*>(x.gradient) + from;
    Real* const out = static_cast<Real*>(x.out) + to;
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
    encode_any(x.dtype, block, x.out, to + c, n);
  }
}

// The rows of out in [first, last): zero but for those that are named, in one pass.
static void fill(const SmoothL1Gradient& x, int64_t first, int64_t last) {
  const int64_t row_bytes = x.channels * bytes_of(x.dtype);
  int64_t row = first;
  if (x.rows) {  // the first named row of the range, by bisection
    int64_t low = 0, high = x.count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (x.rows[middle] < first) low = middle + 1;
      else high = middle;
    }
    row = low;
  }
  for (int64_t done = first; done < last; ++row) {
    const int64_t next = !x.rows ? row : row < x.count && x.rows[row] < last ? x.rows[row] : last;
    memset(static_cast<char*>(x.out) + done * row_bytes, 0, static_cast<size_t>((next - done) * row_bytes));
    if (next < last) {
      if (x.dtype == F64) scale_row<double>(x, row);
      else scale_row<float>(x, row);
    }
    done = next + 1;
  }
}

void smooth_l1_backward(const SmoothL1Gradient& x, int threads) {
  const int64_t parts = worth(threads, x.out_rows * x.channels);
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(parts))
  for (int64_t part = 0; part < parts; ++part) fill(x, x.out_rows * part / parts, x.out_rows * (part + 1) / parts);
}

}  // namespace D2V_ISA
}  // namespace d2v
