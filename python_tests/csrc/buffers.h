// What the tests of sanitized kernels share: buffers of exactly the promised size, at odd addresses.
#pragma once
#include <math.h>

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/kernels/convert.h"

#include "check.h"

using std::vector;
namespace isa = d2v::D2V_ISA;

namespace {

const d2v::Kernels& kernels = isa::kernels;
const int64_t kFormats[] = {d2v::F32, d2v::F64, d2v::BF16, d2v::F16};

int64_t bytes_of(int64_t dtype) { return dtype == d2v::F64 ? 8 : dtype == d2v::F32 ? 4 : 2; }
double unit(int64_t dtype) { return dtype == d2v::F64 ? 0x1p-52 : dtype == d2v::F32 ? 0x1p-23 : dtype == d2v::BF16 ? 0x1p-7 : 0x1p-10; }

// A tensor at an address that is aligned to its elements only, and ends where its memory ends.
struct Buffer {
  int64_t dtype, size, offset;
  vector<char> memory;

  Buffer(int64_t type, int64_t count, int64_t skipped = 0)
      : dtype(type), size(count), offset(skipped * bytes_of(type)), memory(static_cast<size_t>(offset + count * bytes_of(type)), 0x7f) {}
  void* data() { return size == 0 ? nullptr : memory.data() + offset; }  // as torch: an empty tensor has no address
  double at(int64_t i) {
    double value;
    isa::decode_any(dtype, data(), i, &value, 1);
    return value;
  }
  void set(int64_t i, double value) { isa::encode_any(dtype, &value, data(), i, 1); }
  Buffer& fill(int seed) {
    for (int64_t i = 0; i < size; ++i) set(i, static_cast<double>((i * 7919 + seed * 104729) % 512 - 256) / 64);  // exact in every format
    return *this;
  }
};

// Layer norm of a row without weight and bias, and GELU of that.
struct Norm {
  vector<double> u, result;
  double scale;
};

[[maybe_unused]] Norm norm_and_gelu(Buffer& z, int64_t start, int64_t channels) {
  Norm norm;
  double mean = 0, square = 0;
  for (int64_t c = 0; c < channels; ++c) mean += z.at(start + c) / static_cast<double>(channels);
  for (int64_t c = 0; c < channels; ++c) square += pow(z.at(start + c) - mean, 2) / static_cast<double>(channels);
  norm.scale = 1 / sqrt(square + 1e-5);
  for (int64_t c = 0; c < channels; ++c) {
    norm.u.push_back((z.at(start + c) - mean) * norm.scale);
    norm.result.push_back(norm.u.back() * 0.5 * (1 + erf(norm.u.back() / sqrt(2.0))));
  }
  return norm;
}

bool close(double ours, double exact, double tolerance) { return fabs(ours - exact) <= tolerance * std::max(1.0, fabs(exact)); }

}  // namespace
