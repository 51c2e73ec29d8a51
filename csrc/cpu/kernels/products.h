// Matrix products of small matrices that are in the caches: a tile of the result stays in registers.
//
// The right factor is packed into panels of kPanel columns, each [depth][kPanel], so that a register holds columns; the last panel may be
// one register wide. Of the left factor single words are read, wherever they are. Each number of the result is one sum in order of the
// depth, whatever the threads. A word is a number or, where the processor multiplies them, a pair of bfloat16 numbers.
#pragma once
#include "lanes.h"

namespace d2v {
namespace D2V_ISA {

static constexpr int kPanelLanes = 2;                                    // registers across a panel
static constexpr int kTileRows = D2V_REGISTER_BYTES == 64 ? 12 : 6;      // of 32 and 16 registers: 24 and 12 sums, 2 columns, a factor
template <typename Real> static constexpr int64_t panel_width() { return kPanelLanes * lane_count<Real>(); }

static inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// What a word is multiplied as, a register of words, and one product added to a sum.
static inline float spread(float word) { return word; }
static inline double spread(double word) { return word; }
static inline FloatLanes load_words(const float* p) { return load(p); }
static inline DoubleLanes load_words(const double* p) { return load(p); }
static inline FloatLanes plus_product(FloatLanes sum, float factor, FloatLanes column) { return sum + factor * column; }
static inline DoubleLanes plus_product(DoubleLanes sum, double factor, DoubleLanes column) { return sum + factor * column; }

#ifdef __AVX512BF16__
#define D2V_PAIRS
// Two bfloat16 numbers that follow each other along the depth, the first in the low half. The processor sums their products in float.
struct Pair { uint32_t bits; };
static inline __m512i spread(Pair word) { return _mm512_set1_epi32(static_cast<int>(word.bits)); }
static inline __m512i load_words(const Pair* p) { return _mm512_loadu_si512(p); }
static inline FloatLanes plus_product(FloatLanes sum, __m512i factor, __m512i column) {
  return (FloatLanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)factor, (__m512bh)column);
}
#endif

// sums[i][j] += the sum over k of left[i][k * step] * panel[k][j].
template <int ROWS, int LANES, typename Word>
static inline void add_products(const Word* const* left, int64_t step, const Word* panel, int64_t depth, LanesOf<Word> (&sums)[ROWS][LANES]) {
  const int64_t lanes = lane_count<Word>();
  const Word* row[ROWS];
  for (int i = 0; i < ROWS; ++i) row[i] = left[i];
  for (int64_t k = 0; k < depth; ++k) {
    decltype(load_words(panel)) column[LANES];
    for (int j = 0; j < LANES; ++j) column[j] = load_words(panel + (k * LANES + j) * lanes);
    for (int i = 0; i < ROWS; ++i) {
      const auto factor = spread(row[i][k * step]);
      for (int j = 0; j < LANES; ++j) sums[i][j] = plus_product(sums[i][j], factor, column[j]);
    }
  }
}

// Rows of a matrix, `stride` words apart, with words `step` apart in a row.
template <typename Word>
struct Left {
  const Word* data;
  int64_t stride, step;
};

template <bool ADD, int LANES, typename Word>
static inline void multiply_panel(Left<Word> left, const Word* panel, int64_t depth, int64_t rows, RealOf<Word>* out, int64_t stride) {
  const int64_t lanes = lane_count<Word>();
  for (int64_t r = 0; r < rows; r += kTileRows) {
    LanesOf<Word> sums[kTileRows][LANES] = {};
    const Word* row[kTileRows];
    for (int i = 0; i < kTileRows; ++i) row[i] = left.data + (r + i) * left.stride;
    add_products<kTileRows, LANES>(row, left.step, panel, depth, sums);
    for (int i = 0; i < kTileRows; ++i)
      for (int j = 0; j < LANES; ++j) {
        RealOf<Word>* const to = out + (r + i) * stride + j * lanes;
        store(to, ADD ? load(to) + sums[i][j] : sums[i][j]);
      }
  }
}

// out [rows, columns] = (or +=) left * panels. `rows` is a multiple of kTileRows, `columns` one of the registers' width.
template <bool ADD, typename Word>
static inline void multiply(Left<Word> left, const Word* panels, int64_t depth, int64_t rows, int64_t columns, RealOf<Word>* out, int64_t stride) {
  const int64_t width = panel_width<Word>();
  int64_t c = 0;
  for (; c + width <= columns; c += width) multiply_panel<ADD, kPanelLanes>(left, panels + c * depth, depth, rows, out + c, stride);
  if (c < columns) multiply_panel<ADD, 1>(left, panels + c * depth, depth, rows, out + c, stride);
}

// A matrix [rows, columns] as panels of its columns, depth = rows. `columns` is a multiple of the registers' width.
template <typename Real>
static inline void pack_columns(const Real* x, int64_t stride, int64_t rows, int64_t columns, Real* panels) {
  const int64_t lanes = lane_count<Real>();
  for (int64_t c = 0, width; c < columns; c += width) {
    width = columns - c < panel_width<Real>() ? lanes : panel_width<Real>();
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < width; i += lanes) store(panels + c * rows + r * width + i, load(x + r * stride + c + i));
  }
}

// Its transpose, as panels of the matrix's rows, depth = its columns, in words. `rows` is a multiple of the registers' width.
template <typename Word>
static inline void pack_rows(const Word* x, int64_t stride, int64_t rows, int64_t columns, Word* panels) {
  for (int64_t r = 0, width; r < rows; r += width) {
    width = rows - r < panel_width<Word>() ? lane_count<Word>() : panel_width<Word>();
    Word* const to = panels + r * columns;
    for (int64_t i = 0; i < width; ++i)
      for (int64_t k = 0; k < columns; ++k) to[k * width + i] = x[(r + i) * stride + k];
  }
}

#ifdef D2V_PAIRS
static inline __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
// Numbers of two rows, 16 of each, as pairs.
static inline __m512i pair_up(__m256i first, __m256i second) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}
// pack_columns of bfloat16 numbers: a word has those of rows 2 r and 2 r + 1. `rows` is even.
static inline void pack_columns(const Pair* pairs, int64_t stride, int64_t rows, int64_t columns, Pair* panels) {
  const bf16* const x = reinterpret_cast<const bf16*>(pairs);
  for (int64_t c = 0, width; c < columns; c += width) {
    width = columns - c < panel_width<Pair>() ? lane_count<Pair>() : panel_width<Pair>();
    for (int64_t r = 0; r < rows; r += 2)
      for (int64_t i = 0; i < width; i += lane_count<Pair>()) {
        __m256i halves[2];
        for (int64_t half = 0; half < 2; ++half) memcpy(&halves[half], x + (r + half) * 2 * stride + c + i, sizeof halves[half]);
        _mm512_storeu_si512(panels + (c * rows + r * width) / 2 + i, pair_up(halves[0], halves[1]));
      }
  }
}
#endif

}  // namespace D2V_ISA
}  // namespace d2v
