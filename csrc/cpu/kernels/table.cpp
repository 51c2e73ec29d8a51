// The table of one instruction set's functions.
#include "../kernels.h"

namespace d2v {
namespace D2V_ISA {

void ema(const EmaTensor* tensors, int64_t count, double decay, int threads);
void adamw_ema(const AdamwTensor* tensors, const AdamwRate* rates, int64_t count, const AdamwStep& x, int threads);
void smooth_l1_forward(const SmoothL1& x, double* losses, int threads);
void smooth_l1_backward(const SmoothL1Gradient& x, int threads);
bool layer_targets(const LayerTargets& x, int threads);
void restore(const Restore& x, int threads);
bool decoder_layer_forward(const DecoderLayer& x, int threads);
bool decoder_layer_backward(const DecoderLayer& x, int threads);
bool norm_gelu(const NormGelu& x, bool back, int threads);
bool front_layer(const FrontLayer& x, bool back, int threads);
bool attention_forward(const Attention& x, int threads);
bool attention_backward(const Attention& x, int threads);
int64_t first_bad_row(const int64_t* rows, int64_t count, int64_t limit);
void streaming_copy(void* dst, const void* src, int64_t bytes, int threads);

#define D2V_NAME2(x) #x
#define D2V_NAME(x) D2V_NAME2(x)
extern const Kernels kernels = {
    D2V_NAME(D2V_ISA), ema, adamw_ema, smooth_l1_forward, smooth_l1_backward, layer_targets, restore, decoder_layer_forward,
    decoder_layer_backward, norm_gelu, front_layer, attention_forward, attention_backward, first_bad_row, streaming_copy,
};

}  // namespace D2V_ISA
}  // namespace d2v
