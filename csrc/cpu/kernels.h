// The CPU kernels as one table of functions. Each file of csrc/cpu/kernels is compiled once per instruction set
// (CMakeLists.txt) into namespace d2v::<isa>; table.cpp collects its functions; dispatch.cpp chooses a table at import.
//
// Kernel files include C headers only, and keep helpers `static`: an inline function of the standard library compiled with
// AVX-512 flags could otherwise be the copy that the linker keeps for everybody.
#pragma once
#include <stdint.h>

namespace d2v {

enum DType : int32_t { F32 = 0, F64 = 1, BF16 = 2, F16 = 3 };

// One tensor of the EMA's list; all contiguous with the same number of elements.
struct EmaTensor {
  void* teacher;        // F32 or F64
  const void* student;  // any DType
  void* shadow;         // any DType, or null
  int64_t size;         // elements
  int32_t teacher_dtype, student_dtype, shadow_dtype;
};

struct Kernels {
  const char* isa;
  // teacher += weight * (student - teacher) for every tensor, one parallel region.
  void (*ema)(const EmaTensor* tensors, int64_t count, double weight, int threads);
};

namespace baseline { extern const Kernels kernels; }
#ifdef D2V_X86
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
#endif

// The table in use; chosen on the first call from the processor and D2V_FAST_ISA. Throws std::runtime_error for a name that is
// unknown or that this processor cannot run.
const Kernels& kernels();
// Names of the compiled tables, the plainest first, with commas between.
const char* instruction_sets();
// `threads` as asked for, or 1 in a child made by fork (the parent's thread team does not exist there and waiting for it hangs).
int usable_threads(int threads);

}  // namespace d2v
