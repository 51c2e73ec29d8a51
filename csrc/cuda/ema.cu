// teacher += (1 - decay) * (student - teacher) for a whole model in one launch, and the new teacher rounded into its shadow.
//
// Bytes per parameter: 12 for a float32 student, 10 for a 16-bit one, 2 more for a 16-bit shadow; every byte is touched once. The
// table of chunks adds 32 for kChunk parameters (0.02 %).
//
// Why this form: the addresses lie in a table in device memory, so a list of any length is one launch, and a captured graph can be
// replayed. A chunk is one block's work and names its own formats, so mixed lists need no second launch. Four numbers per thread
// and access: 16 bytes of a float32 teacher, and a 16-bit student's 8 bytes beside them, so that neighbouring threads always touch
// neighbouring bytes; two such accesses are under way at a time. Chunks that are not aligned to that, float64 and rare formats of
// the shadow go number by number, with the same results. The decay is a double in device memory, and 1 - decay is formed in
// double: taken in float, 1 - 0.9999 is off by 1.7e-4 of itself.
#include <math.h>

#include "kernels.h"
#include "numbers.h"

namespace d2v {
namespace cuda {

constexpr int kThreads = 256;
constexpr int kUnroll = 2;
constexpr int64_t kChunk = 16384;  // a multiple of every vector, so only a tensor's last chunk has a tail

__device__ __forceinline__ float fused(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double fused(double a, double b, double c) { return fma(a, b, c); }

// Starts from the end whose weight is larger, so that the rounding error shrinks with the smaller weight; at weight 0 that end
// stays as it is, bit for bit, also beside infinities and NaN.
template <typename Real>
struct Step {
  Real factor;
  bool from_teacher;
  __device__ explicit Step(double decay) : from_teacher(decay > 0.5) {
    factor = static_cast<Real>(from_teacher ? 1.0 - decay : decay);
  }
  __device__ __forceinline__ Real operator()(Real teacher, Real student) const {
    const Real from = from_teacher ? teacher : student, to = from_teacher ? student : teacher;
    return factor == 0 ? from : fused(factor, to - from, from);
  }
};

template <typename Real>
__device__ Real load_any(int dtype, const void* from, int i) {
  switch (dtype) {
    case F32: return static_cast<Real>(static_cast<const float*>(from)[i]);
    case F64: return static_cast<Real>(static_cast<const double*>(from)[i]);
    case BF16: return static_cast<Real>(decode(static_cast<const bf16*>(from)[i]));
    default: return static_cast<Real>(decode(static_cast<const f16*>(from)[i]));
  }
}

template <typename Real>
__device__ void store_any(int dtype, void* to, int i, Real x) {
  switch (dtype) {
    case F32: static_cast<float*>(to)[i] = static_cast<float>(x); break;
    case F64: static_cast<double*>(to)[i] = static_cast<double>(x); break;
    case BF16: encode(static_cast<float>(x), static_cast<bf16*>(to)[i]); break;
    default: encode(static_cast<float>(x), static_cast<f16*>(to)[i]);
  }
}

// Any formats and any alignment, from element `first` on.
template <typename Real>
__device__ __forceinline__ void move_each(const EmaChunk& x, const Step<Real>& step, int first) {
#pragma unroll 1
  for (int i = first + threadIdx.x; i < x.size; i += kThreads) {
    Real* const teacher = static_cast<Real*>(x.teacher) + i;
    const Real moved = step(*teacher, load_any<Real>(x.student_dtype, x.student, i));
    *teacher = moved;
    if (x.shadow) store_any(x.shadow_dtype, x.shadow, i, moved);
  }
}

struct NoShadow {};

// A float32 teacher, four numbers at a time; the last ones, fewer than four, stay to be done.
template <typename Student, typename Shadow>
__device__ __forceinline__ void move_quads(const EmaChunk& x, const Step<float>& step) {
  float4* const teacher = static_cast<float4*>(x.teacher);
  const Quad<Student>* const student = static_cast<const Quad<Student>*>(x.student);
  const int quads = x.size / 4;
  for (int first = threadIdx.x; first < quads; first += kUnroll * kThreads) {
    float4 mean[kUnroll];
    Quad<Student> sample[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int i = first + u * kThreads;
      if (i < quads) {
        mean[u] = teacher[i];
        sample[u] = student[i];
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int i = first + u * kThreads;
      if (i < quads) {
        const float4 to = decode_quad<Student>(sample[u]);
        const float4 moved = make_float4(step(mean[u].x, to.x), step(mean[u].y, to.y), step(mean[u].z, to.z), step(mean[u].w, to.w));
        teacher[i] = moved;
        if constexpr (sizeof(Shadow) == 2) static_cast<Quad<Shadow>*>(x.shadow)[i] = encode_quad<Shadow>(moved);
      }
    }
  }
}

// How many elements are done: none where quads are not made for the shadow's format.
template <typename Student>
__device__ __forceinline__ int move_student(const EmaChunk& x, const Step<float>& step) {
  if (!x.shadow) move_quads<Student, NoShadow>(x, step);
  else if (x.shadow_dtype == BF16) move_quads<Student, bf16>(x, step);
  else if (x.shadow_dtype == F16) move_quads<Student, f16>(x, step);
  else return 0;
  return x.size / 4 * 4;
}

__global__ void __launch_bounds__(kThreads, 5) ema_kernel(const EmaChunk* __restrict__ chunks, const double* __restrict__ decay) {
  EmaChunk x = chunks[blockIdx.x];
  x.teacher = global(x.teacher);
  x.student = global(x.student);
  x.shadow = global(x.shadow);
  if (x.teacher_dtype == F64) return move_each(x, Step<double>(*decay), 0);
  const Step<float> step(*decay);
  const size_t student_bytes = x.student_dtype == F32 ? 16 : 8;
  int done = 0;
  if (aligned(x.teacher, 16) && aligned(x.student, student_bytes) && aligned(x.shadow, 8)) {
    if (x.student_dtype == F32) done = move_student<float>(x, step);
    else if (x.student_dtype == BF16) done = move_student<bf16>(x, step);
    else if (x.student_dtype == F16) done = move_student<f16>(x, step);
  }
  move_each(x, step, done);
}

static int64_t bytes_of(int64_t dtype) { return dtype == F64 ? 8 : dtype == F32 ? 4 : 2; }

int64_t ema_chunk_count(const EmaTensor* tensors, int64_t count) {
  int64_t chunks = 0;
  for (int64_t i = 0; i < count; ++i) chunks += (tensors[i].size + kChunk - 1) / kChunk;
  return chunks;
}

void ema_fill_chunks(const EmaTensor* tensors, int64_t count, EmaChunk* chunks) {
  for (int64_t t = 0; t < count; ++t) {
    const EmaTensor& x = tensors[t];
    for (int64_t from = 0; from < x.size; from += kChunk) {
      EmaChunk& chunk = *chunks++;
      chunk.teacher = static_cast<char*>(x.teacher) + from * bytes_of(x.teacher_dtype);
      chunk.student = static_cast<const char*>(x.student) + from * bytes_of(x.student_dtype);
      chunk.shadow = x.shadow ? static_cast<char*>(x.shadow) + from * bytes_of(x.shadow_dtype) : nullptr;
      chunk.size = static_cast<int32_t>(x.size - from < kChunk ? x.size - from : kChunk);
      chunk.teacher_dtype = static_cast<uint8_t>(x.teacher_dtype);
      chunk.student_dtype = static_cast<uint8_t>(x.student_dtype);
      chunk.shadow_dtype = static_cast<uint8_t>(x.shadow_dtype);
      chunk.unused = 0;
    }
  }
}

const char* ema(const EmaChunk* chunks, int64_t count, const double* decay, void* stream) {
  if (count == 0) return nullptr;
  if (count > INT32_MAX) return "the list of tensors has more chunks than a grid has blocks";
  const dim3 grid(static_cast<unsigned>(count));
  return failure(launch(ema_kernel, grid, dim3(kThreads), 0, static_cast<cudaStream_t>(stream), chunks, decay));
}

}  // namespace cuda
}  // namespace d2v
