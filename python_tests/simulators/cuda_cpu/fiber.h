// A fiber: a stack of its own that the scheduler enters and that gives control back. Tells the sanitizers about every change.
#pragma once
#include <stddef.h>

#if !defined(__x86_64__) && !defined(CUDA_CPU_UCONTEXT)
#define CUDA_CPU_UCONTEXT  // works everywhere, with two system calls for each change
#endif
#ifdef CUDA_CPU_UCONTEXT
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
extern "C" {
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void* __tsan_get_current_fiber();
void __tsan_acquire(void* object);
void __tsan_release(void* object);
}
#endif

// The simulator's own code: the sanitizers look at the kernels only.
#define CUDA_CPU_OWN __attribute__((no_sanitize("thread"), no_sanitize("address"), noinline))

namespace cuda_cpu {

constexpr size_t kStack = 32 << 10;

#ifndef CUDA_CPU_UCONTEXT
// Saves the registers that a callee must keep, and the stack, in *save; goes on with the stack `to`.
extern "C" void cuda_cpu_switch(void** save, void* to);
asm(R"(
  .text
  .weak cuda_cpu_switch
  .type cuda_cpu_switch, @function
cuda_cpu_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
  .size cuda_cpu_switch, .-cuda_cpu_switch
)");
struct Context {
  void* stack;
  CUDA_CPU_OWN void prepare(char* memory, void (*entry)()) {
    void** top = reinterpret_cast<void**>(memory + kStack - 64);
    *--top = nullptr;  // entry's return address: it never returns
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    stack = top;
  }
};
inline CUDA_CPU_OWN void change(Context& from, Context& to) { cuda_cpu_switch(&from.stack, to.stack); }
#else
struct Context {
  ucontext_t state;
  CUDA_CPU_OWN void prepare(char* memory, void (*entry)()) {
    getcontext(&state);
    state.uc_stack.ss_sp = memory;
    state.uc_stack.ss_size = kStack;
    state.uc_link = nullptr;
    makecontext(&state, entry, 0);
  }
};
inline CUDA_CPU_OWN void change(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
#endif

struct Scheduler {  // where fibers come back to
  Context context;
  const void* stack = nullptr;
  size_t stack_bytes = 0;
  void *fake_stack = nullptr, *tsan = nullptr;
};
inline Scheduler scheduler;

#ifdef __SANITIZE_THREAD__
// ThreadSanitizer's side of the fibers lives as long as it can, to the end of a launch or up to a number below the sanitizer's
// limit: destroying them would order the threads before against those to come, and hide races between blocks.
constexpr unsigned kMaxTsanFibers = 7168;
inline void* all_tsan_fibers[kMaxTsanFibers];
inline unsigned tsan_fibers = 0;
inline CUDA_CPU_OWN void destroy_tsan_fibers() {
  while (tsan_fibers) __tsan_destroy_fiber(all_tsan_fibers[--tsan_fibers]);
}
#endif

struct Fiber {
  Context context;
  char* stack;
  void *fake_stack, *tsan;

  CUDA_CPU_OWN void create(char* memory, void (*entry)()) {
    stack = memory;
    fake_stack = tsan = nullptr;
    context.prepare(memory, entry);
#ifdef __SANITIZE_THREAD__
    if (tsan_fibers == kMaxTsanFibers) destroy_tsan_fibers();
    tsan = all_tsan_fibers[tsan_fibers++] = __tsan_create_fiber(1);
#endif
  }
  // From the scheduler: runs the fiber until it leaves.
  CUDA_CPU_OWN void enter() {
#ifdef __SANITIZE_THREAD__
    scheduler.tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(tsan, 1);  // 1: the change itself orders nothing
#endif
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&scheduler.fake_stack, stack, kStack);
#endif
    change(scheduler.context, context);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(scheduler.fake_stack, nullptr, nullptr);
#endif
  }
  // At the fiber's start.
  CUDA_CPU_OWN void entered() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack, &scheduler.stack_bytes);
#endif
  }
  // From the fiber: back to the scheduler.
  CUDA_CPU_OWN void leave(bool for_good) {
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(scheduler.tsan, 1);
#endif
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack, scheduler.stack, scheduler.stack_bytes);
#endif
    (void)for_good;
    change(context, scheduler.context);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }
};

}  // namespace cuda_cpu
