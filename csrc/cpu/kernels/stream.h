// Stores that go past the caches (non-temporal), for results that nobody reads soon: the line is not fetched before it is written.
// A function that used them calls stream_fence() before it returns. Where the processor has no such stores they are plain copies.
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace d2v {
namespace D2V_ISA {

#if defined(__AVX512F__)
typedef __m512i StreamVector;
static inline void stream_vector(void* dst, StreamVector v) { _mm512_stream_si512(static_cast<__m512i*>(dst), v); }
#elif defined(__AVX2__)
typedef __m256i StreamVector;
static inline void stream_vector(void* dst, StreamVector v) { _mm256_stream_si256(static_cast<__m256i*>(dst), v); }
#elif defined(__SSE2__)
typedef __m128i StreamVector;
static inline void stream_vector(void* dst, StreamVector v) { _mm_stream_si128(static_cast<__m128i*>(dst), v); }
#endif

#if defined(__SSE2__)

// Bytes of dst before the first one that a vector store may go to.
static inline int64_t stream_head(const void* dst, int64_t bytes) {
  const int64_t misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(dst) % sizeof(StreamVector));
  const int64_t head = misaligned ? static_cast<int64_t>(sizeof(StreamVector)) - misaligned : 0;
  return head < bytes ? head : bytes;
}
static inline void stream_copy(void* dst, const void* src, int64_t bytes) {
  const int64_t step = sizeof(StreamVector);
  char* to = static_cast<char*>(dst);
  const char* from = static_cast<const char*>(src);
  int64_t i = stream_head(dst, bytes);
  if (i) memcpy(to, from, static_cast<size_t>(i));
  for (; i + step <= bytes; i += step) {
    StreamVector v;
    memcpy(&v, from + i, sizeof v);
    stream_vector(to + i, v);
  }
  if (i < bytes) memcpy(to + i, from + i, static_cast<size_t>(bytes - i));
}
static inline void stream_fence() { _mm_sfence(); }

#else

static inline void stream_copy(void* dst, const void* src, int64_t bytes) { memcpy(dst, src, static_cast<size_t>(bytes)); }
static inline void stream_fence() {}

#endif

}  // namespace D2V_ISA
}  // namespace d2v
