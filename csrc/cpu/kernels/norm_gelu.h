// Rows through the norm and GELU, and their gradients; of norm_gelu, and of decoder_layer, whose norm has no weight and bias.
#pragma once
#include "functions.h"

namespace d2v {
namespace D2V_ISA {

template <typename Real>
struct RowNorm {
  int64_t channels;
  Real eps;
  const Real *weight, *bias;  // read where AFFINE is true
};

// The mean of a row and 1 / its deviation, in two passes over the first-level cache.
template <typename Real>
static inline void row_moments(const Real* z, int64_t channels, Real eps, Real& mean, Real& scale) {
  typedef LanesOf<Real> Lanes;
  const int64_t lanes = lane_count<Real>();
  const Real count = static_cast<Real>(channels);
  Lanes sum[4] = {}, square[4] = {};
  each_registers<4, Real>(channels, [&](int64_t c, auto registers, int64_t n) {
    for (int j = 0; j < registers.count; ++j) sum[j] += load<registers.part>(z + c + j * lanes, n);
  });
  mean = sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3])) / count;
  each_registers<4, Real>(channels, [&](int64_t c, auto registers, int64_t n) {
    for (int j = 0; j < registers.count; ++j) {
      Lanes d = load<registers.part>(z + c + j * lanes, n) - mean;
      if (registers.part)
        for (int64_t i = n; i < lanes; ++i) d[i] = 0;
      square[j] += d * d;
    }
  });
  scale = 1 / sqrt(sum_lanes((square[0] + square[1]) + (square[2] + square[3])) / count + eps);
}

// y = gelu(norm(z)), plus x where it is given; a row. y may be z.
template <bool AFFINE, typename Real>
static inline void finish_row(const RowNorm<Real>& norm, const Real* z, const Real* x, Real* y) {
  typedef LanesOf<Real> Lanes;
  const int64_t lanes = lane_count<Real>();
  Real mean, scale;
  row_moments(z, norm.channels, norm.eps, mean, scale);
  each_registers<4, Real>(norm.channels, [&](int64_t c, auto registers, int64_t n) {
    constexpr bool part = registers.part;
    for (int j = 0; j < registers.count; ++j) {
      const int64_t at = c + j * lanes;
      Lanes u = (load<part>(z + at, n) - mean) * scale;
      if (AFFINE) u = u * load<part>(norm.weight + at, n) + load<part>(norm.bias + at, n);
      Lanes out = u * normal(u).below;
      if (x) out += load<part>(x + at, n);
      store<part>(y + at, out, n);
    }
  });
}

// The gradient of y = gelu(norm(z)) for z. `units` and `slopes`: room for a row each; of `units` and z_gradient either may be z. Adds to
// `sums` the gradient itself, [channels], or with AFFINE those of weight and bias, [2][channels].
template <bool AFFINE, typename Real>
static inline void unfinish_row(const RowNorm<Real>& norm, const Real* z, const Real* gradient, Real* z_gradient, Real* units, Real* slopes,
                                Real* sums) {
  typedef LanesOf<Real> Lanes;
  const int64_t lanes = lane_count<Real>(), channels = norm.channels;
  const Real count = static_cast<Real>(channels);
  Real mean, scale;
  row_moments(z, channels, norm.eps, mean, scale);
  Lanes total = {}, along = {};
  each_registers<4, Real>(channels, [&](int64_t c, auto registers, int64_t n) {
    constexpr bool part = registers.part;
    for (int j = 0; j < registers.count; ++j) {
      const int64_t at = c + j * lanes;
      const Lanes unit = (load<part>(z + at, n) - mean) * scale;
      Lanes u = unit, weight = {};
      if (AFFINE) {
        weight = load<part>(norm.weight + at, n);
        u = unit * weight + load<part>(norm.bias + at, n);
      }
      const auto phi = normal(u);
      Lanes slope = load<part>(gradient + at, n) * (phi.below + u * phi.density);  // 0 behind the end
      if (AFFINE) {
        store<part>(sums + at, load<part>(sums + at, n) + slope * unit, n);
        store<part>(sums + channels + at, load<part>(sums + channels + at, n) + slope, n);
        slope *= weight;
      }
      store<part>(units + at, unit, n);
      store<part>(slopes + at, slope, n);
      total += slope;
      along += slope * unit;
    }
  });
  const Real shift = sum_lanes(total) / count, tilt = sum_lanes(along) / count;
  each_registers<4, Real>(channels, [&](int64_t c, auto registers, int64_t n) {
    constexpr bool part = registers.part;
    for (int j = 0; j < registers.count; ++j) {
      const int64_t at = c + j * lanes;
      const Lanes d = (load<part>(slopes + at, n) - shift - load<part>(units + at, n) * tilt) * scale;
      store<part>(z_gradient + at, d, n);
      if (!AFFINE) store<part>(sums + at, load<part>(sums + at, n) + d, n);
    }
  });
}

}  // namespace D2V_ISA
}  // namespace d2v
