// Attention over packed sequences, forward and backward: with a bias by the distance of the tokens, with any bias, or without one.
//
// A task is one head of one sequence. Some queries at a time meet all keys: their scores stay in the second-level cache, from products
// to softmax to products, and the backward pass computes them again from the logarithm of each row's sum. So nothing of the size of the
// scores is kept or goes to memory (but the gradient of a bias), and dropped weights are drawn again, too. Arithmetic is in float, or double
// for double. Where the processor multiplies pairs of bfloat16 numbers, products of that format have weights and slopes rounded to it.
// A task's sums are in one order, and what tasks share is added up in order: no bit depends on the threads.
#include "attention.h"

namespace d2v {
namespace D2V_ISA {

static const int64_t kSmall = 1 << 15;  // products that are not worth waking a thread for

// Where words are numbers, products take them as they are, and the queries are scaled. Where they are pairs of bfloat16 numbers, weights and
// slopes are rounded: as rows for a left factor, or by two rows at a time for its transpose; and the scores are scaled.
template <typename Real>
static inline void scale_queries(const Task<Real>& t, Real* query, int64_t rows) {
  for (int64_t i = 0; i < rows * t.padded; ++i) query[i] *= t.scale;
}
template <typename Real>
static inline Left<Real> as_rows(const Task<Real>& t, const Real* numbers, Real*, int64_t) { return {numbers, t.keys, 1}; }
template <typename Real>
static inline Left<Real> as_columns(const Task<Real>& t, const Real* numbers, Real*, int64_t) { return {numbers, 1, t.keys}; }
template <typename Real>
static inline const Real* incoming_numbers(const Task<Real>&, const Room<Real>& room, int64_t, int64_t) { return room.incoming; }
#ifdef D2V_PAIRS
static inline void scale_queries(const Task<Pair>&, Pair*, int64_t) {}
static inline Left<Pair> as_rows(const Task<Pair>& t, const float* numbers, Pair* pairs, int64_t rows) {
  bf16* const to = reinterpret_cast<bf16*>(pairs);
  for (int64_t i = 0; i < rows * t.keys; i += 16) {
    const __m256i halves = rounded((__m512)load(numbers + i));
    memcpy(to + i, &halves, sizeof halves);
  }
  return {pairs, t.keys / 2, 1};
}
static inline Left<Pair> as_columns(const Task<Pair>& t, const float* numbers, Pair* pairs, int64_t rows) {
  for (int64_t i = 0; i < rows; i += 2, numbers += 2 * t.keys)
    for (int64_t j = 0; j < t.keys; j += 16)
      _mm512_storeu_si512(pairs + i / 2 * t.keys + j, pair_up(rounded((__m512)load(numbers + j)), rounded((__m512)load(numbers + t.keys + j))));
  return {pairs, 1, t.keys};
}
static inline const float* incoming_numbers(const Task<Pair>& t, Room<Pair>& room, int64_t first, int64_t n) {
  t.read(t.x.gradient, t.x.gradient_strides, first, n, n, room.numbers);
  return room.numbers;
}
#endif

template <typename Word>
static inline void forward_row(const Task<Word>& t, Room<Word>& room, int64_t first, int64_t i) {
  typedef RealOf<Word> Real;
  typedef LanesOf<Word> Lanes;
  const int64_t lanes = lane_count<Real>();
  Real* const scores = room.scores + i * t.keys;
  Real largest = 0;
  t.with_added([&](auto adding) { largest = bias_row<decltype(adding)::added>(t, room, first + i, scores); });
  const Real offset = largest > -static_cast<Real>(INFINITY) ? largest : 0;  // no key to be seen: all weights 0; NaN stays
  Lanes sum = {};
  for (int64_t j = 0; j < t.keys; j += lanes) {
    const Lanes e = exp_lanes(load(scores + j) - offset);
    store(scores + j, e);
    sum += e;
  }
  const Real total = sum_lanes(sum), inverse = total == 0 ? 0 : 1 / total;
  static_cast<Real*>(t.x.logs)[t.head * t.x.tokens + t.first + first + i] =
      total == 0 ? static_cast<Real>(INFINITY) : offset + static_cast<Real>(log(static_cast<double>(total)));
  if (t.x.limit) draw(t, first + i, room.dropped);
  const bool later = in_word<Word>() > 1;  // rounded weights are divided by their sum after the product
  room.ends[i] = later ? inverse : 1;
  const Real now = later ? 1 : inverse;
  if (t.x.limit)
    for (int64_t j = 0; j < t.keys; j += lanes) store(scores + j, load(scores + j) * load(room.dropped + j) * now);
  else if (!later)
    for (int64_t j = 0; j < t.keys; j += lanes) store(scores + j, load(scores + j) * now);
}

template <typename Word>
static void forward_task(const Task<Word>& t, Room<Word>& room) {
  const Attention& x = t.x;
  const int64_t width = words<Word>(t.padded), depth = words<Word>(t.dim);
  room.describe_keys(t);
  t.read(x.key, x.key_strides, 0, t.length, t.keys, room.rows);
  pack_rows(room.rows, width, t.keys, depth, room.key_panels);
  t.read(x.value, x.value_strides, 0, t.length, t.keys, room.rows);
  pack_columns(room.rows, width, t.keys, t.padded, room.value_panels);
  for (int64_t first = 0; first < t.length; first += kQueries) {
    const int64_t n = t.length - first < kQueries ? t.length - first : kQueries, rows = round_up(n, kTileRows);
    t.read(x.query, x.query_strides, first, n, rows, room.query);
    scale_queries(t, room.query, rows);
    multiply<false>(Left<Word>{room.query, width, 1}, room.key_panels, depth, rows, t.keys, room.scores, t.keys);
    for (int64_t i = 0; i < n; ++i) forward_row(t, room, first, i);
    multiply<false>(as_rows(t, room.scores, room.weight_words, rows), room.value_panels, words<Word>(t.keys), rows, t.padded, room.mixed, t.padded);
    for (int64_t i = 0; i < n; ++i) t.write(room.mixed + i * t.padded, first + i, room.ends[i], x.out);
  }
}

// Weights (those that were kept, divided by 1 - p) and slopes of a query's scores, in place. Gives the share of the factor's gradient.
template <Added ADDED, typename Word>
static inline RealOf<Word> backward_row(const Task<Word>& t, Room<Word>& room, int64_t first, int64_t i, RealOf<Word> mean, RealOf<Word>* of_bias) {
  typedef RealOf<Word> Real;
  typedef LanesOf<Word> Lanes;
  Real *const scores = room.scores + i * t.keys, *const slopes = room.slopes + i * t.keys;
  const int64_t query = first + i, position = ADDED == DISTANCES ? t.x.positions[t.first + query] : -1;
  const Real log_sum = static_cast<Real*>(t.x.logs)[t.head * t.x.tokens + t.first + query], where = static_cast<Real>(position);
  bias_row<ADDED>(t, room, query, scores);
  if (t.x.limit) draw(t, query, room.dropped);
  Lanes sum = {};
  each_registers<1, Real>(t.length, [&](int64_t j, auto registers, int64_t n) {
    constexpr bool part = decltype(registers)::part;
    const Lanes weight = exp_lanes(load(scores + j) - log_sum);
    const Lanes share = t.x.limit ? load(room.dropped + j) : Lanes{} + 1;
    const Lanes slope = weight * (load(slopes + j) * share - mean);
    store(scores + j, weight * share);
    store(slopes + j, slope);
    if (ADDED == DISTANCES) sum += slope * apart(room, where, j) * load(room.placed + j);
    if (ADDED == BIAS) store<part>(of_bias + j, load<part>(of_bias + j, n) + slope, n);
  });
  return position >= 0 ? sum_lanes(sum) : 0;
}

template <typename Word>
static void backward_task(const Task<Word>& t, Room<Word>& room) {
  typedef RealOf<Word> Real;
  typedef LanesOf<Word> Lanes;
  const Attention& x = t.x;
  const int64_t lanes = lane_count<Real>(), own[2] = {x.heads * x.dim, x.dim}, width = words<Word>(t.padded), depth = words<Word>(t.dim);
  const int64_t key_rows = round_up(t.length, kTileRows);
  Real* const of_bias =
      t.bias ? static_cast<Real*>(x.bias_gradient) + (t.sample / x.group * x.heads + t.head) * x.longest * x.longest : nullptr;
  room.describe_keys(t);
  t.read(x.key, x.key_strides, 0, t.length, t.keys, room.rows);
  pack_rows(room.rows, width, t.keys, depth, room.key_panels);
  pack_columns(room.rows, width, t.keys, t.padded, room.key_columns);
  t.read(x.value, x.value_strides, 0, t.length, t.keys, room.rows);
  pack_rows(room.rows, width, t.keys, depth, room.value_panels);
  memset(room.key_gradient, 0, static_cast<size_t>(key_rows * t.padded) * sizeof(Real));
  memset(room.value_gradient, 0, static_cast<size_t>(key_rows * t.padded) * sizeof(Real));
  double of_factor = 0;
  for (int64_t first = 0; first < t.length; first += kQueries) {
    const int64_t n = t.length - first < kQueries ? t.length - first : kQueries, rows = round_up(n, kTileRows);
    t.read(x.query, x.query_strides, first, n, rows, room.query);
    scale_queries(t, room.query, rows);
    pack_columns(room.query, width, rows, t.padded, room.query_panels);
    t.read(x.gradient, x.gradient_strides, first, n, rows, room.incoming);
    pack_columns(room.incoming, width, rows, t.padded, room.incoming_panels);
    const Real* const incoming = incoming_numbers(t, room, first, n);
    t.read(x.out, own, first, n, n, room.mixed);
    multiply<false>(Left<Word>{room.query, width, 1}, room.key_panels, depth, rows, t.keys, room.scores, t.keys);
    multiply<false>(Left<Word>{room.incoming, width, 1}, room.value_panels, depth, rows, t.keys, room.slopes, t.keys);
    for (int64_t i = 0; i < n; ++i) {
      Lanes dot = {};
      for (int64_t c = 0; c < t.padded; c += lanes) dot += load(room.mixed + i * t.padded + c) * load(incoming + i * t.padded + c);
      const Real mean = sum_lanes(dot);
      Real* const of_row = of_bias ? of_bias + (first + i) * x.longest : nullptr;
      t.with_added([&](auto adding) {
        of_factor -= static_cast<double>(backward_row<decltype(adding)::added>(t, room, first, i, mean, of_row));
      });
    }
    memset(room.scores + n * t.keys, 0, static_cast<size_t>((rows - n) * t.keys) * sizeof(Real));
    memset(room.slopes + n * t.keys, 0, static_cast<size_t>((rows - n) * t.keys) * sizeof(Real));
    multiply<false>(as_rows(t, room.slopes, room.slope_words, rows), room.key_columns, words<Word>(t.keys), rows, t.padded, room.mixed, t.padded);
    for (int64_t i = 0; i < n; ++i) t.write(room.mixed + i * t.padded, first + i, t.scale, x.query_gradient);
    multiply<true>(as_columns(t, room.slopes, room.slope_columns, rows), room.query_panels, words<Word>(rows), key_rows, t.padded,
                   room.key_gradient, t.padded);
    multiply<true>(as_columns(t, room.scores, room.weight_words, rows), room.incoming_panels, words<Word>(rows), key_rows, t.padded,
                   room.value_gradient, t.padded);
  }
  const Real key_scale = in_word<Word>() > 1 ? t.scale : 1;
  for (int64_t j = 0; j < t.length; ++j) {
    t.write(room.key_gradient + j * t.padded, j, key_scale, x.key_gradient);
    t.write(room.value_gradient + j * t.padded, j, 1, x.value_gradient);
  }
  if (x.factor_gradients) x.factor_gradients[t.sample * x.heads + t.head] = of_factor;
}

template <typename Word>
static bool run(const Attention& x, bool backward, int threads) {
  typedef RealOf<Word> Real;
  int64_t longest = 0, work = 0;
  for (int64_t n = 0; n < x.samples; ++n) {
    const int64_t length = x.starts[n + 1] - x.starts[n];
    longest = length > longest ? length : longest;
    work += length * length * x.heads * x.dim;
  }
  if (work < kSmall) threads = 1;
  const int64_t keys = round_up(longest, lane_count<Real>()), padded = round_up(x.dim, lane_count<Real>());
  const int64_t together = backward ? x.group : 1;  // samples whose gradients of a bias are added up, one after the other
  const int64_t groups = (x.samples + together - 1) / together;
  int failed = 0;
#pragma omp parallel num_threads(threads)
  {
    Room<Word> room(keys, padded, backward);
    if (!room.memory) {
#pragma omp atomic write
      failed = 1;
    }
#pragma omp barrier
    if (!failed) {
#pragma omp for schedule(dynamic)
      for (int64_t task = 0; task < groups * x.heads; ++task) {
        const int64_t from = task / x.heads * together, end = from + together < x.samples ? from + together : x.samples;
        for (int64_t sample = from; sample < end; ++sample) {
          const Task<Word> t(x, sample, task % x.heads);
          if (backward) backward_task(t, room);
          else forward_task(t, room);
        }
      }
    }
  }
  return !failed;
}

static bool run_any(const Attention& x, bool backward, int threads) {
#ifdef D2V_PAIRS
  if (x.dtype == BF16 && x.pairs) return run<Pair>(x, backward, threads);
#endif
  return x.dtype == F64 ? run<double>(x, backward, threads) : run<float>(x, backward, threads);
}

bool attention_forward(const Attention& x, int threads) { return run_any(x, false, threads); }
bool attention_backward(const Attention& x, int threads) { return run_any(x, true, threads); }

}  // namespace D2V_ISA
}  // namespace d2v
