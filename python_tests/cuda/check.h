// What the test programs share: buffers of exactly the promised size, numbers, and the verdict.
#pragma once
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <random>

#include "cuda_cpu.h"
#include "cuda/kernels.h"

inline std::mt19937 generator(1);
inline double normal() { return std::normal_distribution<double>()(generator); }
inline int64_t below(int64_t n) { return static_cast<int64_t>(generator() % static_cast<uint64_t>(n)); }

inline int failures = 0;
inline void expect(bool right, const char* what, double a, double b, int64_t at) {
  if (!right && ++failures <= 10) fprintf(stderr, "wrong: %s at %lld: %.9g, expected %.9g\n", what, static_cast<long long>(at), a, b);
}

// `size` numbers of one format, `offset` elements behind an aligned address, without a byte to spare: AddressSanitizer sees the ends.
struct Buffer {
  int64_t dtype, size, offset;
  char* memory;
  Buffer(int64_t dtype, int64_t size, int64_t offset = 0) : dtype(dtype), size(size), offset(offset) {
    memory = static_cast<char*>(malloc(static_cast<size_t>((size + offset) * width())));
    memset(memory, 0xFF, static_cast<size_t>((size + offset) * width()));
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { free(memory); }
  int64_t width() const { return dtype == d2v::F64 ? 8 : dtype == d2v::F32 ? 4 : 2; }
  void* at(int64_t i) const { return memory + (offset + i) * width(); }
  double get(int64_t i) const {
    switch (dtype) {
      case d2v::F64: return *static_cast<double*>(at(i));
      case d2v::F32: return *static_cast<float*>(at(i));
      case d2v::BF16: return __bfloat162float(*static_cast<__nv_bfloat16*>(at(i)));
      default: return __half2float(*static_cast<__half*>(at(i)));
    }
  }
  void set(int64_t i, double x) {
    switch (dtype) {
      case d2v::F64: *static_cast<double*>(at(i)) = x; break;
      case d2v::F32: *static_cast<float*>(at(i)) = static_cast<float>(x); break;
      case d2v::BF16: *static_cast<__nv_bfloat16*>(at(i)) = static_cast<float>(x); break;
      default: *static_cast<__half*>(at(i)) = static_cast<float>(x);
    }
  }
};

inline int verdict() {
  if (failures) fprintf(stderr, "%d wrong numbers\n", failures);
  else puts("ok");
  return failures ? 1 : 0;
}
