// bfloat16 and float16 as integers, rounded to nearest even like the GPU's conversions; CUDA's names.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

namespace cuda_cpu {

inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

inline uint16_t bf16_bits(float x) {
  if (x != x) return 0x7FFF;
  const uint32_t bits = bits_of(x);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

inline uint16_t f16_bits(float x) {
  const uint16_t sign = static_cast<uint16_t>(bits_of(x) >> 16 & 0x8000);
  const float size = fabsf(x);
  if (x != x) return 0x7FFF;
  if (size >= 65520.0f) return sign | 0x7C00;  // half-way to the number after the largest
  // Below 2^-14 numbers are multiples of 2^-24; adding 0.5 makes the addition round them so.
  if (size < 6.103515625e-5f) return static_cast<uint16_t>(sign | (bits_of(size + 0.5f) - bits_of(0.5f)));
  const uint32_t bits = bits_of(size) - (112u << 23);  // the exponent counts from 15 instead of 127
  return static_cast<uint16_t>(sign | (bits + 0xFFF + (bits >> 13 & 1)) >> 13);
}

inline float f16_value(uint16_t bits) {
  const uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 0) return sign * static_cast<float>(fraction) * 5.9604644775390625e-8f;  // 2^-24
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * float_of((exponent + 112) << 23 | fraction << 13);
}

}  // namespace cuda_cpu

struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float x) : bits(cuda_cpu::bf16_bits(x)) {}
};
struct __half {
  uint16_t bits;
  __half() = default;
  __half(float x) : bits(cuda_cpu::f16_bits(x)) {}
};
struct __nv_bfloat162 { __nv_bfloat16 x, y; };
struct __half2 { __half x, y; };

inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
inline __half __float2half_rn(float x) { return x; }
inline float __bfloat162float(__nv_bfloat16 x) { return cuda_cpu::float_of(static_cast<uint32_t>(x.bits) << 16); }
inline float __half2float(__half x) { return cuda_cpu::f16_value(x.bits); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline float2 __half22float2(__half2 pair) { return {__half2float(pair.x), __half2float(pair.y)}; }
