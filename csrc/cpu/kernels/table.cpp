// The table of one instruction set's functions.
#include "../kernels.h"

namespace d2v {
namespace D2V_ISA {

void ema(const EmaTensor* tensors, int64_t count, double weight, int threads);

#define D2V_NAME2(x) #x
#define D2V_NAME(x) D2V_NAME2(x)
extern const Kernels kernels = {D2V_NAME(D2V_ISA), ema};

}  // namespace D2V_ISA
}  // namespace d2v
