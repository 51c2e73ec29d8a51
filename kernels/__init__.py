"""Triton kernels of d2v_fast: `@triton.jit` functions, without torch; `launch` has the rules of their launches."""
