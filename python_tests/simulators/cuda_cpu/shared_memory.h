// Shared memory: new for every block, full of 0xFF. Each array is an allocation of its own, so AddressSanitizer sees its end; under
// ThreadSanitizer they lie in the arena, whose pages are new for every block.
#pragma once
#include "scheduler.h"

namespace cuda_cpu {

constexpr int kMaxArrays = 32;

struct SharedArray {
  Site site;
  void* memory;
};
struct SharedMemory {
  SharedArray array[kMaxArrays];
  int count = 0;
  size_t dynamic_bytes = 0, arena_used = 0;
  bool requested = false;
  Site requested_site;
  size_t requested_bytes;
};
inline SharedMemory shared_memory;

inline CUDA_CPU_OWN void* allocate_shared(size_t bytes) {
#ifdef __SANITIZE_THREAD__
  char* const memory = block.memory + block.threads * kStack + shared_memory.arena_used;
  shared_memory.arena_used += (bytes + 15) / 16 * 16;
  if (shared_memory.arena_used > kArena) fail("more shared memory than a GPU has");
  for (size_t i = 0; i < bytes; ++i) static_cast<volatile char*>(memory)[i] = static_cast<char>(0xFF);
  happens_before(&at_start);
  return memory;
#else
  void* const memory = malloc(bytes ? bytes : 1);
  memset(memory, 0xFF, bytes);
  return memory;
#endif
}

inline CUDA_CPU_OWN void fresh_shared_memory() {
#ifndef __SANITIZE_THREAD__
  for (int i = 0; i < shared_memory.count; ++i) free(shared_memory.array[i].memory);
#endif
  shared_memory.arena_used = 0;
  shared_memory.count = 1;
  shared_memory.array[0] = {{"dynamic", 0}, allocate_shared(shared_memory.dynamic_bytes)};
}

// The first thread that comes to a declaration asks for its memory, and the scheduler gives it: an allocation on a fiber's stack
// would make that thread the owner in the sanitizers' eyes.
inline CUDA_CPU_OWN void answer_shared_request() {
  while (shared_memory.requested) {
    shared_memory.requested = false;
    if (shared_memory.count == kMaxArrays) fail("too many shared arrays");
    shared_memory.array[shared_memory.count++] = {shared_memory.requested_site, allocate_shared(shared_memory.requested_bytes)};
    self().fiber.enter();
  }
}

inline CUDA_CPU_OWN void* shared_array(Site site, size_t bytes) {
  for (;;) {
    for (int i = 0; i < shared_memory.count; ++i) {
      if (!(shared_memory.array[i].site == site)) continue;
      happens_after(&at_start);
      return shared_memory.array[i].memory;
    }
    shared_memory.requested = true;
    shared_memory.requested_site = site;
    shared_memory.requested_bytes = bytes;
    self().fiber.leave(false);
  }
}

}  // namespace cuda_cpu

#define SHARED_ARRAY(type, name, size) \
  auto& name = *static_cast<type(*)[size]>(cuda_cpu::shared_array({__FILE__, __LINE__}, sizeof(type[size])))
#define DYNAMIC_SHARED(name) unsigned char* const name = static_cast<unsigned char*>(cuda_cpu::shared_array({"dynamic", 0}, 0))
