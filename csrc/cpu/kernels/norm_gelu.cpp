// y = gelu(norm(x)) of rows, with weight and bias; nothing but x is kept for the backward pass, which computes all of it again.
//
// A row stays in the first-level cache from its moments to its end. Sums over rows are cut into shares of a fixed size: no bit depends on
// the threads.
#include "norm_gelu.h"
#include "shares.h"

namespace d2v {
namespace D2V_ISA {

static const int64_t kShare = 256;       // rows whose gradients of weight and bias are summed in Real
static const int64_t kLittle = 1 << 15;  // numbers that are not worth waking a thread for

// A row of a tensor: where it lies, if it is in Real already, else decoded into `room`.
template <typename Real>
static inline const Real* row_of(const NormGelu& x, const void* tensor, int64_t row, Real* room) {
  if (x.dtype == code_of(room)) return static_cast<const Real*>(tensor) + row * x.channels;
  decode_any(x.dtype, tensor, row * x.channels, room, x.channels);
  return room;
}

// `room`: five rows. `sums`: of this share.
template <typename Real>
static void visit_rows(const NormGelu& x, const RowNorm<Real>& norm, bool back, int64_t first, int64_t last, Real* room, Real* sums) {
  void* const out = back ? x.x_gradient : x.y;
  const bool own = x.dtype == code_of(room);
  Real *const line = room, *const gradients = line + x.channels, *const result = gradients + x.channels;
  Real *const units = result + x.channels, *const slopes = units + x.channels;
  for (int64_t row = first; row < last; ++row) {
    Real* const to = own ? static_cast<Real*>(out) + row * x.channels : result;
    const Real* const z = row_of(x, x.x, row, line);
    if (back) unfinish_row<true>(norm, z, row_of(x, x.gradient, row, gradients), to, units, slopes, sums);
    else finish_row<true>(norm, z, static_cast<const Real*>(nullptr), to);
    if (!own) encode_any(x.dtype, to, out, row * x.channels, x.channels);
  }
}

template <typename Real>
static void add_shares(const NormGelu& x, const Real* sums, int64_t shares) {
  const int64_t width = 2 * x.channels;
  for (int64_t c = 0; c < width; ++c) {
    double total = 0;
    for (int64_t share = 0; share < shares; ++share) total += static_cast<double>(sums[share * width + c]);
    encode_any(x.parameter_dtype, &total, c < x.channels ? x.weight_gradient : x.bias_gradient, c % x.channels, 1);
  }
}

template <typename Real>
static bool run(const NormGelu& x, bool back, int threads) {
  const int64_t shares = (x.rows + kShare - 1) / kShare, width = 2 * x.channels;
  Real* const parameters = static_cast<Real*>(calloc(static_cast<size_t>(width * (back ? shares + 1 : 1) + 1), sizeof(Real)));
  if (!parameters) return false;
  Real* const sums = parameters + width;  // [shares][2][channels]
  decode_any(x.parameter_dtype, x.weight, 0, parameters, x.channels);
  decode_any(x.parameter_dtype, x.bias, 0, parameters + x.channels, x.channels);
  const RowNorm<Real> norm = {x.channels, static_cast<Real>(x.eps), parameters, parameters + x.channels};
  if (x.rows * x.channels < kLittle) threads = 1;
  const bool done = each_share<Real>(shares, 5 * x.channels, threads, [&](int64_t share, Real* room) {
    const int64_t first = share * kShare, last = first + kShare < x.rows ? first + kShare : x.rows;
    visit_rows(x, norm, back, first, last, room, back ? sums + share * width : nullptr);
  });
  if (back && done) add_shares(x, sums, shares);
  free(parameters);
  return done;
}

bool norm_gelu(const NormGelu& x, bool back, int threads) {
  return x.dtype == F64 ? run<double>(x, back, threads) : run<float>(x, back, threads);
}

}  // namespace D2V_ISA
}  // namespace d2v
