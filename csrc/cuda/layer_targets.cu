// The mean over K layers [B, T, C], each instance-normalised (over the frames of a sample, per channel): data2vec's speech targets.
//
// A block owns 32 bytes of channels of one sample (8 float32 or 16 16-bit channels: a whole DRAM sector of each frame) and goes
// through the layers. Each layer's piece is read once: on its way from memory to shared memory it passes through the statistics,
// and the wanted rows are then taken from shared memory. Rows are summed in shared memory too, and leave once, as float32.
//
// Bytes: K*B*T*C*b + M*C*4 (and 8 M per tile of channels for the rows, from the cache): 88 MB for speech Base (B 8, T 800, C 768,
// K 8, M 3136, bf16), where statistics and rows in two kernels read 128 MB. Where a piece does not fit into shared memory, the
// same kernel takes the rows from global memory: K*B*T*C*b + K*M*C*b + M*C*4. One launch either way.
//
// Why this form: 32 bytes per frame rather than 64 make twice as many blocks, half as large, so that speech Base fills a GPU
// evenly with several blocks per multiprocessor. How many rows a sample has is known on the device only, so room is made for a
// little more than the average; rows past it are summed in the result itself. Statistics: every thread sums its frames around the
// first of them, then (count, mean, squares) are merged pairwise (Chan's formula), with the sample's first frame as the origin;
// so a mean far from zero costs no digits.
#include <math.h>

#include <atomic>

#include "kernels.h"
#include "layer_targets_moments.h"

namespace d2v {
namespace cuda {

constexpr int kMaxLayers = 64;

struct Layers {
  const void* pointer[kMaxLayers];
  int64_t sample_stride[kMaxLayers], frame_stride[kMaxLayers];
  const int64_t *rows, *lengths;
  float* out;
  int64_t count;
  int layer_count, frames, channels, capacity;  // capacity: rows with room in shared memory
  float eps;
};

// What a block shares, in one piece of dynamic memory.
template <typename T>
struct Room {
  float (*sums)[kWidth<T>];  // [capacity]
  T (*tile)[kWidth<T>];      // [frames]
  int* index;                // [capacity]: the frame of each row
  static __host__ __device__ size_t bytes(int64_t frames, int64_t capacity) {
    return static_cast<size_t>(capacity * (kWidth<T> * 4 + 4) + frames * 16 * kVectors);
  }
  __device__ Room(unsigned char* memory, int frames, int capacity) {
    sums = reinterpret_cast<float(*)[kWidth<T>]>(memory);
    tile = reinterpret_cast<T(*)[kWidth<T>]>(sums + capacity);
    index = reinterpret_cast<int*>(tile + frames);
  }
};

// Where the ascending rows reach the start of a sample and its end. All threads probe at once: two rounds for 65 536 rows.
__device__ void find_rows(const int64_t* rows, int64_t count, int64_t start, int64_t end, int64_t (&found)[2]) {
  int64_t low[2] = {0, 0}, high[2] = {count, count};
  while (low[0] < high[0] || low[1] < high[1]) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int64_t step = (high[e] - low[e] + kThreads - 1) / kThreads, probe = low[e] + (threadIdx.x + 1) * step - 1;
      const int below = __syncthreads_count(probe < high[e] && rows[probe] < (e == 0 ? start : end));
      low[e] += below * step;
      if (low[e] + step - 1 < high[e]) high[e] = low[e] + step - 1;
    }
  }
  found[0] = low[0];
  found[1] = low[1];
}

// Four channels of a frame.
template <typename T, bool VECTOR>
__device__ __forceinline__ float4 load_quad(const T* frame, int channel, int channels) {
  if constexpr (VECTOR) {
    return decode_quad<T>(*reinterpret_cast<const Quad<T>*>(frame + channel));
  } else {
    float x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = channel + i < channels ? decode(frame[channel + i]) : 0.0f;
    return make_float4(x[0], x[1], x[2], x[3]);
  }
}

template <bool VECTOR>
__device__ __forceinline__ float4 load_sums(const float* from, int left) {
  if constexpr (VECTOR) return *reinterpret_cast<const float4*>(from);
  else return make_float4(left > 0 ? from[0] : 0, left > 1 ? from[1] : 0, left > 2 ? from[2] : 0, left > 3 ? from[3] : 0);
}

template <bool VECTOR>
__device__ __forceinline__ void store_sums(float* to, float4 x, int left) {
  if constexpr (VECTOR) {
    *reinterpret_cast<float4*>(to) = x;
  } else {
    if (left > 0) to[0] = x.x;
    if (left > 1) to[1] = x.y;
    if (left > 2) to[2] = x.z;
    if (left > 3) to[3] = x.w;
  }
}

// Three blocks on a multiprocessor keep enough loads under way, and speech Base is 2.9 blocks for each one of an H100's.
template <typename T, bool VECTOR, bool STAGED>
__global__ void __launch_bounds__(kThreads, VECTOR && STAGED ? 3 : 2) instance_targets_kernel(const __grid_constant__ Layers x) {
  constexpr int WIDTH = kWidth<T>, QUADS = WIDTH / 4;
  DYNAMIC_SHARED(memory);
  SHARED_ARRAY(Moments, partial, kWarps * WIDTH);
  SHARED_ARRAY(float, partial_count, kWarps);
  SHARED_ARRAY(float4, statistics, 3 * QUADS);  // origin, mean around it, scale
  const Room<T> room(memory, STAGED ? x.frames : 0, x.capacity);

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const unsigned tiles = static_cast<unsigned>((x.channels + WIDTH - 1) / WIDTH);
  const int64_t sample = blockIdx.x / tiles, start = sample * x.frames;
  const int channel = static_cast<int>(blockIdx.x % tiles) * WIDTH;
  int length = x.frames;
  if (x.lengths && x.lengths[sample] < length) length = static_cast<int>(x.lengths[sample]);

  int64_t bounds[2] = {start, start + x.frames};
  if (x.rows) find_rows(x.rows, x.count, start, start + x.frames, bounds);
  const int wanted = static_cast<int>(bounds[1] - bounds[0]);
  if (wanted == 0) return;
#pragma unroll 1
  for (int r = thread; r < wanted && r < x.capacity; r += kThreads)
    room.index[r] = x.rows ? static_cast<int>(x.rows[bounds[0] + r] - start) : r;

  for (int k = 0; k < x.layer_count; ++k) {
    const int64_t stride = x.frame_stride[k];
    const T* const source = static_cast<const T*>(x.pointer[k]) + sample * x.sample_stride[k];
    Moments moments[kPerVector<T>];
    const int own_channel = channel + thread % kVectors * kPerVector<T>;
    float count = read_frames<T, VECTOR, STAGED>(source, stride, length, own_channel, x.channels, room.tile, moments);
    merge_lanes(moments, count);
    if (lane < WIDTH) partial[warp * WIDTH + channel_of_lane<T>(lane)] = moments[0];
    if (lane == 0) partial_count[warp] = count;
    __syncthreads();

    if (thread < WIDTH) {
      Moments all = partial[thread];
      float frames = partial_count[0];
      for (int w = 1; w < kWarps; ++w) {
        const float n = partial_count[w];
        if (n == 0.0f) break;  // short sequences leave the last warps without a frame
        all = merge(all, frames, partial[w * WIDTH + thread], n / (frames + n));
        frames += n;
      }
      float* const to = reinterpret_cast<float*>(statistics);
      to[thread] = channel + thread < x.channels ? decode(source[channel + thread]) : 0.0f;
      to[WIDTH + thread] = all.mean;
      to[2 * WIDTH + thread] = 1.0f / sqrtf(all.squares / frames + x.eps);
    }
    __syncthreads();

    const int quad = thread % QUADS;  // the same in every round: kThreads is a multiple of QUADS
    const float4 origin = statistics[quad], mean = statistics[QUADS + quad], scale = statistics[2 * QUADS + quad];
    const bool first = k == 0, last = k + 1 == x.layer_count;
    const int left = x.channels - channel - 4 * quad;
    for (int r = thread / QUADS; r < wanted && left > 0; r += kThreads / QUADS) {
      float* const out = x.out + (bounds[0] + r) * x.channels + channel + 4 * quad;
      const bool inside = r < x.capacity;
      const int frame = inside ? room.index[r] : x.rows ? static_cast<int>(x.rows[bounds[0] + r] - start) : r;
      float4 y = make_float4(0, 0, 0, 0);
      if (frame < length) {
        float4 v;
        if constexpr (STAGED) v = decode_quad<T>(*reinterpret_cast<const Quad<T>*>(&room.tile[frame][4 * quad]));
        else v = load_quad<T, VECTOR>(source + frame * stride, channel + 4 * quad, x.channels);
        y.x = (v.x - origin.x - mean.x) * scale.x;
        y.y = (v.y - origin.y - mean.y) * scale.y;
        y.z = (v.z - origin.z - mean.z) * scale.z;
        y.w = (v.w - origin.w - mean.w) * scale.w;
      }
      float4* const sums = reinterpret_cast<float4*>(&room.sums[inside ? r : 0][4 * quad]);
      if (!first) {
        const float4 before = inside ? *sums : load_sums<VECTOR>(out, left);
        y = make_float4(before.x + y.x, before.y + y.y, before.z + y.z, before.w + y.w);
      }
      if (last) {
        const float layers = static_cast<float>(x.layer_count);
        store_sums<VECTOR>(out, make_float4(y.x / layers, y.y / layers, y.z / layers, y.w / layers), left);
      } else if (inside) {
        *sums = y;
      } else {
        store_sums<VECTOR>(out, y, left);
      }
    }
    __syncthreads();  // the next layer takes the place of this one
  }
}

// How the shared memory of a block is used.
struct Plan {
  bool staged;       // a layer's piece fits, so it is read once
  int64_t capacity;  // rows with room
  size_t bytes;
  int device, most;  // the current device, and the bytes that a block may ask for there
};

template <typename T, bool VECTOR, bool STAGED>
static const char* start(const Layers& x, int64_t blocks, const Plan& made, cudaStream_t stream) {
  void (*const kernel)(Layers) = instance_targets_kernel<T, VECTOR, STAGED>;
  // The kernel may take all the memory there is, which is said once for each device. Said anew of each launch, a smaller size of
  // another thread could come between the saying and the launch.
  static std::atomic<uint64_t> told{0};
  const uint64_t bit = made.device < 64 ? uint64_t{1} << made.device : 0;
  if (!(told & bit)) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, made.most);
    if (error != cudaSuccess) return failure(error);
    told |= bit;
  }
  return failure(launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), made.bytes, stream, x));
}

template <typename T>
static const char* plan(const LayerTargets& given, Plan& made) {
  cudaError_t error = cudaGetDevice(&made.device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&made.most, cudaDevAttrMaxSharedMemoryPerBlockOptin, made.device);
  if (error != cudaSuccess) return failure(error);
  made.most -= static_cast<int>(sizeof(Moments) * kWarps * kWidth<T> + 4 * kWarps + 12 * kWidth<T>);  // what is not dynamic
  const int64_t room = made.most;
  // An eighth more than the average leaves room for samples with more rows than others.
  const int64_t average = (given.count + given.batch - 1) / given.batch, generous = average + average / 8 + 8;
  made.capacity = generous < given.frames ? generous : given.frames;
  made.staged = static_cast<int64_t>(Room<T>::bytes(given.frames, made.capacity)) <= room;
  const int64_t most_rows = room / static_cast<int64_t>(Room<T>::bytes(0, 1));
  if (!made.staged && made.capacity > most_rows) made.capacity = most_rows;
  made.bytes = Room<T>::bytes(made.staged ? given.frames : 0, made.capacity);
  return nullptr;
}

template <typename T>
static const char* run(const LayerTargets& given, cudaStream_t stream) {
  Layers x = {};
  bool vector = given.channels % kPerVector<T> == 0 && aligned(given.out, 16);
  for (int64_t k = 0; k < given.layer_count; ++k) {
    x.pointer[k] = given.layers[k];
    x.sample_stride[k] = given.strides[2 * k];
    x.frame_stride[k] = given.strides[2 * k + 1];
    vector = vector && aligned(given.layers[k], 16) && x.sample_stride[k] % kPerVector<T> == 0 && x.frame_stride[k] % kPerVector<T> == 0;
  }
  x.rows = given.rows;
  x.lengths = given.lengths;
  x.out = static_cast<float*>(given.out);
  x.count = given.count;
  x.layer_count = static_cast<int>(given.layer_count);
  x.frames = static_cast<int>(given.frames);
  x.channels = static_cast<int>(given.channels);
  x.eps = static_cast<float>(given.eps);

  Plan made = {};
  if (const char* error = plan<T>(given, made)) return error;
  x.capacity = static_cast<int>(made.capacity);
  const int64_t blocks = given.batch * ((given.channels + kWidth<T> - 1) / kWidth<T>);
  if (blocks > INT32_MAX) return "batch * channels is beyond the largest grid";
  if (vector) return made.staged ? start<T, true, true>(x, blocks, made, stream) : start<T, true, false>(x, blocks, made, stream);
  return made.staged ? start<T, false, true>(x, blocks, made, stream) : start<T, false, false>(x, blocks, made, stream);
}

static const char* refused(const LayerTargets& x) {
  if (x.layer_norm != NORM_INSTANCE || x.final_norm != NORM_NONE)
    return "the CUDA kernel takes instance norm of the layers, without a final norm";
  if (x.layer_count < 1 || x.layer_count > kMaxLayers) return "the CUDA kernel takes 1 to 64 layers";
  if (x.frames > INT32_MAX || x.channels > INT32_MAX) return "the CUDA kernel takes fewer than 2^31 frames and channels";
  if (x.dtype != F32 && x.dtype != BF16 && x.dtype != F16) return "the CUDA kernel takes float32, bfloat16 and float16 layers";
  return nullptr;
}

const char* layer_targets_reads(const LayerTargets& x, int& reads) {
  reads = 0;
  if (refused(x) || x.batch < 1) return nullptr;
  Plan made = {};
  const char* const error = x.dtype == F32 ? plan<float>(x, made) : plan<bf16>(x, made);  // both 16-bit formats take the same room
  if (!error) reads = made.staged ? 1 : 2;
  return error;
}

const char* layer_targets(const LayerTargets& x, void* stream) {
  if (const char* why = refused(x)) return why;
  if (x.count == 0 || x.channels == 0) return nullptr;
  if (x.dtype == F32) return run<float>(x, static_cast<cudaStream_t>(stream));
  if (x.dtype == BF16) return run<bf16>(x, static_cast<cudaStream_t>(stream));
  return run<f16>(x, static_cast<cudaStream_t>(stream));
}

}  // namespace cuda
}  // namespace d2v
