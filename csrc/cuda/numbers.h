// Numbers of any format in memory, float or double in registers; and vectors of them that one instruction loads.
#pragma once
#include <stdint.h>
#include <string.h>

#include "runtime.h"

namespace d2v {
namespace cuda {

typedef __nv_bfloat16 bf16;
typedef __half f16;

template <typename To, typename From>
__device__ __forceinline__ To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

__device__ __forceinline__ float decode(float x) { return x; }
__device__ __forceinline__ double decode(double x) { return x; }
__device__ __forceinline__ float decode(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float decode(f16 x) { return __half2float(x); }

__device__ __forceinline__ void encode(float x, float& to) { to = x; }
__device__ __forceinline__ void encode(float x, double& to) { to = x; }
__device__ __forceinline__ void encode(float x, bf16& to) { to = __float2bfloat16_rn(x); }
__device__ __forceinline__ void encode(float x, f16& to) { to = __float2half_rn(x); }

// Two numbers of 16 bits in one register.
template <typename T> __device__ __forceinline__ float2 decode_pair(uint32_t bits);
template <> __device__ __forceinline__ float2 decode_pair<bf16>(uint32_t bits) {
  return make_float2(same_bits<float>(bits << 16), same_bits<float>(bits & 0xFFFF0000u));  // the upper half of a float
}
template <> __device__ __forceinline__ float2 decode_pair<f16>(uint32_t bits) { return __half22float2(same_bits<__half2>(bits)); }

template <typename T> __device__ __forceinline__ uint32_t encode_pair(float low, float high);
template <> __device__ __forceinline__ uint32_t encode_pair<bf16>(float low, float high) {
  return same_bits<uint32_t>(__floats2bfloat162_rn(low, high));
}
template <> __device__ __forceinline__ uint32_t encode_pair<f16>(float low, float high) {
  return same_bits<uint32_t>(__floats2half2_rn(low, high));
}

// Four numbers as one load or store of 8 or 16 bytes.
template <typename T> struct QuadOf { typedef uint2 Type; };
template <> struct QuadOf<float> { typedef float4 Type; };
template <typename T> using Quad = typename QuadOf<T>::Type;

template <typename T> __device__ __forceinline__ float4 decode_quad(Quad<T> quad) {
  const float2 low = decode_pair<T>(quad.x), high = decode_pair<T>(quad.y);
  return make_float4(low.x, low.y, high.x, high.y);
}
template <> __device__ __forceinline__ float4 decode_quad<float>(float4 quad) { return quad; }

template <typename T> __device__ __forceinline__ Quad<T> encode_quad(float4 x) {
  return make_uint2(encode_pair<T>(x.x, x.y), encode_pair<T>(x.z, x.w));
}
template <> __device__ __forceinline__ float4 encode_quad<float>(float4 x) { return x; }

// The numbers of one load of 16 bytes: four floats, or eight numbers of 16 bits.
template <typename T>
__device__ __forceinline__ void decode_vector(uint4 bits, float (&x)[16 / sizeof(T)]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      x[i] = same_bits<float>(words[i]);
    } else {
      const float2 pair = decode_pair<T>(words[i]);
      x[2 * i] = pair.x;
      x[2 * i + 1] = pair.y;
    }
  }
}

__host__ __device__ __forceinline__ bool aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

}  // namespace cuda
}  // namespace d2v
