// What kernels may call: barriers, warp operations, fences, atomics.
#pragma once
#include <type_traits>

#include "shared_memory.h"

#define threadIdx (cuda_cpu::self().index)
#define blockIdx (cuda_cpu::block.index)
#define blockDim (cuda_cpu::block.size)
#define gridDim (cuda_cpu::block.grid)

namespace cuda_cpu {

// Two objects in turn: a thread may be at the next barrier before another has left this one, but never at the one after that.
inline void barrier(int predicate, Site site) {
  void* const meeting = object(block.barriers % 2);
  happens_before(meeting);
  wait(AT_BARRIER, 0, 0, predicate != 0, site);
  happens_after(meeting);
}

template <typename T>
uint64_t to_bits(T x) {
  static_assert(sizeof(T) <= 8, "");
  uint64_t bits = 0;
  memcpy(&bits, &x, sizeof x);
  return bits;
}

template <typename T>
T from_bits(uint64_t bits) {
  T x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// `source` is read if `inside`, else the lane's own value comes back.
template <typename T>
T shuffle(unsigned mask, T value, unsigned source, bool inside, Site site) {
  wait(AT_WARP_OPERATION, mask, to_bits(value), 0, site);
  if (!inside) return value;
  if (!(mask >> source & 1)) fail("a shuffle reads a lane outside the mask", &site);
  return from_bits<T>(self().seen[source]);
}

// Whether a fence came since the last atomic; forgets it.
inline CUDA_CPU_OWN bool take_fence() {
  const bool fenced = self().fenced;
  self().fenced = false;
  return fenced;
}
inline CUDA_CPU_OWN void set_fence() { self().fenced = true; }

// The object that this lane offers at its next __syncwarp: two in turn.
inline CUDA_CPU_OWN unsigned next_lane_object() {
  Thread& t = self();
  return 2 + (t.warp * 32 + t.lane) * 2 + t.warp_syncs++ % 2;
}

// Atomics order memory for the sanitizer only if a __threadfence came before.
template <typename T, typename Change>
T atomic(T* address, Change change) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "");
  typedef typename std::conditional<sizeof(T) == 4, uint32_t, uint64_t>::type Bits;
  if (next_random() % 4 == 0) wait(READY, 0, 0, 0, {"", 0});  // others may come between
  Bits* const bits = reinterpret_cast<Bits*>(address);
  const bool ordered = take_fence();
  Bits before = __atomic_load_n(bits, __ATOMIC_RELAXED), after;
  do {
    after = static_cast<Bits>(to_bits<T>(change(from_bits<T>(before))));
  } while (ordered ? !__atomic_compare_exchange_n(bits, &before, after, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)
                   : !__atomic_compare_exchange_n(bits, &before, after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return from_bits<T>(before);
}

}  // namespace cuda_cpu

inline void __syncthreads(cuda_cpu::Site site = cuda_cpu::Site()) { cuda_cpu::barrier(0, site); }
inline int __syncthreads_or(int p, cuda_cpu::Site site = cuda_cpu::Site()) { return cuda_cpu::barrier(p, site), cuda_cpu::block.any; }
inline int __syncthreads_and(int p, cuda_cpu::Site site = cuda_cpu::Site()) { return cuda_cpu::barrier(p, site), cuda_cpu::block.all; }
inline int __syncthreads_count(int p, cuda_cpu::Site site = cuda_cpu::Site()) { return cuda_cpu::barrier(p, site), cuda_cpu::block.count; }

// Each lane offers an object of its own, and takes those of the lanes it met.
inline void __syncwarp(unsigned mask = ~0u, cuda_cpu::Site site = cuda_cpu::Site()) {
  using namespace cuda_cpu;
  const unsigned offered = next_lane_object();
  happens_before(object(offered));
  wait(AT_WARP_OPERATION, mask, offered, 0, site);
  for (unsigned l = 0; l < 32; ++l)
    if (mask >> l & 1) happens_after(object(static_cast<unsigned>(self().seen[l])));
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, cuda_cpu::Site site = cuda_cpu::Site()) {
  const unsigned first = cuda_cpu::self().lane & ~(width - 1u);
  return cuda_cpu::shuffle(mask, value, first | (source & (width - 1u)), true, site);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, cuda_cpu::Site site = cuda_cpu::Site()) {
  const unsigned lane = cuda_cpu::self().lane, source = lane ^ lane_mask, group = ~(width - 1u);
  return cuda_cpu::shuffle(mask, value, source & 31, (source & group) <= (lane & group), site);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, cuda_cpu::Site site = cuda_cpu::Site()) {
  const unsigned lane = cuda_cpu::self().lane;
  return cuda_cpu::shuffle(mask, value, (lane + delta) & 31, (lane & (width - 1u)) + delta < static_cast<unsigned>(width), site);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, cuda_cpu::Site site = cuda_cpu::Site()) {
  const unsigned lane = cuda_cpu::self().lane;
  return cuda_cpu::shuffle(mask, value, (lane - delta) & 31, (lane & (width - 1u)) >= delta, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, cuda_cpu::Site site = cuda_cpu::Site()) {
  cuda_cpu::wait(cuda_cpu::AT_WARP_OPERATION, mask, predicate != 0, 0, site);
  unsigned votes = 0;
  for (unsigned l = 0; l < 32; ++l)
    if (mask >> l & 1) votes |= static_cast<unsigned>(cuda_cpu::self().seen[l]) << l;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate, cuda_cpu::Site site = cuda_cpu::Site()) { return __ballot_sync(mask, predicate, site) != 0; }
inline int __all_sync(unsigned mask, int predicate, cuda_cpu::Site site = cuda_cpu::Site()) { return __ballot_sync(mask, predicate, site) == mask; }

inline void __threadfence() { cuda_cpu::set_fence(); }

template <typename T> T atomicAdd(T* address, T value) { return cuda_cpu::atomic(address, [=](T old) { return old + value; }); }
template <typename T> T atomicMax(T* address, T value) { return cuda_cpu::atomic(address, [=](T old) { return old > value ? old : value; }); }
template <typename T> T atomicCAS(T* address, T expected, T value) {
  return cuda_cpu::atomic(address, [=](T old) { return old == expected ? value : old; });
}
inline unsigned atomicInc(unsigned* address, unsigned most) {
  return cuda_cpu::atomic(address, [=](unsigned old) { return old >= most ? 0u : old + 1; });
}
