// The masks and the random numbers under AddressSanitizer and UndefinedBehaviorSanitizer: many shapes in buffers of exactly the size
// that is promised, each row checked against what its algorithm allows.
#include <math.h>

#include <algorithm>
#include <vector>

#include "cpu/masks.h"
#include "cpu/portable_math.h"
#include "cpu/rng.h"

#include "check.h"

using std::vector;

namespace {

d2v::MaskKeys keys(const vector<int64_t>& ids, int64_t views) { return {7, 3, ids.data(), static_cast<int64_t>(ids.size()), views}; }

int64_t ones(const vector<uint8_t>& mask, size_t row, size_t width) {
  return std::count(mask.begin() + static_cast<long>(row * width), mask.begin() + static_cast<long>((row + 1) * width), 1);
}

void check_rows(const vector<uint8_t>& mask, int64_t masked) {
  CHECK(masked == std::count(mask.begin(), mask.end(), 1));
  CHECK(masked + std::count(mask.begin(), mask.end(), 0) == static_cast<int64_t>(mask.size()));
  vector<int64_t> rows(static_cast<size_t>(masked));
  d2v::flat_rows(mask.data(), masked, rows.data());
  for (size_t i = 0; i < rows.size(); ++i) {
    CHECK(mask[static_cast<size_t>(rows[i])] == 1);
    CHECK(i == 0 || rows[i - 1] < rows[i]);
  }
}

// Zeros within the lengths: all of them, ascending, in a buffer with room for one more.
void check_kept(const vector<uint8_t>& mask, const vector<int64_t>& lengths, int64_t views, size_t width) {
  vector<int64_t> expected;
  for (size_t i = 0; i < mask.size(); ++i) {
    const auto within = static_cast<int64_t>(i % width);
    if (within >= lengths[i / width / static_cast<size_t>(views)]) CHECK(mask[i] == 0);
    else if (!mask[i]) expected.push_back(static_cast<int64_t>(i));
  }
  vector<int64_t> kept(expected.size() + 1);
  CHECK(d2v::flat_kept(mask.data(), lengths.data(), static_cast<int64_t>(lengths.size()), views, static_cast<int64_t>(width), kept.data()) ==
        static_cast<int64_t>(expected.size()));
  CHECK(std::equal(expected.begin(), expected.end(), kept.begin()));
}

}  // namespace

void test_spans() {
  const vector<int64_t> ids{0, 5, -3, INT64_MAX, 9, 2};
  for (int64_t width : {0, 1, 2, 7, 31, 100})
    for (int64_t span : {1, 3, 10, 1000})
      for (double probability : {0.0, 0.65, 1.0})
        for (int64_t min_spans : {0, 1, 50}) {
          const vector<int64_t> lengths{width, width / 2, 0, width > 0 ? 1 : 0, width, width / 3};
          vector<uint8_t> mask(ids.size() * 2 * static_cast<size_t>(width), 9);
          check_rows(mask, d2v::span_masks(keys(ids, 2), lengths.data(), width, probability, span, min_spans, mask.data()));
          for (size_t row = 0; row < ids.size() * 2; ++row) {
            const int64_t length = lengths[row / 2], masked = ones(mask, row, static_cast<size_t>(width));
            CHECK(masked == 0 || masked < length);
            for (int64_t t = length; t < width; ++t) CHECK(mask[row * static_cast<size_t>(width) + static_cast<size_t>(t)] == 0);
          }
        }
}

void test_fixed_counts() {
  const vector<int64_t> ids{0, 5, -3, INT64_MAX, 9, 2};
  for (int64_t width : {0, 1, 2, 7, 31, 100})
    for (double share : {0.001, 0.48, 0.5, 0.999}) {
      const vector<int64_t> lengths{width, width / 2, 0, width > 0 ? 1 : 0, width, width / 3};
      const auto positions = static_cast<size_t>(width);
      vector<uint8_t> mask(ids.size() * 2 * positions, 9);
      for (int64_t block : {1, 2, 5, 1000})
        for (double per_position : {0.0, 0.11, 2.0}) {
          check_rows(mask, d2v::fixed_span_masks(keys(ids, 2), lengths.data(), width, share, per_position, block, mask.data()));
          check_kept(mask, lengths, 2, positions);
          for (size_t row = 0; row < ids.size() * 2; ++row)
            CHECK(ones(mask, row, positions) == static_cast<int64_t>(static_cast<double>(lengths[row / 2]) * share));
        }
      check_rows(mask, d2v::random_masks(keys(ids, 2), lengths.data(), width, share, mask.data()));
      check_kept(mask, lengths, 2, positions);
      for (size_t row = 0; row < ids.size() * 2; ++row) {
        const int64_t length = lengths[row / 2], shown = length - ones(mask, row, positions);
        CHECK(shown == std::min(length, std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(length) * share))));
      }
    }
}

void test_blocks() {
  const vector<int64_t> ids{0, 5, -3, INT64_MAX};
  for (int64_t height : {1, 2, 5, 14})
    for (int64_t width : {1, 3, 14, 17}) {
      const int64_t patches = height * width;
      for (int64_t count : {int64_t{0}, patches / 2, patches})
        for (double aspect : {0.001, 0.3, 1.0}) {
          vector<uint8_t> mask(ids.size() * 3 * static_cast<size_t>(patches), 9);
          check_rows(mask, d2v::block_masks(keys(ids, 3), height, width, count, 4, aspect, mask.data()));
          for (size_t row = 0; row < ids.size() * 3; ++row) CHECK(ones(mask, row, static_cast<size_t>(patches)) <= count);
        }
      for (int64_t kept : {int64_t{0}, patches / 5, patches})
        for (int64_t block : {1, 2, 3, 40})
          for (int64_t centres : {0, 1, 9}) {
            vector<uint8_t> mask(ids.size() * 3 * static_cast<size_t>(patches), 9);
            check_rows(mask, d2v::inverse_block_masks(keys(ids, 3), height, width, kept, centres, block, mask.data()));
            for (size_t row = 0; row < ids.size() * 3; ++row) CHECK(ones(mask, row, static_cast<size_t>(patches)) == patches - kept);
          }
    }
}

void test_tokens() {
  const vector<int64_t> ids{0, 5, -3, INT64_MAX}, excluded{0, 1, 8, 9};
  for (int64_t width : {0, 1, 2, 40})
    for (int64_t span : {1, 4, 1000})
      for (double probability : {0.0, 0.4, 1.0})
        for (double share : {0.0, 0.3, 0.5}) {
          const vector<int64_t> tokens(ids.size() * static_cast<size_t>(width), 4), lengths{width, width / 2, 0, width};
          const d2v::TokenReplacement replacement{share, share, 9, 10, excluded.data(), static_cast<int64_t>(excluded.size())};
          vector<uint8_t> mask(tokens.size() * 2, 9);
          vector<int64_t> masked_tokens(mask.size(), -1);
          check_rows(mask, d2v::token_masks(keys(ids, 2), tokens.data(), lengths.data(), width, probability, span, replacement, mask.data(),
                                            masked_tokens.data()));
          for (size_t i = 0; i < mask.size(); ++i) {
            const int64_t token = masked_tokens[i];
            CHECK(token == 4 || mask[i]);
            CHECK((token >= 2 && token <= 7) || token == 9);
          }
        }
}

void test_numbers() {
  d2v::Stream stream(d2v::absorb(0, 12));
  for (uint64_t n : {uint64_t{1}, uint64_t{3}, uint64_t{1} << 63, ~uint64_t{0}})
    for (int i = 0; i < 1000; ++i) CHECK(stream.below(n) < n);
  // 3 * 2^62: a quarter of the draws is rejected, and the lower, middle and upper thirds stay equally likely.
  int thirds[3] = {0, 0, 0};
  for (int i = 0; i < 30000; ++i) ++thirds[stream.below(uint64_t{3} << 62) >> 62];
  for (int third : thirds) CHECK(abs(third - 10000) < 400);
  for (int64_t n : {0, 1, 2, 1000}) {
    vector<int64_t> order(static_cast<size_t>(n));
    d2v::fill_permutation(5, n, order.data());
    std::sort(order.begin(), order.end());
    for (int64_t i = 0; i < n; ++i) CHECK(order[static_cast<size_t>(i)] == i);
  }
  for (double x = -7; x <= 7; x += 0.001) CHECK(fabs(d2v::portable_exp(x) / exp(x) - 1) < 2e-15);
  for (double x = 1e-3; x <= 1e3; x *= 1.01) CHECK(fabs(d2v::portable_log(x) - log(x)) <= 1e-15 * std::max(1.0, fabs(log(x))));
  CHECK(d2v::portable_log(1.0) == 0.0);
  CHECK(d2v::portable_exp(0.0) == 1.0);
}

int main() {
  test_spans();
  test_fixed_counts();
  test_blocks();
  test_tokens();
  test_numbers();
  puts("ok");
}
