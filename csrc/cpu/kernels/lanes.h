// One register of float or double lanes, as wide as this instruction set has them, with loads from every number format.
// The compiler's vector extension (GCC, clang) turns the operators into instructions; no intrinsics but float16's.
#pragma once
#include "convert.h"

namespace d2v {
namespace D2V_ISA {

#if defined(__AVX512F__)
#define D2V_REGISTER_BYTES 64
#elif defined(__AVX2__)
#define D2V_REGISTER_BYTES 32
#else
#define D2V_REGISTER_BYTES 16
#endif

typedef float FloatLanes __attribute__((vector_size(D2V_REGISTER_BYTES)));
typedef double DoubleLanes __attribute__((vector_size(D2V_REGISTER_BYTES)));
typedef uint32_t WordLanes __attribute__((vector_size(D2V_REGISTER_BYTES)));
typedef uint16_t HalfLanes __attribute__((vector_size(D2V_REGISTER_BYTES / 2)));

// The type of the arithmetic on elements of type T, its lanes, and how many there are.
template <typename T> struct Arithmetic { typedef float Real; typedef FloatLanes Lanes; };
template <> struct Arithmetic<double> { typedef double Real; typedef DoubleLanes Lanes; };
template <typename T> using RealOf = typename Arithmetic<T>::Real;
template <typename T> using LanesOf = typename Arithmetic<T>::Lanes;
template <typename T> static constexpr int64_t lane_count() { return D2V_REGISTER_BYTES / static_cast<int64_t>(sizeof(RealOf<T>)); }

static inline FloatLanes load(const float* p) { FloatLanes v; memcpy(&v, p, sizeof v); return v; }
static inline DoubleLanes load(const double* p) { DoubleLanes v; memcpy(&v, p, sizeof v); return v; }
static inline FloatLanes load(const bf16* p) {
  HalfLanes halves;
  memcpy(&halves, p, sizeof halves);
  const WordLanes words = __builtin_convertvector(halves, WordLanes) << 16;
  FloatLanes v;
  memcpy(&v, &words, sizeof v);
  return v;
}
static inline FloatLanes load(const f16* p) {
#if D2V_REGISTER_BYTES == 64
  __m256i halves;
  memcpy(&halves, p, sizeof halves);
  return reinterpret_cast<FloatLanes>(_mm512_cvtph_ps(halves));
#elif defined(D2V_F16C)
  __m128i halves;
  memcpy(&halves, p, sizeof halves);
  return reinterpret_cast<FloatLanes>(_mm256_cvtph_ps(halves));
#else
  float lanes[D2V_REGISTER_BYTES / 4];
  decode(p, lanes, D2V_REGISTER_BYTES / 4);
  return load(lanes);
#endif
}
static inline void store(float* p, FloatLanes v) { memcpy(p, &v, sizeof v); }
static inline void store(double* p, DoubleLanes v) { memcpy(p, &v, sizeof v); }

// The same for the last `n` elements of a row: the other lanes are read as zero and not written. With PART false, `n` is not looked at.
template <bool PART, typename T>
static inline LanesOf<T> load(const T* p, int64_t n) {
  if (!PART) return load(p);
  T lanes[lane_count<T>()];
  memset(lanes, 0, sizeof lanes);
  memcpy(lanes, p, static_cast<size_t>(n) * sizeof(T));
  return load(lanes);
}
template <bool PART, typename Real>
static inline void store(Real* p, LanesOf<Real> v, int64_t n) {
  if (PART) memcpy(p, &v, static_cast<size_t>(n) * sizeof(Real));
  else store(p, v);
}

// body(c, registers, n) from element c = 0 to the end of a row of `width`: `registers.count` is the most registers at a time, COUNT, while
// they last, then 1. At last `registers.part` may be true: one register, of which the row fills only n lanes. The compiler makes three
// copies of the body, or two when COUNT is 1.
template <int COUNT, bool PART> struct Registers {
  static constexpr int count = COUNT;
  static constexpr bool part = PART;
};
template <int COUNT, typename T, typename Body>
static inline void each_registers(int64_t width, Body body) {
  const int64_t lanes = lane_count<T>();
  int64_t c = 0;
  for (; c + COUNT * lanes <= width; c += COUNT * lanes) body(c, Registers<COUNT, false>(), COUNT * lanes);
  if (COUNT > 1)
    for (; c + lanes <= width; c += lanes) body(c, Registers<1, false>(), lanes);
  if (c < width) body(c, Registers<1, true>(), width - c);
}

// Sum of the lanes, always in the same order: halves are added until one number is left.
static inline float sum_lanes(FloatLanes v) {
  typedef float Four __attribute__((vector_size(16)));
  Four fours[D2V_REGISTER_BYTES / 16];
  memcpy(fours, &v, sizeof v);
  for (int64_t half = D2V_REGISTER_BYTES / 32; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) fours[i] += fours[i + half];
  return (fours[0][0] + fours[0][2]) + (fours[0][1] + fours[0][3]);
}
static inline double sum_lanes(DoubleLanes v) {
  typedef double Two __attribute__((vector_size(16)));
  Two twos[D2V_REGISTER_BYTES / 16];
  memcpy(twos, &v, sizeof v);
  for (int64_t half = D2V_REGISTER_BYTES / 32; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) twos[i] += twos[i + half];
  return twos[0][0] + twos[0][1];
}

}  // namespace D2V_ISA
}  // namespace d2v
