// Number formats of the kernels: float32, float64, bfloat16 and float16 as types, with conversions that a compiler can turn into
// vector code. Two levels:
//   to_float / from_float   one element, branch-free, to be used inside an `omp simd` loop;
//   decode / encode         a block of n elements between any format and float or double.
// bfloat16 and float16 are rounded to the nearest, ties to even; NaN stays NaN; float16 subnormals are exact. float64 goes to the
// 16-bit formats through float32, as torch does. float16 uses F16C where the instruction set has it and integer operations elsewhere.
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__F16C__) && defined(__AVX2__)
#include <immintrin.h>
#define D2V_F16C 1
#endif

#include "../kernels.h"

namespace d2v {
namespace D2V_ISA {

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

static inline int64_t bytes_of(int64_t dtype) { return dtype == F64 ? 8 : dtype == F32 ? 4 : 2; }
static inline int64_t code_of(const float*) { return F32; }
static inline int64_t code_of(const double*) { return F64; }

static inline uint32_t float_bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static inline float bits_float(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

// --- one element ---------------------------------------------------------------------------------------------------------------

static inline float to_float(float x) { return x; }
static inline float to_float(double x) { return static_cast<float>(x); }
static inline float to_float(bf16 x) { return bits_float(static_cast<uint32_t>(x.bits) << 16); }
static inline float to_float(f16 x) {
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  const uint32_t exponent = magnitude & (0x1fu << 23);
  const uint32_t normal = magnitude + (112u << 23);
  // Infinity and NaN keep an exponent of ones; a subnormal gets one exponent step that a float subtraction takes away again.
  const float subnormal = bits_float(magnitude + (113u << 23)) - bits_float(113u << 23);
  uint32_t out = exponent == (0x1fu << 23) ? normal + (112u << 23) : normal;
  out = exponent == 0 ? float_bits(subnormal) : out;
  return bits_float(out | (static_cast<uint32_t>(x.bits & 0x8000u) << 16));
}

static inline void from_float(float x, float* out) { *out = x; }
static inline void from_float(float x, double* out) { *out = static_cast<double>(x); }
static inline void from_float(float x, bf16* out) {
  const uint32_t u = float_bits(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const uint32_t nan = (u >> 16) | 0x40u;
  out->bits = static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}
static inline void from_float(float x, f16* out) {
  const uint32_t u = float_bits(x);
  const uint32_t magnitude = u & 0x7fffffffu;
  // Too large, infinite or NaN; then subnormal (the addition of 0.5 lets the float unit round at the right bit); then normal.
  const uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t subnormal = float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f);
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t out16 = magnitude < (113u << 23) ? subnormal : normal;
  out16 = magnitude >= (143u << 23) ? large : out16;
  out->bits = static_cast<uint16_t>(out16 | ((u >> 16) & 0x8000u));
}

// --- blocks: from any format to float or double, and back ------------------------------------------------------------------------

template <typename T>
static inline void decode(const T* src, float* dst, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) dst[i] = to_float(src[i]);
}
template <typename T>
static inline void decode(const T* src, double* dst, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) dst[i] = static_cast<double>(to_float(src[i]));
}
static inline void decode(const double* src, double* dst, int64_t n) { memcpy(dst, src, static_cast<size_t>(n) * sizeof(double)); }

template <typename T>
static inline void encode(const float* src, T* dst, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) from_float(src[i], &dst[i]);
}
template <typename T>
static inline void encode(const double* src, T* dst, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) from_float(static_cast<float>(src[i]), &dst[i]);
}
static inline void encode(const double* src, double* dst, int64_t n) { memcpy(dst, src, static_cast<size_t>(n) * sizeof(double)); }

#ifdef D2V_F16C
static inline void decode(const f16* src, float* dst, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m128i halves;
    memcpy(&halves, src + i, 16);
    _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(halves));
  }
  for (; i < n; ++i) dst[i] = to_float(src[i]);
}
static inline void encode(const float* src, f16* dst, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT);
    memcpy(dst + i, &halves, 16);
  }
  for (; i < n; ++i) from_float(src[i], &dst[i]);
}
#endif

// The same with the format as a run-time code; `offset` in elements.
template <typename Real>
static inline void decode_any(int64_t dtype, const void* src, int64_t offset, Real* dst, int64_t n) {
  if (dtype == F32) decode(static_cast<const float*>(src) + offset, dst, n);
  else if (dtype == F64) decode(static_cast<const double*>(src) + offset, dst, n);
  else if (dtype == BF16) decode(static_cast<const bf16*>(src) + offset, dst, n);
  else decode(static_cast<const f16*>(src) + offset, dst, n);
}
template <typename Real>
static inline void encode_any(int64_t dtype, const Real* src, void* dst, int64_t offset, int64_t n) {
  if (dtype == F32) encode(src, static_cast<float*>(dst) + offset, n);
  else if (dtype == F64) encode(src, static_cast<double*>(dst) + offset, n);
  else if (dtype == BF16) encode(src, static_cast<bf16*>(dst) + offset, n);
  else encode(src, static_cast<f16*>(dst) + offset, n);
}

}  // namespace D2V_ISA
}  // namespace d2v
