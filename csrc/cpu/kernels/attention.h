// What the two passes of attention share: a head of a sequence as blocks and panels of words, its scores, and the draws of dropout.
#pragma once
#include <stdlib.h>

#include "functions.h"
#include "products.h"

namespace d2v {
namespace D2V_ISA {

static const int64_t kQueries = 48;  // whose scores are in the cache at a time; a multiple of kTileRows, and even
static_assert(kQueries % kTileRows == 0, "whole tiles");

// Numbers in a word, and words for so many numbers.
template <typename Word> static constexpr int64_t in_word() { return 1; }
#ifdef D2V_PAIRS
template <> constexpr int64_t in_word<Pair>() { return 2; }
#endif
template <typename Word> static inline int64_t words(int64_t numbers) { return (numbers + in_word<Word>() - 1) / in_word<Word>(); }

// What is added to the scores.
enum Added { NOTHING, DISTANCES, BIAS };
template <Added ADDED> struct Adding { static constexpr Added added = ADDED; };

static inline uint64_t mix(uint64_t z) {  // the finaliser of SplitMix64, see csrc/cpu/rng.h
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// A head of a sequence. Keys and channels are padded with zeros to whole registers.
template <typename Word>
struct Task {
  typedef RealOf<Word> Real;
  const Attention& x;
  int64_t sample, head, first, length, keys, dim, padded;
  Added added;
  Real factor, scale;
  const Real* bias;

  Task(const Attention& of, int64_t sample_, int64_t head_) : x(of), sample(sample_), head(head_) {
    first = x.starts[sample];
    length = x.starts[sample + 1] - first;
    dim = x.dim;
    keys = round_up(length, lane_count<Real>());
    padded = round_up(dim, lane_count<Real>());
    factor = x.factors ? static_cast<const Real*>(x.factors)[head] : 0;
    scale = static_cast<Real>(1 / sqrt(static_cast<double>(dim)));
    bias = x.bias ? static_cast<const Real*>(x.bias) + sample * x.bias_strides[0] + head * x.bias_strides[1] : nullptr;
    added = bias ? BIAS : x.factors ? DISTANCES : NOTHING;
  }

  // `rows` rows of this head of query, key, ... and zeros up to `room` rows of `padded` numbers.
  void read(const void* tensor, const int64_t* strides, int64_t row, int64_t rows, int64_t room, Real* out) const {
    for (int64_t i = 0; i < rows; ++i) {
      Real* const to = out + i * padded;
      const int64_t from = (first + row + i) * strides[0] + head * strides[1];
      if (x.dtype == code_of(to)) memcpy(to, static_cast<const Real*>(tensor) + from, static_cast<size_t>(dim) * sizeof(Real));
      else decode_any(x.dtype, tensor, from, to, dim);
      if (dim < padded) memset(to + dim, 0, static_cast<size_t>(padded - dim) * sizeof(Real));
    }
    if (rows < room) memset(out + rows * padded, 0, static_cast<size_t>((room - rows) * padded) * sizeof(Real));
  }
#ifdef D2V_PAIRS
  void read(const void* tensor, const int64_t* strides, int64_t row, int64_t rows, int64_t room, Pair* out) const {
    const bf16* const from = static_cast<const bf16*>(tensor) + (first + row) * strides[0] + head * strides[1];
    bf16* const to = reinterpret_cast<bf16*>(out);
    for (int64_t i = 0; i < rows; ++i) {
      memcpy(to + i * padded, from + i * strides[0], static_cast<size_t>(dim) * sizeof(bf16));
      if (dim < padded) memset(to + i * padded + dim, 0, static_cast<size_t>(padded - dim) * sizeof(bf16));
    }
    if (rows < room) memset(to + rows * padded, 0, static_cast<size_t>((room - rows) * padded) * sizeof(bf16));
  }
#endif
  // A row of [tokens, heads, dim], whole registers as long as there are.
  void write(const Real* row, int64_t number, Real times, void* tensor) const {
    const int64_t lanes = lane_count<Real>(), to = ((first + number) * x.heads + head) * dim;
    for (int64_t c = 0; c < dim; c += lanes) {
      const int64_t n = dim - c < lanes ? dim - c : lanes;
      const LanesOf<Word> numbers = load(row + c) * times;
      Real* const out = static_cast<Real*>(tensor) + to + c;
      if (n == lanes && x.dtype == code_of(row)) {
        store(out, numbers);
#ifdef D2V_PAIRS
      } else if (n == lanes && x.dtype == BF16 && in_word<Word>() > 1) {
        const __m256i halves = rounded((__m512)numbers);
        memcpy(static_cast<bf16*>(tensor) + to + c, &halves, sizeof halves);
#endif
      } else {
        Real last[D2V_REGISTER_BYTES / sizeof(Real)];
        store(last, numbers);
        encode_any(x.dtype, last, tensor, to + c, n);
      }
    }
  }

  // body(an Adding), a copy of it for each.
  template <typename Body>
  void with_added(Body body) const {
    if (added == BIAS) body(Adding<BIAS>());
    else if (added == DISTANCES) body(Adding<DISTANCES>());
    else body(Adding<NOTHING>());
  }
};

// Memory for one task at a time, and its keys as the softmax of a row sees them.
template <typename Word>
struct Room {
  typedef RealOf<Word> Real;
  Real *where, *placed, *hidden;  // [keys] position, 1 or 0 without one, and 0 or minus infinity
  Real *scores, *slopes, *dropped;                            // [kQueries][keys] twice; [keys]
  Real *mixed, *numbers, *ends;                               // [kQueries][padded] twice; [kQueries] what a row ends with
  Real *key_gradient, *value_gradient;                        // [keys][padded]
  Word *rows, *key_panels, *value_panels, *key_columns;       // [keys][padded] numbers
  Word *query, *query_panels, *incoming, *incoming_panels;    // [kQueries][padded] numbers
  Word *weight_words, *slope_words, *slope_columns;           // [kQueries][keys] numbers, where words are no numbers
  char* memory;

  Room(int64_t keys, int64_t padded, bool backward) {
    const bool paired = in_word<Word>() > 1;
    const int64_t block = kQueries * padded, sums = backward ? round_up(keys, kTileRows) * padded : 0;  // whole tiles
    const int64_t cells = kQueries * keys + kTileRows;  // the last tile of columns may end behind them
    const int64_t sizes[] = {keys, keys, keys, cells, backward ? cells : 0, keys, block, block, kQueries, sums, sums};
    Real** const of_numbers[] = {&where, &placed, &hidden, &scores, &slopes, &dropped, &mixed, &numbers, &ends, &key_gradient, &value_gradient};
    const int64_t whole = keys * padded, pairs = paired ? cells : 0;
    const int64_t of_word[] = {whole, whole, whole, backward ? whole : 0, block, block, block, block, pairs, pairs, pairs};
    Word** const of_words[] = {&rows, &key_panels, &value_panels, &key_columns, &query, &query_panels, &incoming, &incoming_panels,
                               &weight_words, &slope_words, &slope_columns};
    int64_t total = 0;
    for (int64_t size : sizes) total += line(size, sizeof(Real));
    for (int64_t size : of_word) total += line(size, sizeof(Word));
    char* next = memory = static_cast<char*>(aligned_alloc(64, static_cast<size_t>(total)));
    if (!memory) return;
    for (int i = 0; i < 11; next += line(sizes[i++], sizeof(Real))) *of_numbers[i] = reinterpret_cast<Real*>(next);
    for (int i = 0; i < 11; next += line(of_word[i++], sizeof(Word))) *of_words[i] = reinterpret_cast<Word*>(next);
  }
  ~Room() { free(memory); }
  static int64_t line(int64_t count, size_t size) { return round_up(count * static_cast<int64_t>(size), 64); }

  void describe_keys(const Task<Word>& t) {
    for (int64_t j = 0; j < t.keys; ++j) {
      const bool there = j < t.length;
      const int64_t position = there && t.added == DISTANCES ? t.x.positions[t.first + j] : -1;
      where[j] = position < 0 ? 0 : static_cast<Real>(position);
      placed[j] = position < 0 ? 0 : 1;
      hidden[j] = there && (!t.x.visible || t.x.visible[t.first + j]) ? 0 : -static_cast<Real>(INFINITY);
    }
  }
};

// The factors of dropout for one query: 0 or 1 / (1 - p), from the seed and the token's place alone.
template <typename Word>
static inline void draw(const Task<Word>& t, int64_t query, RealOf<Word>* dropped) {
  typedef RealOf<Word> Real;
  const uint64_t key = mix(mix(mix(mix(t.x.seed) + static_cast<uint64_t>(t.sample)) + static_cast<uint64_t>(t.head)) + static_cast<uint64_t>(query));
  const uint32_t low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
  const uint32_t limit = t.x.limit;
  const Real kept = static_cast<Real>(1 / (1 - t.x.dropout));
  const int64_t n = t.keys;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    uint32_t h = (static_cast<uint32_t>(j) * 0x9E3779B9u + low) ^ high;  // a hash of 32 bits: each input bit flips half of the output's
    h = (h ^ (h >> 16)) * 0x7FEB352Du;
    h = (h ^ (h >> 15)) * 0x846CA68Bu;
    h ^= h >> 16;
    dropped[j] = h >= limit ? kept : 0;
  }
}

// How far keys are from a query at `own`; it counts where both have a position.
template <typename Word>
static inline LanesOf<Word> apart(const Room<Word>& room, RealOf<Word> own, int64_t j) {
  const LanesOf<Word> d = load(room.where + j) - own;
  return d < 0 ? -d : d;
}

// The scores of a query with all keys, in place: scale, bias and what is hidden. Gives the largest.
template <Added ADDED, typename Word>
static inline RealOf<Word> bias_row(const Task<Word>& t, const Room<Word>& room, int64_t query, RealOf<Word>* scores) {
  typedef RealOf<Word> Real;
  typedef LanesOf<Word> Lanes;
  const int64_t lanes = lane_count<Real>(), position = ADDED == DISTANCES ? t.x.positions[t.first + query] : 0;
  const Real own = static_cast<Real>(position), factor = position < 0 ? 0 : t.factor;
  const Real* const bias = ADDED == BIAS ? t.bias + query * t.x.bias_strides[2] : nullptr;
  Lanes most = Lanes{} - static_cast<Real>(INFINITY);
  each_registers<1, Real>(t.length, [&](int64_t j, auto registers, int64_t n) {
    Lanes s = load(scores + j);
    if (in_word<Word>() > 1) s *= t.scale;  // words are multiplied as they come, numbers are scaled before
    if (ADDED == DISTANCES) s = s - factor * (apart(room, own, j) * load(room.placed + j));
    if (ADDED == BIAS) s += load<decltype(registers)::part>(bias + j, n);
    s += load(room.hidden + j);
    store(scores + j, s);
    most = s > most ? s : most;
  });
  Real largest = most[0];
  for (int64_t i = 1; i < lanes; ++i) largest = most[i] > largest ? most[i] : largest;
  return largest;
}

}  // namespace D2V_ISA
}  // namespace d2v
