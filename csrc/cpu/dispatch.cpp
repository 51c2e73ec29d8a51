// Chooses the instruction set of the CPU kernels once, at run time.
#include "kernels.h"

#include <pthread.h>
#ifdef D2V_X86
#include <cpuid.h>
#endif

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace d2v {
namespace {

bool in_forked_child = false;
const bool fork_hook_installed = pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; }) == 0;

#ifdef D2V_X86
// Conversions between float and half: bit 29 of ecx in leaf 1. The compiler's own question for it is known to clang from 18 on
// only. Whether the system keeps the wide registers is what the answer for "avx2" says.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 29)) != 0;
}
// Products of bfloat16 numbers: bit 5 of eax in leaf 7, 1. Here too the question is younger than the compilers that should do.
bool has_products_of_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 &&
         (eax & (1u << 5)) != 0;
}
#endif

const Kernels& choose() {
  const char* asked = std::getenv("D2V_FAST_ISA");
  const std::string isa = asked ? asked : "";
#ifdef D2V_X86
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() &&
                        __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool has_bf16 = has_avx512 && has_products_of_bf16();
  if ((isa == "avx2" && !has_avx2) || (isa == "avx512" && !has_avx512) || (isa == "avx512bf16" && !has_bf16))
    throw std::runtime_error("D2V_FAST_ISA=" + isa + ": this processor cannot run it; unset D2V_FAST_ISA");
  if (isa == "avx512bf16" || (isa.empty() && has_bf16)) return avx512bf16::kernels;
  if (isa == "avx512" || (isa.empty() && has_avx512)) return avx512::kernels;
  if (isa == "avx2" || (isa.empty() && has_avx2)) return avx2::kernels;
#endif
  if (isa.empty() || isa == "baseline") return baseline::kernels;
  throw std::runtime_error("D2V_FAST_ISA=" + isa + " is not compiled in; use baseline, avx2, avx512 or avx512bf16, or unset it");
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const char* instruction_sets() {
#ifdef D2V_X86
  return "baseline, avx2, avx512, avx512bf16";
#else
  return "baseline";
#endif
}

int usable_threads(int threads) { return in_forked_child || threads < 1 ? 1 : threads; }

}  // namespace d2v
