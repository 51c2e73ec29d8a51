// AdamW and the moving average of its parameters, over a list of tensors in one parallel region and one pass over memory.
//
// The list is cut into chunks (chunks.h). A chunk is worked on in blocks that stay in the first-level cache: parameters and moments, then
// the teacher, which finds the new parameters there, then the shadows. The order of the operations is that of torch's fused AdamW; how a
// compiler joins them into fused multiply-adds is its own business, so results agree within rounding.
#include <math.h>

#include "../kernels.h"
#include "chunks.h"
#include "convert.h"
#include "move.h"
#include "stream.h"

namespace d2v {
namespace D2V_ISA {

static const int64_t kChunk = 65536;
static const int64_t kBlock = 512;

static double root(double x) { return sqrt(x); }
static float root(float x) { return sqrtf(x); }

// What is the same for all elements of a tensor.
template <typename Real>
struct Numbers {
  Real scale, keep, first, first_weight, second, second_weight, second_root, eps, rate;

  Numbers(const AdamwStep& x, const AdamwRate& own, double step)
      : scale(static_cast<Real>(x.gradient_scale)),
        keep(static_cast<Real>(1.0 - own.lr * own.weight_decay)),
        first(static_cast<Real>(x.beta1)),
        first_weight(static_cast<Real>(1.0 - x.beta1)),
        second(static_cast<Real>(x.beta2)),
        second_weight(static_cast<Real>(1.0 - x.beta2)),
        second_root(static_cast<Real>(sqrt(1.0 - pow(x.beta2, step)))),
        eps(static_cast<Real>(x.eps)),
        rate(static_cast<Real>(own.lr / (1.0 - pow(x.beta1, step)))) {}
};

// `near` is whether the first moment goes less than half of the way to the gradient: see move.h.
template <bool near, typename Real>
static inline void adamw(Real* parameter, const Real* gradient, Real* mean, Real* square, const Numbers<Real>& x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const Real g = gradient[i] / x.scale;
    const Real m = near ? mean[i] + x.first_weight * (g - mean[i]) : g + x.first * (mean[i] - g);
    const Real v = square[i] * x.second + x.second_weight * g * g;
    mean[i] = m;
    square[i] = v;
    parameter[i] = parameter[i] * x.keep - x.rate * m / (root(v) / x.second_root + x.eps);
  }
}

template <typename Real>
static inline void copy_to(void* shadow, int64_t dtype, const Real* from, int64_t at, int64_t n) {
  const int64_t width = bytes_of(dtype);
  if (width > static_cast<int64_t>(sizeof(Real))) return encode_any(dtype, from, shadow, at, n);
  alignas(64) Real rounded[kBlock];  // room for a block in any format that is not wider
  encode_any(dtype, from, rounded, 0, n);
  stream_copy(static_cast<char*>(shadow) + at * width, rounded, n * width);
}

template <typename Real>
static void update(const AdamwTensor& x, const AdamwRate& own, const AdamwStep& all, int64_t from, int64_t to) {
  Real* const parameter = static_cast<Real*>(x.parameter);
  const Real* const gradient = static_cast<const Real*>(x.gradient);
  Real *const mean = static_cast<Real*>(x.exp_avg), *const square = static_cast<Real*>(x.exp_avg_sq);
  Real* const teacher = static_cast<Real*>(x.teacher);
  const Numbers<Real> numbers(all, own, static_cast<double>(*x.step) + 1.0);
  const Real keep = static_cast<Real>(all.decay), weight = static_cast<Real>(1.0 - all.decay);
  for (int64_t i = from; i < to; i += kBlock) {
    const int64_t n = to - i < kBlock ? to - i : kBlock;
    if (numbers.first_weight < Real(0.5)) adamw<true>(parameter + i, gradient + i, mean + i, square + i, numbers, n);
    else adamw<false>(parameter + i, gradient + i, mean + i, square + i, numbers, n);
    if (x.shadow) copy_to(x.shadow, x.shadow_dtype, parameter + i, i, n);
    if (!teacher) continue;
    if (all.decay == 0.0) memcpy(teacher + i, parameter + i, static_cast<size_t>(n) * sizeof(Real));
    else if (all.decay != 1.0) move(teacher + i, parameter + i, keep, weight, n);
    if (x.teacher_shadow) copy_to(x.teacher_shadow, x.teacher_shadow_dtype, teacher + i, i, n);
  }
}

void adamw_ema(const AdamwTensor* tensors, const AdamwRate* rates, int64_t count, const AdamwStep& x, int threads) {
  for_chunks(tensors, count, kChunk, threads, [&](int64_t i, int64_t from, int64_t to) {
    if (tensors[i].dtype == F64) update<double>(tensors[i], rates[i], x, from, to);
    else update<float>(tensors[i], rates[i], x, from, to);
  });
  for (int64_t i = 0; i < count; ++i) *tensors[i].step += 1.0f;
}

}  // namespace D2V_ISA
}  // namespace d2v
