// The simulator's own kernels: `self_test CASE SCHEDULES` runs one of them, right or with a planted fault, and prints "ok" if the
// numbers are right under every schedule.
#include <stdio.h>
#include <string.h>

#include <string>

#include "cuda_cpu.h"

constexpr int kThreads = 128, kBlocks = 6, kPerBlock = 300, kWarps = kThreads / 32;
static std::string name;
static bool is(const char* other) { return name == other; }

// The sum of kBlocks * kPerBlock numbers: shuffles, shared memory, and the last block to finish adds the partial sums.
struct Faults {
  bool first_barrier, second_barrier, ticket_barrier, fence, lane, bound, overrun, initial, plain_sum;
};

__global__ void sum_kernel(const float* x, float* partial, unsigned* ticket, float* total, Faults fault) {
  SHARED_ARRAY(float, warps, kWarps);
  SHARED_ARRAY(bool, last, 1);
  SHARED_ARRAY(float, scratch, kThreads);
  float sum = 0;
  const int from = blockIdx.x * kPerBlock;
  for (int i = threadIdx.x; i < kPerBlock + fault.bound; i += kThreads) sum += x[from + i];
  if (fault.initial) sum += scratch[threadIdx.x];  // never written
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, fault.lane && distance == 2 ? 1 : distance);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32 + fault.overrun] = sum;
  if (!fault.first_barrier) __syncthreads();
  if (threadIdx.x == 0) {
    float all = 0;
    for (int w = 0; w < kWarps; ++w) all += warps[w];
    if (fault.plain_sum) *total += all;
    partial[blockIdx.x] = all;
  }
  if (!fault.second_barrier) __syncthreads();
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = -1;  // the array is used again
  if (threadIdx.x == 0) {
    if (!fault.fence) __threadfence();
    last[0] = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
  }
  if (!fault.ticket_barrier) __syncthreads();
  if (last[0] && threadIdx.x == 0 && !fault.plain_sum) {
    float all = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) all += partial[b];
    *total = all;
  }
}

static bool sum_is_right() {
  float* const x = new float[kBlocks * kPerBlock];  // exactly: AddressSanitizer sees the end
  float partial[kBlocks], total = 0, expected = 0;
  unsigned ticket = 0;
  for (int i = 0; i < kBlocks * kPerBlock; ++i) expected += x[i] = static_cast<float>(i % 17);
  const Faults fault = {is("no first barrier"), is("no second barrier"), is("no ticket barrier"), is("no fence"), is("swapped lane"),
                        is("bound"), is("shared overrun"), is("uninitialised shared"), is("sum without atomics")};
  const cudaError_t error = launch(sum_kernel, dim3(kBlocks), dim3(kThreads), 0, nullptr, static_cast<const float*>(x), &partial[0], &ticket, &total, fault);
  delete[] x;
  return error == cudaSuccess && total == expected;  // sums of small whole numbers are exact
}

// Every warp operation against its definition. out: one word for each lane and operation.
__global__ void warp_kernel(unsigned* out) {
  const unsigned lane = threadIdx.x % 32, full = ~0u;
  unsigned* const mine = out + threadIdx.x * 9;
  mine[0] = __shfl_xor_sync(full, lane, 5);
  mine[1] = __shfl_down_sync(full, lane, 3);
  mine[2] = __shfl_up_sync(full, lane, 4);
  mine[3] = __shfl_sync(full, lane, 7);
  mine[4] = __shfl_sync(full, lane, 3, 8);
  mine[5] = __ballot_sync(full, lane % 3 == 0);
  mine[6] = static_cast<unsigned>(__any_sync(full, lane == 9) + 2 * __all_sync(full, lane < 32) + 4 * __any_sync(full, lane > 40));
  // Two halves of a warp go separate ways.
  if (lane < 16) mine[7] = static_cast<unsigned>(__shfl_xor_sync(0x0000FFFFu, static_cast<double>(lane) * 2, 1));
  else mine[7] = static_cast<unsigned>(__shfl_xor_sync(0xFFFF0000u, static_cast<double>(lane) * 3, 2));
  mine[8] = static_cast<unsigned>(__syncthreads_count(threadIdx.x % 5 == 0) + 1000 * __syncthreads_or(threadIdx.x == 3) +
                                  2000 * __syncthreads_and(threadIdx.x < 1000) + 4000 * __syncthreads_and(threadIdx.x < 3));
}

static bool warps_are_right() {
  static unsigned out[64 * 9];
  if (launch(warp_kernel, dim3(1), dim3(64), 0, nullptr, &out[0]) != cudaSuccess) return false;
  bool right = true;
  for (unsigned thread = 0; thread < 64; ++thread) {
    const unsigned lane = thread % 32, *const mine = out + thread * 9;
    right = right && mine[0] == (lane ^ 5) && mine[1] == (lane < 29 ? lane + 3 : lane) && mine[2] == (lane > 3 ? lane - 4 : lane);
    right = right && mine[3] == 7 && mine[4] == lane / 8 * 8 + 3 && mine[5] == 0x49249249u && mine[6] == 3;
    right = right && mine[7] == (lane < 16 ? (lane ^ 1) * 2 : (lane ^ 2) * 3) && mine[8] == 13 + 1000 + 2000;
  }
  return right;
}

// Neighbouring lanes hand numbers over in dynamic shared memory.
__global__ void exchange_kernel(int* out, bool synchronised) {
  DYNAMIC_SHARED(memory);
  int* const numbers = reinterpret_cast<int*>(memory);
  numbers[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (synchronised) __syncwarp();
  out[threadIdx.x] = numbers[threadIdx.x ^ 1];
}

static bool exchange_is_right() {
  int out[64];
  if (launch(exchange_kernel, dim3(1), dim3(64), 64 * sizeof(int), nullptr, &out[0], !is("no syncwarp")) != cudaSuccess) return false;
  bool right = true;
  for (int i = 0; i < 64; ++i) right = right && out[i] == (i ^ 1);
  return right;
}

__global__ void atomics_kernel(unsigned* counts) {
  atomicAdd(&counts[0], 2u);
  atomicMax(&counts[1], threadIdx.x);
  unsigned old = atomicAdd(&counts[2], 0u), seen;
  while ((seen = atomicCAS(&counts[2], old, old + 1)) != old) old = seen;
}

static bool atomics_are_right() {
  static unsigned counts[3];
  memset(counts, 0, sizeof counts);
  return launch(atomics_kernel, dim3(3), dim3(64), 0, nullptr, &counts[0]) == cudaSuccess && counts[0] == 384 && counts[1] == 63 && counts[2] == 192;
}

// Threads that never meet: the process ends with a report.
enum Stuck { DIVERGENT, ABSENT, DIFFERENT, OUTSIDE, UNREAD };
__global__ void stuck_kernel(Stuck how) {
  if (how == DIVERGENT) {
    if (threadIdx.x < 40) __syncthreads();
    else __syncthreads();
  } else if (how == ABSENT) {
    if (threadIdx.x % 2) __shfl_xor_sync(~0u, 1, 1);
  } else if (how == DIFFERENT) {
    if (threadIdx.x % 2) __ballot_sync(~0u, 1);
    else __any_sync(~0u, 1);
  } else if (how == OUTSIDE) {
    __shfl_xor_sync(0xFFFEu, 1, 1);
  } else {
    if (threadIdx.x < 16) __shfl_sync(0xFFFFu, 1, 20);
  }
}

static bool stuck(Stuck how) { return launch(stuck_kernel, dim3(2), dim3(64), 0, nullptr, how) == cudaSuccess; }

__global__ void nothing_kernel() {}

static bool launches_are_checked() {
  const auto with = [](dim3 grid, dim3 size, size_t bytes) { return launch(nothing_kernel, grid, size, bytes, nullptr); };
  const void* const kernel = reinterpret_cast<const void*>(nothing_kernel);
  bool right = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 48 << 10) == cudaSuccess;
  right = right && with(dim3(2, 3, 4), dim3(8, 4, 2), 100) == cudaSuccess && with(dim3(1), dim3(1025), 0) == cudaErrorInvalidConfiguration;
  right = right && with(dim3(1, 65536), dim3(1), 0) == cudaErrorInvalidConfiguration && with(dim3(1), dim3(1), 49153) == cudaErrorInvalidValue;
  right = right && with(dim3(0), dim3(1), 0) == cudaErrorInvalidConfiguration;
  right = right && cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (227 << 10) + 1) == cudaErrorInvalidValue;
  right = right && cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10) == cudaSuccess;
  return right && with(dim3(1), dim3(1), 227 << 10) == cudaSuccess;
}

static bool run() {
  if (is("warps")) return warps_are_right();
  if (is("exchange") || is("no syncwarp")) return exchange_is_right();
  if (is("atomics")) return atomics_are_right();
  if (is("launches")) return launches_are_checked();
  if (is("divergent barrier")) return stuck(DIVERGENT);
  if (is("absent lanes")) return stuck(ABSENT);
  if (is("different operations")) return stuck(DIFFERENT);
  if (is("lane outside its mask")) return stuck(OUTSIDE);
  if (is("read outside the mask")) return stuck(UNREAD);
  return sum_is_right();
}

int main(int, char** arguments) {
  name = arguments[1];
  int wrong = 0;
  const int schedules = atoi(arguments[2]);
  for (int schedule = 0; schedule < schedules; ++schedule) {
    cuda_cpu::seed = static_cast<uint64_t>(schedule);
    wrong += !run();
  }
  if (wrong) printf("%d of %d schedules gave wrong numbers\n", wrong, schedules);
  else puts("ok");
  return wrong != 0;
}
