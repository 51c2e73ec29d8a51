// The CUDA kernels as plain functions: device pointers, sizes, a stream (cudaStream_t, as void* so that callers need no CUDA header).
// Each only launches, on the current device: no synchronisation and no allocation, so it may be captured into a CUDA graph.
// Each returns null, or what went wrong.
#pragma once
#include "../cpu/kernels.h"

namespace d2v {
namespace cuda {

// Makes a device the calling thread's current one for the kernels here: this library has a CUDA runtime of its own.
const char* use_device(int device);

// Why the kernels cannot run on the current device with its driver, or null.
const char* unusable();

// A piece of one tensor of the EMA's list; a row of four int64 in the device table.
struct alignas(16) EmaChunk {
  void* teacher;
  const void* student;
  void* shadow;  // or null
  int32_t size;  // elements
  uint8_t teacher_dtype, student_dtype, shadow_dtype, unused;
};
static_assert(sizeof(EmaChunk) == 4 * sizeof(int64_t), "the table is allocated as int64");

// The chunks of a list of tensors, for a table in host memory that the caller copies to the device.
int64_t ema_chunk_count(const EmaTensor* tensors, int64_t count);
void ema_fill_chunks(const EmaTensor* tensors, int64_t count, EmaChunk* chunks);

// `chunks` and `decay` in device memory. Decay 0 copies the student bit for bit, decay 1 keeps the teacher.
const char* ema(const EmaChunk* chunks, int64_t count, const double* decay, void* stream);

// layer_norm must be NORM_INSTANCE, final_norm NORM_NONE, dtype F32, BF16 or F16. In host memory: `layers` and `strides`; on the
// device: what they point to, `rows`, `lengths` and `out`. Lengths above `frames` count as `frames`.
const char* layer_targets(const LayerTargets& x, void* stream);

// How often layer_targets would read the wanted rows of each layer on the current device: once where a layer's piece fits into shared
// memory, twice where not, 0 where `x` is refused. Pointers are not looked at.
const char* layer_targets_reads(const LayerTargets& x, int& reads);

}  // namespace cuda
}  // namespace d2v
