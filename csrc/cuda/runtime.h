// What a .cu file needs to be compiled by nvcc for a GPU, and by g++ with -DD2V_CUDA_CPU for the simulator in
// python_tests/simulators/cuda_cpu: shared memory is declared by SHARED_ARRAY and DYNAMIC_SHARED, kernels start by launch().
#pragma once

#ifdef D2V_CUDA_CPU
#include "cuda_cpu.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define SHARED_ARRAY(type, name, size) __shared__ type name[size]
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

// Tells the compiler that a pointer read from memory points to global memory, whose loads need not ask.
template <typename T>
__device__ __forceinline__ T* global(T* pointer) {
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}

template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, Parameters... values) {
  void* pointers[] = {&values...};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared_bytes, stream);
}
#endif

namespace d2v {
namespace cuda {

// The text of an error, or null.
inline const char* failure(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

}  // namespace cuda
}  // namespace d2v
