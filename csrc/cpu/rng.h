// The random numbers of masks and of the data plan: counter-based, so that every number is a pure function of its key and its
// place, and integer arithmetic or exact double operations only, so that the bits are the same on every machine.
//
// A key is a chain: seed, then a domain (the FNV-1a hash of a name, which keeps users of the same seed apart), then epoch, sample
// id, view, as many as there are. Each word w turns the key k into mix64((k ^ w) + golden), starting from k = 0; mix64 is the
// finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), a bijection in which
// each input bit flips each output bit with probability one half. The i-th number of a key's stream is
// mix64(start + i * gamma), i = 1, 2, ..., with `start` and the odd `gamma` both taken from the key: streams with different gammas share
// no long run of numbers, as those with one gamma for all could.
//
// python_tests/test_rng.py restates all of this in Python integers: a change of bits fails there. Changing bits changes every
// mask and every order of the data, and breaks the resumption of existing runs.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace d2v {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;  // 2^64 divided by the golden ratio

inline uint64_t mix64(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// A longer key: `word` is the seed, a domain, an epoch, a sample id, a view, ...
inline uint64_t absorb(uint64_t key, uint64_t word) { return mix64((key ^ word) + kGolden); }

// FNV-1a, 64 bits: the word that stands for a name.
inline uint64_t hash_text(const char* text, size_t size) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (size_t i = 0; i < size; ++i) hash = (hash ^ static_cast<unsigned char>(text[i])) * 0x100000001B3u;
  return hash;
}

class Stream {
 public:
  explicit Stream(uint64_t key) : state_(mix64(key + kGolden)), gamma_(mix64(key + 2 * kGolden) | 1) {
    // A gamma with long runs of equal bits changes too little of the state from one number to the next.
    if (__builtin_popcountll(gamma_ ^ (gamma_ >> 1)) < 24) gamma_ ^= 0xAAAAAAAAAAAAAAAAu;
  }

  uint64_t next() { return mix64(state_ += gamma_); }

  // Uniform double in [0, 1): the upper 53 bits, exact.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

  // Uniform integer in [0, n), n > 0, without bias: multiply and reject (Lemire, "Fast random integer generation in an interval", 2019).
  uint64_t below(uint64_t n) {
    __extension__ typedef unsigned __int128 uint128;
    uint128 product = static_cast<uint128>(next()) * n;
    if (static_cast<uint64_t>(product) < n) {
      const uint64_t threshold = (0 - n) % n;  // 2^64 mod n: so many low parts would make some results likelier
      while (static_cast<uint64_t>(product) < threshold) product = static_cast<uint128>(next()) * n;
    }
    return static_cast<uint64_t>(product >> 64);
  }

 private:
  uint64_t state_, gamma_;
};

// out [n, count]: row i holds the first `count` uniforms of the stream of key + ids[i].
inline void fill_uniform(uint64_t key, const int64_t* ids, int64_t n, int64_t count, double* out) {
  for (int64_t i = 0; i < n; ++i) {
    Stream stream(absorb(key, static_cast<uint64_t>(ids[i])));
    for (int64_t j = 0; j < count; ++j) *out++ = stream.uniform();
  }
}

// out [n]: a uniform random permutation of 0 ... n - 1 (Fisher and Yates, inside out).
inline void fill_permutation(uint64_t key, int64_t n, int64_t* out) {
  Stream stream(key);
  for (int64_t i = 0; i < n; ++i) {
    const auto j = static_cast<int64_t>(stream.below(static_cast<uint64_t>(i) + 1));
    out[i] = out[j];  // when j == i this reads and writes the same place, which the next line sets
    out[j] = i;
  }
}

}  // namespace d2v
