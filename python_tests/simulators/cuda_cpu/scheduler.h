// Runs the threads of a block in a random order until all are done, and says where they stand when they cannot go on.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fiber.h"
#include "vector_types.h"

namespace cuda_cpu {

enum State : uint8_t { READY, AT_BARRIER, AT_WARP_OPERATION, DONE };

struct Site {  // a place in the source: as a default argument, the caller's
  const char* file;
  int line;
  Site(const char* file = __builtin_FILE(), int line = __builtin_LINE()) : file(file), line(line) {}
  bool operator==(const Site& other) const { return line == other.line && strcmp(file, other.file) == 0; }
};

struct Thread {
  Fiber fiber;
  uint3 index;
  unsigned lane, warp, mask;  // mask: of the warp operation it waits at
  State state;
  Site site;
  int predicate;
  bool fenced;              // a __threadfence since the last atomic
  uint64_t posted;          // what the other lanes of the operation may read
  uint64_t seen[32];        // what they posted
  unsigned warp_syncs;      // counts __syncwarp, for the sanitizer's objects
};

constexpr unsigned kMaxThreads = 1024;
constexpr size_t kArena = 256 << 10;  // room for shared memory under ThreadSanitizer, behind the stacks

struct Block {
  dim3 grid, size;
  uint3 index;
  unsigned threads = 0, current = 0, order[kMaxThreads];
  Thread* thread = nullptr;
  char* memory = nullptr;  // stacks, then the arena
  int any, all, count;     // of the predicates at the last barrier
  uint64_t random = 1, barriers = 0;
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
};
inline Block block;
inline uint64_t seed = 0;

// ThreadSanitizer's objects of synchronisation: only their addresses count. The blocks of a grid come one after another, each with
// objects of its own as far as kObjects go.
constexpr unsigned kObjects = 1 << 16, kObjectsPerBlock = 2 + 2 * kMaxThreads;
inline char at_start, at_end, objects[kObjects];
inline uint64_t blocks_run = 0;
inline CUDA_CPU_OWN void* object(unsigned which) { return &objects[(blocks_run * kObjectsPerBlock + which) % kObjects]; }

inline CUDA_CPU_OWN void happens_after(void* what) {
#ifdef __SANITIZE_THREAD__
  __tsan_acquire(what);
#endif
  (void)what;
}
inline CUDA_CPU_OWN void happens_before(void* what) {
#ifdef __SANITIZE_THREAD__
  __tsan_release(what);
#endif
  (void)what;
}

inline CUDA_CPU_OWN uint64_t next_random() {  // xorshift
  block.random ^= block.random << 13;
  block.random ^= block.random >> 7;
  return block.random ^= block.random << 17;
}

inline CUDA_CPU_OWN Thread& self() { return block.thread[block.current]; }

// Ends the process with the places where the threads stand, neighbours at one place together.
[[noreturn]] inline CUDA_CPU_OWN void fail(const char* what, const Site* where = nullptr) {
  static const char* const kNames[] = {"ready", "at __syncthreads", "at a warp operation", "finished"};
  fprintf(stderr, "cuda_cpu: %s", what);
  if (where) fprintf(stderr, " at %s:%d", where->file, where->line);
  fprintf(stderr, "; block (%u, %u, %u):\n", block.index.x, block.index.y, block.index.z);
  for (unsigned i = 0, next; i < block.threads; i = next) {
    const Thread& t = block.thread[i];
    const bool placed = t.state == AT_BARRIER || t.state == AT_WARP_OPERATION;
    for (next = i + 1; next < block.threads; ++next) {
      const Thread& other = block.thread[next];
      if (other.state != t.state || (placed && !(other.site == t.site))) break;
    }
    fprintf(stderr, "  threads %u to %u: %s", i, next - 1, kNames[t.state]);
    if (placed) fprintf(stderr, " at %s:%d", t.site.file, t.site.line);
    fprintf(stderr, "\n");
  }
  fflush(nullptr);
  _exit(66);
}

// From a thread: waits until the scheduler has what it waits for.
inline CUDA_CPU_OWN void wait(State state, unsigned mask, uint64_t posted, int predicate, Site site) {
  Thread& t = self();
  t.state = state;
  t.mask = mask;
  t.posted = posted;
  t.predicate = predicate;
  t.site = site;
  t.fiber.leave(false);
}

inline CUDA_CPU_OWN void thread_main() {
  self().fiber.entered();
  happens_after(&at_start);
  block.body(block.argument);
  happens_before(&at_end);
  self().state = DONE;
  self().fiber.leave(true);
  abort();
}

// Thread i has come to a warp operation: lets its group go on when it is complete.
inline CUDA_CPU_OWN void complete_warp_operation(unsigned i) {
  const Thread& arrived = block.thread[i];
  Thread* const warp = &block.thread[arrived.warp * 32];
  const unsigned mask = arrived.mask, lanes = block.threads - arrived.warp * 32;
  if (!(mask >> arrived.lane & 1)) fail("a lane that is not in its own mask");
  for (unsigned l = 0; l < 32; ++l)
    if ((mask >> l & 1) && (l >= lanes || warp[l].state != AT_WARP_OPERATION || warp[l].mask != mask)) return;
  for (unsigned l = 0; l < 32; ++l)
    if ((mask >> l & 1) && !(warp[l].site == arrived.site)) fail("lanes of one mask at different warp operations");
  for (unsigned l = 0; l < 32; ++l) {
    if (!(mask >> l & 1)) continue;
    for (unsigned other = 0; other < 32; ++other) warp[l].seen[other] = mask >> other & 1 ? warp[other].posted : ~0ull;
    warp[l].state = READY;
  }
}

// Everybody who is not done waits at a barrier: lets them go on.
inline CUDA_CPU_OWN void complete_barrier() {
  const Thread* first = nullptr;
  block.any = block.count = 0;
  block.all = 1;
  for (unsigned i = 0; i < block.threads; ++i) {
    const Thread& t = block.thread[i];
    if (t.state != AT_BARRIER) continue;
    if (!first) first = &t;
    if (!(t.site == first->site)) fail("threads wait at different barriers");
    block.any |= t.predicate;
    block.all &= t.predicate;
    block.count += t.predicate;
  }
  for (unsigned i = 0; i < block.threads; ++i)
    if (block.thread[i].state == AT_BARRIER) block.thread[i].state = READY;
  ++block.barriers;
}

void fresh_shared_memory();    // shared_memory.h
void answer_shared_request();  // the same

inline CUDA_CPU_OWN void run_block() {
  ++blocks_run;
#ifdef __SANITIZE_THREAD__
  // New pages: what earlier blocks did with these addresses is forgotten, without an order between the blocks.
  mmap(block.memory, block.threads * kStack + kArena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
#endif
  fresh_shared_memory();
  for (unsigned i = 0; i < block.threads; ++i) {
    Thread& t = block.thread[i];
    t.fiber.create(block.memory + i * kStack, thread_main);
    t.index = {i % block.size.x, i / block.size.x % block.size.y, i / (block.size.x * block.size.y)};
    t.lane = i % 32;
    t.warp = i / 32;
    t.state = READY;
    t.fenced = false;
    t.warp_syncs = 0;
    block.order[i] = i;
  }
  for (unsigned left = block.threads; left;) {
    bool ran = false;
    const uint32_t resting = block.threads > 32 ? static_cast<uint32_t>(next_random() & next_random()) : 0;  // warps, this time
    for (unsigned i = block.threads - 1; i > 0; --i) {
      const unsigned other = static_cast<unsigned>(next_random() % (i + 1)), kept = block.order[i];
      block.order[i] = block.order[other];
      block.order[other] = kept;
    }
    for (unsigned k = 0; k < block.threads; ++k) {
      const unsigned i = block.order[k];
      if (block.thread[i].state != READY || resting >> block.thread[i].warp & 1) continue;
      ran = true;
      block.current = i;
      block.thread[i].fiber.enter();
      answer_shared_request();
      if (block.thread[i].state == DONE) --left;
      else if (block.thread[i].state == AT_WARP_OPERATION) complete_warp_operation(i);
    }
    unsigned waiting = 0;
    for (unsigned i = 0; i < block.threads; ++i) waiting += block.thread[i].state == AT_BARRIER;
    if (waiting && waiting == left) complete_barrier();
    else if (left && !ran && !resting) fail("deadlock: a barrier that not all threads reach, or a mask that names absent lanes");
  }
}

inline CUDA_CPU_OWN uint64_t common_divisor(uint64_t a, uint64_t b) { return b ? common_divisor(b, a % b) : a; }

// All blocks, one after another, in a scrambled order.
inline CUDA_CPU_OWN void run_grid(dim3 grid, dim3 size, void (*body)(void*), void* argument) {
  static uint64_t launches = 0;
  block.random = (seed * 1000003 + ++launches) * 0x9E3779B97F4A7C15ull | 1;
  block.grid = grid;
  block.size = size;
  block.threads = size.x * size.y * size.z;
  block.body = body;
  block.argument = argument;
  if (!block.thread) {
    block.thread = static_cast<Thread*>(calloc(kMaxThreads, sizeof(Thread)));
    block.memory = static_cast<char*>(mmap(nullptr, kMaxThreads * kStack + kArena, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  happens_before(&at_start);
  const uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
  uint64_t step = next_random() % blocks | 1, at = next_random() % blocks;
  while (common_divisor(step, blocks) != 1) ++step;
  for (uint64_t k = 0; k < blocks; ++k, at = (at + step) % blocks) {
    block.index = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                   static_cast<unsigned>(at / (static_cast<uint64_t>(grid.x) * grid.y))};
    run_block();
  }
  happens_after(&at_end);
#ifdef __SANITIZE_THREAD__
  destroy_tsan_fibers();
#endif
}

}  // namespace cuda_cpu
