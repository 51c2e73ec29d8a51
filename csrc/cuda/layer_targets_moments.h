// Mean and variance over the frames of one piece of a layer, in one pass, without losing digits to a mean that is far from zero.
#pragma once
#include <math.h>

#include "numbers.h"

namespace d2v {
namespace cuda {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kUnroll = 3;
constexpr int kVectors = 2;  // of 16 bytes, per frame
constexpr int kStep = kThreads / kVectors;
constexpr unsigned kFullWarp = 0xFFFFFFFFu;

template <typename T> constexpr int kPerVector = 16 / static_cast<int>(sizeof(T));
template <typename T> constexpr int kWidth = kVectors * kPerVector<T>;  // channels of a block

struct Moments {
  float mean, squares;  // squares: the sum of squared distances from the mean
};

// `mine` of n frames together with `other`, which holds `share` of all frames.
__device__ __forceinline__ Moments merge(Moments mine, float n, Moments other, float share) {
  const float distance = other.mean - mine.mean;
  mine.mean += distance * share;
  mine.squares += other.squares + distance * distance * n * share;
  return mine;
}

// Sixteen bytes of a frame, zeros past the last channel.
template <typename T, bool VECTOR>
__device__ __forceinline__ uint4 load_vector(const T* frame, int channel, int channels) {
  uint4 bits = make_uint4(0, 0, 0, 0);
  if constexpr (VECTOR) {
    if (channel < channels) bits = *reinterpret_cast<const uint4*>(frame + channel);
  } else {
    T each[kPerVector<T>];
#pragma unroll
    for (int i = 0; i < kPerVector<T>; ++i) each[i] = channel + i < channels ? frame[channel + i] : T(0.0f);
    memcpy(&bits, each, 16);
  }
  return bits;
}

// One thread's frames: count, and mean (around `origin`) and squares of each channel of its vector.
template <typename T, bool VECTOR, bool STAGED>
__device__ __forceinline__ float read_frames(const T* source, int64_t stride, int length, int channel, int channels,
                                             T (*tile)[kWidth<T>], Moments (&moments)[kPerVector<T>]) {
  constexpr int N = kPerVector<T>;
  const int vector = threadIdx.x % kVectors;
  float own[N] = {}, sum[N] = {}, square[N] = {};
  int count = 0;
  for (int first = threadIdx.x / kVectors; first < length; first += kUnroll * kStep) {
    uint4 bits[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (first + u * kStep < length) bits[u] = load_vector<T, VECTOR>(source + (first + u * kStep) * stride, channel, channels);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (first + u * kStep >= length) break;
      if constexpr (STAGED) *reinterpret_cast<uint4*>(&tile[first + u * kStep][vector * N]) = bits[u];
      float x[N];
      decode_vector<T>(bits[u], x);
      const bool start = u == 0 && count == 0;
      ++count;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (start) own[i] = x[i];
        const float d = x[i] - own[i];
        sum[i] += d;
        square[i] = fmaf(d, d, square[i]);
      }
    }
  }
  float origin[N];
  decode_vector<T>(load_vector<T, VECTOR>(source, channel, channels), origin);
  const float inverse = count ? 1.0f / static_cast<float>(count) : 0.0f;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float mean = sum[i] * inverse;
    moments[i].mean = count ? own[i] - origin[i] + mean : 0.0f;
    const float squares = square[i] - sum[i] * mean;
    moments[i].squares = squares < 0.0f ? 0.0f : squares;  // a rounding error below zero; NaN stays NaN
  }
  return static_cast<float>(count);
}

// Merges the lanes of a warp that hold the same vector. Each exchange also halves the channels that a lane keeps, so that
// afterwards lane l holds, in moments[0], the channel that channel_of_lane tells.
template <int N>
__device__ __forceinline__ void merge_lanes(Moments (&moments)[N], float& count) {
  const int lane = threadIdx.x % 32;
  int held = N;
#pragma unroll
  for (int distance = kVectors; distance < 32; distance *= 2) {
    const bool upper = lane & distance;
    const float other_count = __shfl_xor_sync(kFullWarp, count, distance);
    const float share = other_count / fmaxf(count + other_count, 1.0f);
    const int half = held / 2;
    held = half ? half : 1;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (i >= held) break;
      const Moments mine = upper ? moments[i + half] : moments[i], sent = upper ? moments[i] : moments[i + half];
      Moments other;
      other.mean = __shfl_xor_sync(kFullWarp, sent.mean, distance);
      other.squares = __shfl_xor_sync(kFullWarp, sent.squares, distance);
      moments[i] = merge(mine, count, other, share);
    }
    count += other_count;
  }
}

// The channel that merge_lanes leaves with a lane below kWidth: the first exchange (lane bit 1) chose between halves, and so on.
template <typename T>
__device__ __forceinline__ int channel_of_lane(int lane) {
  int channel = lane % kVectors * kPerVector<T>;
#pragma unroll
  for (int distance = kVectors, half = kPerVector<T> / 2; half > 0; distance *= 2, half /= 2)
    if (lane & distance) channel += half;
  return channel;
}

}  // namespace cuda
}  // namespace d2v
