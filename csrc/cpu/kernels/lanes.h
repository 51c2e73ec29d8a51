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

// body(first element, part, elements) for every register of a row of `width` elements: `part.value` is true for a last one that the row
// does not fill. The compiler makes two copies of the body.
struct Whole { static constexpr bool value = false; };
struct Part { static constexpr bool value = true; };
template <typename T, typename Body>
static inline void each_register(int64_t width, Body body) {
  int64_t c = 0;
  for (; c + lane_count<T>() <= width; c += lane_count<T>()) body(c, Whole(), lane_count<T>());
  if (c < width) body(c, Part(), width - c);
}

// Sum of the lanes, always in the same order.
template <typename Real>
static inline Real sum_lanes(LanesOf<Real> v) {
  Real lanes[lane_count<Real>()];
  memcpy(lanes, &v, sizeof lanes);
  for (int64_t half = lane_count<Real>() / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

}  // namespace D2V_ISA
}  // namespace d2v
