"""Triton kernels of d2v_fast: `@triton.jit` functions only, no torch (none yet; the CPU kernels are in csrc/cpu)."""
