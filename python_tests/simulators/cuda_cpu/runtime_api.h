// The part of the CUDA runtime that host code calls, with the checks that a real launch makes.
#pragma once
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "device_functions.h"

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
typedef void* cudaStream_t;

namespace cuda_cpu {

inline int shared_limit = 227 << 10;  // bytes of shared memory that a block may ask for; an H100's
constexpr size_t kWithoutAsking = 48 << 10;

// The devices that there are: one for each limit that was set.
inline std::vector<int> devices;
inline int current_device() {
  for (size_t i = 0; i < devices.size(); ++i)
    if (devices[i] == shared_limit) return static_cast<int>(i);
  devices.push_back(shared_limit);
  return static_cast<int>(devices.size()) - 1;
}

inline std::map<std::pair<const void*, int>, int> allowances;  // kernel and device -> bytes, where the limit was raised
inline int raised = 0;                                         // how often one was

}  // namespace cuda_cpu

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : error == cudaErrorInvalidValue ? "invalid argument" : "invalid configuration argument";
}
inline cudaError_t cudaGetDevice(int* device) { return *device = cuda_cpu::current_device(), cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = cuda_cpu::shared_limit, cudaSuccess; }
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  if (bytes > cuda_cpu::shared_limit) return cudaErrorInvalidValue;
  ++cuda_cpu::raised;
  cuda_cpu::allowances[{kernel, cuda_cpu::current_device()}] = bytes;
  return cudaSuccess;
}

template <typename T>
T* global(T* pointer) {  // csrc/cuda/runtime.h
  return pointer;
}

template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 size, size_t shared_bytes, cudaStream_t, Parameters... values) {
  const uint64_t threads = static_cast<uint64_t>(size.x) * size.y * size.z;
  if (threads < 1 || threads > cuda_cpu::kMaxThreads || size.z > 64) return cudaErrorInvalidConfiguration;
  if (!grid.x || !grid.y || !grid.z || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidConfiguration;
  const auto allowed = cuda_cpu::allowances.find({reinterpret_cast<const void*>(kernel), cuda_cpu::current_device()});
  const bool raised = allowed != cuda_cpu::allowances.end();
  if (shared_bytes > (raised ? static_cast<size_t>(allowed->second) : cuda_cpu::kWithoutAsking)) return cudaErrorInvalidValue;
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> values;
  } call{kernel, std::tuple<Parameters...>(values...)};
  cuda_cpu::shared_memory.dynamic_bytes = shared_bytes;
  cuda_cpu::run_grid(grid, size, [](void* call) { std::apply(static_cast<Call*>(call)->kernel, static_cast<Call*>(call)->values); }, &call);
  return cudaSuccess;
}
