// Matrix products of small matrices that are in the caches: a tile of the result stays in registers.
//
// The right factor is packed into panels of kPanel columns, each [depth][kPanel] and whole, so that a register holds columns; of the left
// one single numbers are read, wherever they are. Each number of the result is one sum in order of the depth, whatever the threads.
#pragma once
#include "lanes.h"

namespace d2v {
namespace D2V_ISA {

static constexpr int kPanelLanes = 2;                                    // registers across a panel
static constexpr int kTileRows = D2V_REGISTER_BYTES == 64 ? 12 : 6;      // of 32 and 16 registers: 24 and 12 sums, 2 columns, a factor
template <typename Real> static constexpr int64_t panel_width() { return kPanelLanes * lane_count<Real>(); }

static inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// sums[i][j] += the sum over k of left[i][k * step] * panel[k][j].
template <int ROWS, int LANES, typename Real>
static inline void add_products(const Real* const* left, int64_t step, const Real* panel, int64_t depth, LanesOf<Real> (&sums)[ROWS][LANES]) {
  typedef LanesOf<Real> Lanes;
  const int64_t lanes = lane_count<Real>();
  const Real* row[ROWS];
  for (int i = 0; i < ROWS; ++i) row[i] = left[i];
  for (int64_t k = 0; k < depth; ++k) {
    Lanes column[LANES];
    for (int j = 0; j < LANES; ++j) column[j] = load(panel + (k * LANES + j) * lanes);
    for (int i = 0; i < ROWS; ++i) {
      const Real factor = row[i][k * step];
      for (int j = 0; j < LANES; ++j) sums[i][j] += factor * column[j];
    }
  }
}

// Rows of a matrix, `stride` apart, with numbers `step` apart in a row.
template <typename Real>
struct Left {
  const Real* data;
  int64_t stride, step;
};

// out [rows, columns] = (or +=) left * panels. `rows` is a multiple of kTileRows, `columns` one of the panels' width.
template <bool ADD, typename Real>
static inline void multiply(Left<Real> left, const Real* panels, int64_t depth, int64_t rows, int64_t columns, Real* out, int64_t stride) {
  typedef LanesOf<Real> Lanes;
  const int64_t width = panel_width<Real>(), lanes = lane_count<Real>();
  for (int64_t c = 0; c < columns; c += width)
    for (int64_t r = 0; r < rows; r += kTileRows) {
      Lanes sums[kTileRows][kPanelLanes] = {};
      const Real* row[kTileRows];
      for (int i = 0; i < kTileRows; ++i) row[i] = left.data + (r + i) * left.stride;
      add_products<kTileRows, kPanelLanes>(row, left.step, panels + c * depth, depth, sums);
      for (int i = 0; i < kTileRows; ++i)
        for (int j = 0; j < kPanelLanes; ++j) {
          Real* const to = out + (r + i) * stride + c + j * lanes;
          store(to, ADD ? load(to) + sums[i][j] : sums[i][j]);
        }
    }
}

// A matrix [rows, columns] (numbers in a row side by side) as panels of its columns, depth = rows; padded with zeros to `padded` columns
// and `depth` rows.
template <typename Real>
static inline void pack_columns(const Real* x, int64_t stride, int64_t rows, int64_t columns, int64_t depth, int64_t padded, Real* panels) {
  const int64_t width = panel_width<Real>();
  for (int64_t c = 0; c < padded; c += width) {
    const int64_t n = columns - c < width ? (columns > c ? columns - c : 0) : width;
    Real* to = panels + c * depth;
    for (int64_t r = 0; r < depth; ++r, to += width) {
      const int64_t there = r < rows ? n : 0;
      for (int64_t i = 0; i < there; ++i) to[i] = x[r * stride + c + i];
      for (int64_t i = there; i < width; ++i) to[i] = 0;
    }
  }
}

// Its transpose [columns, rows] as panels, depth = columns padded to `depth`, and `padded` rows.
template <typename Real>
static inline void pack_rows(const Real* x, int64_t stride, int64_t rows, int64_t columns, int64_t depth, int64_t padded, Real* panels) {
  const int64_t width = panel_width<Real>();
  for (int64_t r = 0; r < padded; r += width) {
    Real* const to = panels + r * depth;
    for (int64_t i = 0; i < width; ++i)
      for (int64_t k = 0; k < depth; ++k) to[k * width + i] = r + i < rows && k < columns ? x[(r + i) * stride + k] : 0;
  }
}

}  // namespace D2V_ISA
}  // namespace d2v
