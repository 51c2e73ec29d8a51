// Runs CUDA kernels on a CPU, to test them where there is no GPU: compile the .cu file as C++17 with
//   g++ -x c++ -std=c++17 -DD2V_CUDA_CPU -I<this folder> -fno-strict-aliasing -ffp-contract=off
// alone, with -fsanitize=address,undefined (addresses out of bounds, shared memory included) or with -fsanitize=thread (races).
//
// Every GPU thread is a fiber (fiber.h). Fibers change only at barriers, warp operations and atomics, in a random order of which
// whole warps fall behind at random (scheduler.h); cuda_cpu::seed chooses it. Shared memory starts as 0xFF bytes, which are NaN
// in every format. A barrier that not all threads reach, or a warp operation whose mask names absent lanes, ends the process with
// exit code 66 and the lines where the threads stand. Under ThreadSanitizer each GPU thread is a thread of its own, ordered by
// nothing but __syncthreads, __syncwarp, and atomics after a __threadfence.
//
// What it cannot see: time; blocks that wait for each other (they run one after another); two barriers on one source line that
// are not the same one; weaker orders of memory than ThreadSanitizer's model; the rounding of approximate instructions.
#pragma once

#include "vector_types.h"
#include "low_precision.h"
#include "fiber.h"
#include "scheduler.h"
#include "shared_memory.h"
#include "device_functions.h"
#include "runtime_api.h"
