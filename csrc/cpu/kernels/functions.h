// exp and GELU of whole registers. float: polynomials, wrong by a few units in the last place. double: the C library, lane by lane; nobody
// trains in it.
#pragma once
#include <math.h>

#include "lanes.h"

namespace d2v {
namespace D2V_ISA {

// exp(x) for x <= 0, or a little above; 0 below -87, where float has no normal numbers left.
static inline FloatLanes exp_lanes(FloatLanes x) {
  const FloatLanes magic = FloatLanes{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which stands in the low bits
  const FloatLanes shifted = x * 1.44269504088896f + magic, n = shifted - magic;
  const FloatLanes r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  const FloatLanes r2 = r * r;  // a tree, not a chain: the processor works on its branches side by side
  const FloatLanes high = (1.9841270e-4f * r + 1.3888889e-3f) * r2 + (8.3333333e-3f * r + 4.1666667e-2f);
  FloatLanes p = (high * r2 + (1.6666667e-1f * r + 0.5f)) * r2 + (r + 1.0f);
  WordLanes bits, power;
  memcpy(&power, &shifted, sizeof power);
  memcpy(&bits, &p, sizeof bits);
  bits += power << 23;
  memcpy(&p, &bits, sizeof p);
  return x < -87.0f ? FloatLanes{} : p;  // NaN stays NaN
}
static inline DoubleLanes exp_lanes(DoubleLanes x) {
  for (int64_t i = 0; i < lane_count<double>(); ++i) x[i] = exp(x[i]);
  return x;
}

// The normal distribution's density and distribution function: GELU is x * below, and its slope below + x * density.
template <typename Lanes>
struct Normal {
  Lanes density, below;
};

// The tail below -|x| is exp(-x^2 / 2) times a smooth function, here a polynomial in 1 / (1 + .21 |x|), fitted for the smallest relative
// error from 0 to 14 (1.6e-8).
static inline Normal<FloatLanes> normal(FloatLanes x) {
  const FloatLanes size = x < 0.0f ? -x : x, t = 1.0f / (1.0f + 0.21f * size), e = exp_lanes(-0.5f * size * size);
  const FloatLanes t2 = t * t, t4 = t2 * t2;
  const FloatLanes low = (6.919041953e-02f + 1.248792140e-01f * t) * t2 + (8.371155909e-02f + 8.506911956e-02f * t);
  const FloatLanes high = (-3.302706505e-01f + 2.835967212e-01f * t) * t2 + (-9.393977841e-02f + 3.494213548e-01f * t);
  const FloatLanes p = (t4 * -7.165795248e-02f + high) * t4 + low;
  const FloatLanes tail = e * (p * t);
  return {e * 0.398942280401433f, x < 0.0f ? tail : 1.0f - tail};
}
static inline Normal<DoubleLanes> normal(DoubleLanes x) {
  Normal<DoubleLanes> out;
  for (int64_t i = 0; i < lane_count<double>(); ++i) {
    out.density[i] = 0.398942280401432678 * exp(-0.5 * x[i] * x[i]);
    out.below[i] = 0.5 * erfc(-0.707106781186547524 * x[i]);
  }
  return out;
}

}  // namespace D2V_ISA
}  // namespace d2v
