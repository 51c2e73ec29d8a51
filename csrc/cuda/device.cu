// The device that the kernels run on.
#include "kernels.h"
#include "runtime.h"

namespace d2v {
namespace cuda {

__global__ void nothing() {}

const char* use_device(int device) { return failure(cudaSetDevice(device)); }

// Asks for a change that changes nothing of a kernel that does nothing: for this the driver has to load the code.
const char* unusable() {
  return failure(cudaFuncSetAttribute(reinterpret_cast<const void*>(nothing), cudaFuncAttributeMaxDynamicSharedMemorySize, 0));
}

}  // namespace cuda
}  // namespace d2v
