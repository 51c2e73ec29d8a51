// The CPU kernels as one table of functions. Each file of csrc/cpu/kernels is compiled once per instruction set
// (CMakeLists.txt) into namespace d2v::<isa>; table.cpp collects its functions; dispatch.cpp chooses a table at import.
//
// Kernel files include C headers only, and keep helpers `static`: an inline function of the standard library compiled with
// AVX-512 flags could otherwise be the copy that the linker keeps for everybody.
#pragma once
#include <stdint.h>

namespace d2v {

enum DType : int32_t { F32 = 0, F64 = 1, BF16 = 2, F16 = 3 };

// One tensor of the EMA's list, all contiguous; a row of seven int64 for d2v_fast/ops/ema.py.
struct EmaTensor {
  void* teacher;        // F32 or F64
  const void* student;  // any DType
  void* shadow;         // any DType, or null
  int64_t size;         // elements of each
  int64_t teacher_dtype, student_dtype, shadow_dtype;
};
static_assert(sizeof(EmaTensor) == 7 * sizeof(int64_t), "ops/ema.py fills a table of int64");

// One tensor of AdamW's list with the average that follows it, all contiguous; a row of twelve int64 for d2v_fast/ops/adamw_ema.py.
struct AdamwTensor {
  void* parameter;  // F32 or F64, as all but the step and the shadows
  const void* gradient;
  void *exp_avg, *exp_avg_sq;
  float* step;           // how many were done; counted up
  void* teacher;         // or null
  void* shadow;          // of the parameter, any DType, or null
  void* teacher_shadow;  // likewise of the teacher
  int64_t size;          // elements of each
  int64_t dtype, shadow_dtype, teacher_shadow_dtype;
};
static_assert(sizeof(AdamwTensor) == 12 * sizeof(int64_t), "ops/adamw_ema.py fills a table of int64");

struct AdamwRate { double lr, weight_decay; };

struct AdamwStep { double beta1, beta2, eps, gradient_scale, decay; };

enum Reduction : int64_t { REDUCE_NONE = 0, REDUCE_SUM = 1, REDUCE_MEAN = 2 };

// The loss of `count` rows of `channels` elements. The arithmetic and `loss` are F64 if an input is, else F32.
struct SmoothL1 {
  const void* pred;     // [positions, channels] of any DType
  const void* target;   // [count, channels] of any DType
  const int64_t* rows;  // the position of each row, ascending and unique; null if count is 0 or positions
  void* gradient;       // of the sum of the rows' losses before `scale`, halved if beta is 0, times gradient_factor; like pred; or null
  void* loss;           // one number, or `count` of them
  int64_t count, positions, channels, pred_dtype, target_dtype, reduction;
  double beta, scale, gradient_factor;
};

// The gradient that SmoothL1 stored, times `factor` and the incoming gradient.
struct SmoothL1Gradient {
  const void* gradient;  // [positions, channels]
  const void* incoming;  // F32 or F64: one number, or `count` of them
  const int64_t* rows;   // as above
  void* out;             // like gradient
  int64_t count, positions, channels, dtype, incoming_dtype, incoming_per_row;
  double factor;
};

enum Norm : int64_t { NORM_NONE = 0, NORM_INSTANCE = 1, NORM_LAYER = 2, NORM_BATCH = 3 };

// The mean over the layers, each normalised by `layer_norm`, then by `final_norm` (none or layer norm).
struct LayerTargets {
  const void* const* layers;  // [layer_count]: tensors [batch, frames, channels], the channels side by side
  const int64_t* strides;     // [layer_count][2]: elements from sample to sample and from frame to frame
  const int64_t* rows;        // [count]: ascending, unique, of batch * views * frames; or null for all of batch * frames
  const int64_t* lengths;     // [batch]: frames that count, 1 or more; or null for all
  void* out;                  // [count, channels], F64 if the layers are, else F32
  int64_t layer_count, batch, frames, channels, count, dtype, layer_norm, final_norm, views;
  double eps;
};

// Kept tokens to their places, and rows of noise, in order, to all others.
struct Restore {
  const char *tokens, *noise;  // [count] and [places - count] rows
  const int64_t* kept;         // [count]: ascending, unique, of `places`
  char* out;                   // [places] rows
  int64_t count, places, row_bytes;
};

// y = (x +) gelu(norm(convolution of x)). Tensors have one DType, are contiguous, and their channels come last; over time `height` is the
// number of frames and `width` is 1. Without `weight` the convolution is the caller's: z is given.
struct DecoderLayer {
  const void* x;       // [samples, height, width, channels]
  const void* weight;  // [out_channels, channels / groups, kernel_height, kernel_width], or null
  const void* bias;    // [out_channels]
  void* z;             // [samples, height, width, out_channels]: before the norm
  void* y;
  const void* gradient;  // of y; from here on for the backward pass
  void* z_gradient;
  void* bias_gradient;
  void *x_gradient, *weight_gradient;  // null: not wanted
  int64_t samples, height, width, channels, out_channels, groups, kernel_height, kernel_width, residual, dtype;
  double eps;
};

// y = gelu(norm(x)) of rows, with weight and bias. Arithmetic is in F64 for F64, else in F32. Everything is contiguous.
struct NormGelu {
  const void* x;               // [rows, channels] of any DType
  const void *weight, *bias;   // [channels] of any DType
  void* y;                     // as x; of the forward pass only
  const void* gradient;        // of y; from here on for the backward pass
  void* x_gradient;            // as x
  void *weight_gradient, *bias_gradient;
  int64_t rows, channels, dtype, parameter_dtype;
  double eps;
};

// y = gelu(norm(convolution of a signal)), of windows of `width` numbers side by side that begin every `step` numbers. Arithmetic is in `real`,
// F64 or F32, which signal, parameters and their gradients have. Everything is contiguous.
struct FrontLayer {
  const void* signal;                     // [samples, length]
  const void* weight;                     // [width, channels]
  const void *norm_weight, *norm_bias;    // [channels]
  void* y;                                // [samples, frames, channels] of any DType; of the forward pass only
  const void* gradient;                   // of y, as y; from here on for the backward pass
  void* gradients;                        // [width + 2, channels]: of weight, norm_weight and norm_bias
  int64_t samples, length, frames, step, width, channels, real, dtype;
  double eps;
};

// Attention over packed sequences: softmax(q k / sqrt(dim) - factor * |i - j|) v for each head, or with any bias instead of the distances.
// Arithmetic is in F64 for F64, else in F32; so are factors, bias, its gradient, and logs.
struct Attention {
  const void *query, *key, *value;                       // [tokens, heads, dim]: channels side by side, strides in elements
  const int64_t *query_strides, *key_strides, *value_strides;
  const int32_t* starts;      // [samples + 1]
  const int64_t* positions;   // [tokens], below 0: the token has none; read for factors only
  const uint8_t* visible;     // [tokens]: whether it may be attended to; or null
  const void* factors;        // [heads]; or null
  const void* bias;           // [samples, heads, longest, longest]: columns side by side, strides in elements; or null
  const int64_t* bias_strides;
  void* out;                  // [tokens, heads, dim], contiguous
  void* logs;                 // [heads, tokens]: the logarithm of each row's sum
  const void* gradient;       // of out; from here on for the backward pass
  const int64_t* gradient_strides;
  void *query_gradient, *key_gradient, *value_gradient;  // as out
  double* factor_gradients;                              // [samples, heads]; or null
  void* bias_gradient;        // [samples / group rounded up, heads, longest, longest], to which is added; null without a bias
  int64_t samples, tokens, heads, dim, dtype, longest, group;
  bool pairs;                 // BF16 may be multiplied as such
  uint64_t seed;
  uint32_t limit;  // dropout * 2^32
  double dropout;
};

struct Kernels {
  const char* isa;
  // teacher += (1 - decay) * (student - teacher) for every tensor, one parallel region; decay 0 copies, decay 1 keeps.
  void (*ema)(const EmaTensor* tensors, int64_t count, double decay, int threads);
  // AdamW with decoupled weight decay, from gradients divided by gradient_scale; then the same for the teachers, and the shadows, in one
  // pass over memory.
  void (*adamw_ema)(const AdamwTensor* tensors, const AdamwRate* rates, int64_t count, const AdamwStep& x, int threads);
  // `losses`: room for x.count numbers.
  void (*smooth_l1_forward)(const SmoothL1& x, double* losses, int threads);
  void (*smooth_l1_backward)(const SmoothL1Gradient& x, int threads);
  // False when memory is short.
  bool (*layer_targets)(const LayerTargets& x, int threads);
  void (*restore)(const Restore& x, int threads);
  // False when memory is short, all of them.
  bool (*decoder_layer_forward)(const DecoderLayer& x, int threads);
  bool (*decoder_layer_backward)(const DecoderLayer& x, int threads);
  bool (*norm_gelu)(const NormGelu& x, bool back, int threads);
  bool (*front_layer)(const FrontLayer& x, bool back, int threads);
  bool (*attention_forward)(const Attention& x, int threads);
  bool (*attention_backward)(const Attention& x, int threads);
  // Index of the first row that is not above its predecessor or not in [0, limit), or -1.
  int64_t (*first_bad_row)(const int64_t* rows, int64_t count, int64_t limit);
  // The fastest copy through memory, for the benchmarks.
  void (*streaming_copy)(void* dst, const void* src, int64_t bytes, int threads);
};

namespace baseline { extern const Kernels kernels; }
#ifdef D2V_X86
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
namespace avx512bf16 { extern const Kernels kernels; }
#endif

// The table in use; chosen on the first call from the processor and D2V_FAST_ISA. Throws std::runtime_error for a name that is
// unknown or that this processor cannot run.
const Kernels& kernels();
// Names of the compiled tables, the plainest first, with commas between.
const char* instruction_sets();
// `threads` as asked for, or 1 in a child made by fork (the parent's thread team does not exist there and waiting for it hangs).
int usable_threads(int threads);

}  // namespace d2v
