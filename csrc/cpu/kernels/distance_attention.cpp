// Attention over packed sequences with a bias by the distance of the tokens, forward and backward.
//
// A task is one head of one sequence. Some queries at a time meet all keys: their scores stay in the second-level cache, from products
// to softmax to products, and the backward pass computes them again from the logarithm of each row's sum. So nothing of the size of the
// scores is kept or goes to memory, and dropped weights are drawn again, too. Arithmetic is in float, or double for double; a task's sums are in
// one order, and the tasks' shares of the factors' gradient are added up in double in order: no bit depends on the threads.
#include <stdlib.h>

#include "functions.h"
#include "products.h"

namespace d2v {
namespace D2V_ISA {

static const int64_t kQueries = 48;     // whose scores are in the cache at a time; a multiple of kTileRows
static const int64_t kSmall = 1 << 15;  // products that are not worth waking a thread for
static_assert(kQueries % kTileRows == 0, "whole tiles");

static inline uint64_t mix(uint64_t z) {  // the finaliser of SplitMix64, see csrc/cpu/rng.h
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// What one task works on: a head of a sequence, in Real, padded to whole tiles.
template <typename Real>
struct Task {
  const DistanceAttention& x;
  int64_t sample, head, first, length, keys, dim, padded;  // keys, padded: length and dim rounded up to whole panels
  Real factor, scale;

  Task(const DistanceAttention& of, int64_t task) : x(of), sample(task / of.heads), head(task % of.heads) {
    first = x.starts[sample];
    length = x.starts[sample + 1] - first;
    dim = x.dim;
    keys = round_up(length, panel_width<Real>());
    padded = round_up(dim, panel_width<Real>());
    factor = x.factors ? (x.dtype == F64 ? static_cast<Real>(static_cast<const double*>(x.factors)[head])
                                         : static_cast<Real>(static_cast<const float*>(x.factors)[head])) : 0;
    scale = static_cast<Real>(1 / sqrt(static_cast<double>(dim)));
  }

  // Row i of this head of query, key, ... as Real, padded with zeros.
  void read(const void* tensor, const int64_t* strides, int64_t row, int64_t rows, int64_t room, Real* out) const {
    for (int64_t i = 0; i < room; ++i) {
      Real* const to = out + i * padded;
      if (i < rows) decode_any(x.dtype, tensor, (first + row + i) * strides[0] + head * strides[1], to, dim);
      for (int64_t c = i < rows ? dim : 0; c < padded; ++c) to[c] = 0;
    }
  }
  // ... and back; the tensor is [S, heads, dim].
  void write(const Real* block, int64_t row, int64_t rows, Real times, void* tensor) const {
    Real line[1024];
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t c = 0; c < dim; c += 1024) {
        const int64_t n = dim - c < 1024 ? dim - c : 1024;
        for (int64_t j = 0; j < n; ++j) line[j] = block[i * padded + c + j] * times;
        encode_any(x.dtype, line, tensor, ((first + row + i) * x.heads + head) * dim + c, n);
      }
  }
};

// A task's keys as their rows' softmax sees them, and room for what a task needs.
template <typename Real>
struct Room {
  Real *where, *placed, *hidden;  // [keys] position, 1 or 0 without one, and 0 or minus infinity
  Real *key_rows, *value_rows;    // [keys][padded]
  Real *key_panels, *value_panels, *key_columns;
  Real *query, *query_panels, *incoming, *incoming_panels, *mixed;  // of a block of queries
  Real *scores, *slopes, *dropped;                                 // [kQueries][keys] twice; [keys]
  Real *key_gradient, *value_gradient;                             // [keys][padded]
  Real* memory;

  Room(int64_t keys, int64_t padded, bool backward) {
    const int64_t block = kQueries * padded, whole = keys * padded, scores_size = kQueries * keys + kTileRows;
    const int64_t sums = backward ? round_up(keys, kTileRows) * padded : 0;  // tiles of keys may end behind the last one
    const int64_t sizes[] = {keys, keys, keys, whole, whole, whole, whole, whole, block, block, block, block, block,
                             scores_size, backward ? scores_size : 0, keys, sums, sums};
    Real** const parts[] = {&where, &placed, &hidden, &key_rows, &value_rows, &key_panels, &value_panels, &key_columns, &query, &query_panels,
                            &incoming, &incoming_panels, &mixed, &scores, &slopes, &dropped, &key_gradient, &value_gradient};
    int64_t total = 0;
    for (int64_t size : sizes) total += round_up(size, 16);
    memory = static_cast<Real*>(aligned_alloc(64, static_cast<size_t>(round_up(total * static_cast<int64_t>(sizeof(Real)), 64))));
    Real* next = memory;
    for (int i = 0; memory && i < 18; ++i) {
      *parts[i] = next;
      next += round_up(sizes[i], 16);
    }
  }
  ~Room() { free(memory); }

  void describe_keys(const Task<Real>& t) {
    for (int64_t j = 0; j < t.keys; ++j) {
      const bool there = j < t.length;
      const int64_t position = there ? t.x.positions[t.first + j] : -1;
      where[j] = position < 0 ? 0 : static_cast<Real>(position);
      placed[j] = position < 0 ? 0 : 1;
      hidden[j] = there && (!t.x.visible || t.x.visible[t.first + j]) ? 0 : -static_cast<Real>(INFINITY);
    }
  }
};

// The factors of dropout for one query: 0 or 1 / (1 - p), from the seed and the token's place alone.
template <typename Real>
static inline void draw(const Task<Real>& t, int64_t query, Real* dropped) {
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

// The scores of a query with all keys, in place: bias and what is hidden. Gives the largest.
template <typename Real>
static inline Real bias_row(const Task<Real>& t, const Room<Real>& room, int64_t query, Real* scores) {
  typedef LanesOf<Real> Lanes;
  const int64_t lanes = lane_count<Real>(), position = t.x.positions[t.first + query];
  const Real own = static_cast<Real>(position), factor = position < 0 ? 0 : t.factor;
  Lanes most = Lanes{} - static_cast<Real>(INFINITY);
  for (int64_t j = 0; j < t.keys; j += lanes) {
    const Lanes d = load(room.where + j) - own, apart = (d < 0 ? -d : d) * load(room.placed + j);
    const Lanes s = (load(scores + j) - factor * apart) + load(room.hidden + j);
    store(scores + j, s);
    most = s > most ? s : most;
  }
  Real largest = most[0];
  for (int64_t i = 1; i < lanes; ++i) largest = most[i] > largest ? most[i] : largest;
  return largest;
}

template <typename Real>
static void forward_task(const DistanceAttention& x, int64_t number, Room<Real>& room) {
  typedef LanesOf<Real> Lanes;
  const Task<Real> t(x, number);
  const int64_t lanes = lane_count<Real>();
  room.describe_keys(t);
  t.read(x.key, x.key_strides, 0, t.length, t.keys, room.key_rows);
  pack_rows(room.key_rows, t.padded, t.keys, t.dim, t.dim, t.keys, room.key_panels);
  t.read(x.value, x.value_strides, 0, t.length, t.keys, room.value_rows);
  pack_columns(room.value_rows, t.padded, t.keys, t.padded, t.keys, t.padded, room.value_panels);
  for (int64_t first = 0; first < t.length; first += kQueries) {
    const int64_t n = t.length - first < kQueries ? t.length - first : kQueries, rows = round_up(n, kTileRows);
    t.read(x.query, x.query_strides, first, n, rows, room.query);
    for (int64_t i = 0; i < n * t.padded; ++i) room.query[i] *= t.scale;
    multiply<false>(Left<Real>{room.query, t.padded, 1}, room.key_panels, t.dim, rows, t.keys, room.scores, t.keys);
    for (int64_t i = 0; i < n; ++i) {
      Real* const scores = room.scores + i * t.keys;
      const Real largest = bias_row(t, room, first + i, scores);
      const Real offset = largest > -static_cast<Real>(INFINITY) ? largest : 0;  // no key to be seen: all weights 0; NaN stays
      Lanes sum = {};
      for (int64_t j = 0; j < t.keys; j += lanes) {
        const Lanes e = exp_lanes(load(scores + j) - offset);
        store(scores + j, e);
        sum += e;
      }
      const Real total = sum_lanes(sum), inverse = total == 0 ? 0 : 1 / total;
      if (x.limit) {
        draw(t, first + i, room.dropped);
        for (int64_t j = 0; j < t.keys; j += lanes) store(scores + j, load(scores + j) * load(room.dropped + j) * inverse);
      } else {
        for (int64_t j = 0; j < t.keys; j += lanes) store(scores + j, load(scores + j) * inverse);
      }
      static_cast<Real*>(x.logs)[t.head * x.tokens + t.first + first + i] =
          total == 0 ? static_cast<Real>(INFINITY) : offset + static_cast<Real>(log(static_cast<double>(total)));
    }
    multiply<false>(Left<Real>{room.scores, t.keys, 1}, room.value_panels, t.keys, rows, t.padded, room.mixed, t.padded);
    t.write(room.mixed, first, n, 1, x.out);
  }
}

template <typename Real>
static void backward_task(const DistanceAttention& x, int64_t number, Room<Real>& room) {
  typedef LanesOf<Real> Lanes;
  const Task<Real> t(x, number);
  const int64_t lanes = lane_count<Real>(), own[2] = {x.heads * x.dim, x.dim};
  room.describe_keys(t);
  t.read(x.key, x.key_strides, 0, t.length, t.keys, room.key_rows);
  pack_rows(room.key_rows, t.padded, t.keys, t.dim, t.dim, t.keys, room.key_panels);
  pack_columns(room.key_rows, t.padded, t.keys, t.padded, t.keys, t.padded, room.key_columns);
  t.read(x.value, x.value_strides, 0, t.length, t.keys, room.value_rows);
  pack_rows(room.value_rows, t.padded, t.keys, t.dim, t.dim, t.keys, room.value_panels);
  const int64_t key_rows = round_up(t.length, kTileRows);
  memset(room.key_gradient, 0, static_cast<size_t>(key_rows * t.padded) * sizeof(Real));
  memset(room.value_gradient, 0, static_cast<size_t>(key_rows * t.padded) * sizeof(Real));
  double of_factor = 0;
  for (int64_t first = 0; first < t.length; first += kQueries) {
    const int64_t n = t.length - first < kQueries ? t.length - first : kQueries, rows = round_up(n, kTileRows);
    t.read(x.query, x.query_strides, first, n, rows, room.query);
    for (int64_t i = 0; i < n * t.padded; ++i) room.query[i] *= t.scale;
    pack_columns(room.query, t.padded, n, t.padded, rows, t.padded, room.query_panels);
    t.read(x.gradient, x.gradient_strides, first, n, rows, room.incoming);
    pack_columns(room.incoming, t.padded, n, t.padded, rows, t.padded, room.incoming_panels);
    t.read(x.out, own, first, n, rows, room.mixed);
    multiply<false>(Left<Real>{room.query, t.padded, 1}, room.key_panels, t.dim, rows, t.keys, room.scores, t.keys);
    multiply<false>(Left<Real>{room.incoming, t.padded, 1}, room.value_panels, t.dim, rows, t.keys, room.slopes, t.keys);
    for (int64_t i = 0; i < rows; ++i) {
      Real *const scores = room.scores + i * t.keys, *const slopes = room.slopes + i * t.keys;
      if (i >= n) {
        memset(scores, 0, static_cast<size_t>(t.keys) * sizeof(Real));
        memset(slopes, 0, static_cast<size_t>(t.keys) * sizeof(Real));
        continue;
      }
      Lanes dot = {};
      for (int64_t c = 0; c < t.padded; c += lanes) dot += load(room.mixed + i * t.padded + c) * load(room.incoming + i * t.padded + c);
      const Real mean = sum_lanes(dot), log_sum = static_cast<Real*>(x.logs)[t.head * x.tokens + t.first + first + i];
      bias_row(t, room, first + i, scores);
      if (x.limit) draw(t, first + i, room.dropped);
      const int64_t position = x.positions[t.first + first + i];
      const Real where = static_cast<Real>(position);
      Lanes sum = {};
      for (int64_t j = 0; j < t.keys; j += lanes) {
        const Lanes weight = exp_lanes(load(scores + j) - log_sum);
        const Lanes share = x.limit ? load(room.dropped + j) : Lanes{} + 1;
        const Lanes slope = weight * (load(slopes + j) * share - mean);
        store(scores + j, weight * share);
        store(slopes + j, slope);
        const Lanes d = load(room.where + j) - where;
        sum += slope * (d < 0 ? -d : d) * load(room.placed + j);
      }
      if (position >= 0) of_factor -= static_cast<double>(sum_lanes(sum));
    }
    multiply<false>(Left<Real>{room.slopes, t.keys, 1}, room.key_columns, t.keys, rows, t.padded, room.mixed, t.padded);
    t.write(room.mixed, first, n, t.scale, x.query_gradient);
    multiply<true>(Left<Real>{room.slopes, 1, t.keys}, room.query_panels, rows, key_rows, t.padded, room.key_gradient, t.padded);
    multiply<true>(Left<Real>{room.scores, 1, t.keys}, room.incoming_panels, rows, key_rows, t.padded, room.value_gradient, t.padded);
  }
  t.write(room.key_gradient, 0, t.length, 1, x.key_gradient);
  t.write(room.value_gradient, 0, t.length, 1, x.value_gradient);
  x.factor_gradients[number] = of_factor;
}

template <typename Real>
static bool run(const DistanceAttention& x, bool backward, int threads) {
  int64_t longest = 0, work = 0;
  for (int64_t n = 0; n < x.samples; ++n) {
    const int64_t length = x.starts[n + 1] - x.starts[n];
    longest = length > longest ? length : longest;
    work += length * length * x.heads * x.dim;
  }
  if (work < kSmall) threads = 1;
  const int64_t keys = round_up(longest, panel_width<Real>()), padded = round_up(x.dim, panel_width<Real>());
  int failed = 0;
#pragma omp parallel num_threads(threads)
  {
    Room<Real> room(keys, padded, backward);
    if (!room.memory) {
#pragma omp atomic write
      failed = 1;
    }
#pragma omp barrier
    if (!failed) {
#pragma omp for schedule(dynamic)
      for (int64_t task = 0; task < x.samples * x.heads; ++task) {
        if (backward) backward_task(x, task, room);
        else forward_task(x, task, room);
      }
    }
  }
  return !failed;
}

bool distance_attention_forward(const DistanceAttention& x, int threads) {
  return x.dtype == F64 ? run<double>(x, false, threads) : run<float>(x, false, threads);
}

bool distance_attention_backward(const DistanceAttention& x, int threads) {
  return x.dtype == F64 ? run<double>(x, true, threads) : run<float>(x, true, threads);
}

}  // namespace D2V_ISA
}  // namespace d2v
