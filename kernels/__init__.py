"""Triton kernels of d2v_fast: `@triton.jit` functions only, no torch beside `launch`, the rules of their launches."""
