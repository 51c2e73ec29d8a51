// teacher += (1 - decay) * (student - teacher), over a list of tensors in one parallel region.
//
// The list is cut into chunks (chunks.h). Without AVX-512 a chunk is gone through in two stretches side by side, which keeps more of memory's
// lines under way than one (on Zen 3 a seventh faster; four are not faster, eight slower). With it one keeps enough of them (on Zen 5 two
// are a seventh slower, four a quarter). A shadow of 16 bits is rounded a cache line at a time and written
// past the caches. With a student of another format, or any other shadow, a chunk is worked on in blocks that stay in the first-level
// cache.
#include "../kernels.h"
#include "chunks.h"
#include "convert.h"
#include "move.h"
#include "stream.h"

namespace d2v {
namespace D2V_ISA {

#if defined(__AVX512F__)
static const int64_t kStretches = 1;
#else
static const int64_t kStretches = 2;
#endif
static const int64_t kChunk = kStretches * (32768 + 32);  // stretches that lie 2^n bytes apart would share their places in the caches
static const int64_t kLine = 32;                          // elements of a stretch at a time: a cache line of a shadow of 16 bits
static const int64_t kBlock = 1024;

// A chunk, in stretches; `copy(from, n)` is called for every n elements whose new teacher is in the first-level cache.
template <typename Real, typename Copy>
static inline void move_stretches(Real* teacher, const Real* student, Real decay, Real weight, int64_t n, Copy copy) {
  const int64_t length = n / (kStretches * kLine) * kLine;
  for (int64_t i = 0; i < length; i += kLine)
    for (int64_t at = i; at < kStretches * length; at += length) {
      move(teacher + at, student + at, decay, weight, kLine);
      copy(at, kLine);
    }
  for (int64_t i = kStretches * length; i < n; i += kLine) {
    const int64_t left = n - i < kLine ? n - i : kLine;
    move(teacher + i, student + i, decay, weight, left);
    copy(i, left);
  }
}

template <typename Shadow, typename Real>
static inline void move_with_shadow(Real* teacher, const Real* student, Shadow* shadow, Real decay, Real weight, int64_t n) {
  const bool whole_lines = reinterpret_cast<uintptr_t>(shadow) % 64 == 0;
  move_stretches(teacher, student, decay, weight, n, [&](int64_t from, int64_t count) {
    alignas(64) Shadow rounded[kLine];
    encode(teacher + from, rounded, count);
    if (whole_lines) stream_copy(shadow + from, rounded, count * static_cast<int64_t>(sizeof(Shadow)));
    else memcpy(shadow + from, rounded, static_cast<size_t>(count) * sizeof(Shadow));
  });
}

template <typename Real>
static void update(const EmaTensor& x, int64_t from, int64_t to, double decay) {
  Real* const teacher = static_cast<Real*>(x.teacher);
  const Real keep = static_cast<Real>(decay), weight = static_cast<Real>(1.0 - decay);
  const int64_t own = code_of(teacher);
  if (decay == 1.0 && !x.shadow) return;
  if (x.student_dtype == own && decay != 0.0 && decay != 1.0) {
    const Real* const student = static_cast<const Real*>(x.student) + from;
    const int64_t n = to - from;
    if (!x.shadow) return move_stretches(teacher + from, student, keep, weight, n, [](int64_t, int64_t) {});
    if (x.shadow_dtype == BF16) return move_with_shadow(teacher + from, student, static_cast<bf16*>(x.shadow) + from, keep, weight, n);
    if (x.shadow_dtype == F16) return move_with_shadow(teacher + from, student, static_cast<f16*>(x.shadow) + from, keep, weight, n);
  }
  alignas(64) Real converted[kBlock];
  alignas(64) Real rounded[kBlock];  // room for the shadow's block in any format that is not wider than Real
  for (int64_t i = from; i < to; i += kBlock) {
    const int64_t n = to - i < kBlock ? to - i : kBlock;
    if (decay == 0.0) {
      decode_any(x.student_dtype, x.student, i, teacher + i, n);
    } else if (decay != 1.0) {
      const Real* student = converted;
      if (x.student_dtype == own) student = static_cast<const Real*>(x.student) + i;
      else decode_any(x.student_dtype, x.student, i, converted, n);
      move(teacher + i, student, keep, weight, n);
    }
    if (!x.shadow) continue;
    const int64_t width = bytes_of(x.shadow_dtype);
    if (width > static_cast<int64_t>(sizeof(Real))) {
      encode_any(x.shadow_dtype, teacher + i, x.shadow, i, n);
    } else {
      encode_any(x.shadow_dtype, teacher + i, rounded, 0, n);
      stream_copy(static_cast<char*>(x.shadow) + i * width, rounded, n * width);
    }
  }
}

void ema(const EmaTensor* tensors, int64_t count, double decay, int threads) {
  for_chunks(tensors, count, kChunk, threads, [&](int64_t i, int64_t from, int64_t to) {
    if (tensors[i].teacher_dtype == F64) update<double>(tensors[i], from, to, decay);
    else update<float>(tensors[i], from, to, decay);
  });
}

}  // namespace D2V_ISA
}  // namespace d2v
