// exp and log from additions, multiplications and divisions alone, which IEEE 754 rounds the same way everywhere (with
// -ffp-contract=off): libm's last bit differs between systems, and one bit can move the side of a masked block.
// Relative errors below 2e-15 for the moderate arguments of aspect ratios (exp of -7 to 7, log of 0.001 to 1000).
#pragma once
#include <math.h>  // floor, frexp, ldexp: exact

namespace d2v {

constexpr double kLn2 = 0x1.62e42fefa39efp-1;

// x finite, |x| < 700.
inline double portable_exp(double x) {
  static const double reciprocal[] = {0,     1. / 1, 1. / 2, 1. / 3,  1. / 4,  1. / 5,  1. / 6, 1. / 7,
                                      1. / 8, 1. / 9, 1. / 10, 1. / 11, 1. / 12, 1. / 13, 1. / 14};
  const double power = floor(x / kLn2 + 0.5);
  const double rest = x - power * kLn2;  // within +-ln(2) / 2, where 14 terms of the Taylor series suffice
  double sum = 1.0;
  for (int k = 14; k > 0; --k) sum = 1.0 + sum * (rest * reciprocal[k]);
  return ldexp(sum, static_cast<int>(power));
}

// x > 0, finite.
inline double portable_log(double x) {
  int power;
  double m = frexp(x, &power);  // in [0.5, 1)
  if (m < 0x1.6a09e667f3bcdp-1) m *= 2, --power;  // in [sqrt(1/2), sqrt(2))
  const double z = (m - 1.0) / (m + 1.0), z2 = z * z;
  double sum = 0.0;
  for (int k = 12; k >= 0; --k) sum = sum * z2 + 1.0 / (2 * k + 1);  // log(m) = 2 artanh(z) = 2 z (1 + z^2 / 3 + ...)
  return 2.0 * z * sum + power * kLn2;
}

}  // namespace d2v
