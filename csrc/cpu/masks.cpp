#include "masks.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "portable_math.h"
#include "rng.h"

namespace d2v {
namespace {

// Calls row(stream, b, mask_row) for every view of every sample, each with the stream of its own key; returns the sum of the results.
template <typename Row>
int64_t for_each_row(const MaskKeys& keys, const char* domain, int64_t positions, uint8_t* mask, Row row) {
  if (keys.samples * keys.views * positions == 0) return 0;
  memset(mask, 0, static_cast<size_t>(keys.samples * keys.views * positions));
  const uint64_t base = absorb(absorb(absorb(0, keys.seed), hash_text(domain, strlen(domain))), keys.epoch);
  int64_t masked = 0;
  for (int64_t b = 0; b < keys.samples; ++b) {
    const uint64_t sample = absorb(base, static_cast<uint64_t>(keys.ids[b]));
    for (int64_t v = 0; v < keys.views; ++v, mask += positions) {
      Stream stream(absorb(sample, static_cast<uint64_t>(v)));
      masked += row(stream, b, mask);
    }
  }
  return masked;
}

// A uniform random subset of `count` of the numbers 0 ... n - 1, as ones in chosen [n] (zero before); Floyd's algorithm: no list, no retry.
template <typename Visit>
void choose(Stream& stream, int64_t n, int64_t count, uint8_t* chosen, Visit visit) {
  for (int64_t last = n - count; last < n; ++last) {
    int64_t pick = static_cast<int64_t>(stream.below(static_cast<uint64_t>(last) + 1));
    if (chosen[pick]) pick = last;
    chosen[pick] = 1;
    visit(pick);
  }
}

// The expected number of spans, probability * positions / span, rounded up or down at random so that its mean is right.
int64_t span_count(Stream& stream, double probability, int64_t positions, int64_t span) {
  return static_cast<int64_t>(probability * static_cast<double>(positions) / static_cast<double>(span) + stream.uniform());
}

// Masks positions start ... start + span - 1, those below `positions`.
void paint(uint8_t* mask, int64_t start, int64_t span, int64_t positions) {
  if (start < positions) memset(mask + start, 1, static_cast<size_t>(std::min(span, positions - start)));
}

int64_t count_ones(const uint8_t* mask, int64_t positions) {
  int64_t ones = 0, t = 0;
  for (; t + 8 <= positions; t += 8) {
    uint64_t eight;
    memcpy(&eight, mask + t, 8);
    ones += static_cast<int64_t>(eight * 0x0101010101010101u >> 56);  // the sum of the eight bytes
  }
  for (; t < positions; ++t) ones += mask[t];
  return ones;
}

// Turns `count` random ones of `cells` into `value`s: positions with cells[i] != value are listed and a random subset is set.
void set_random(Stream& stream, uint8_t* cells, int64_t positions, uint8_t value, int64_t count, std::vector<int64_t>& list) {
  list.clear();
  for (int64_t i = 0; i < positions; ++i)
    if (cells[i] != value) list.push_back(i);
  for (int64_t k = 0; k < count; ++k) {  // the first `count` steps of a Fisher-Yates shuffle
    const auto pick = k + static_cast<int64_t>(stream.below(list.size() - static_cast<size_t>(k)));
    std::swap(list[static_cast<size_t>(k)], list[static_cast<size_t>(pick)]);
    cells[list[static_cast<size_t>(k)]] = value;
  }
}

}  // namespace

int64_t span_masks(const MaskKeys& keys, const int64_t* lengths, int64_t width, double probability, int64_t span, int64_t min_spans,
                   uint8_t* mask) {
  std::vector<uint8_t> chosen;
  return for_each_row(keys, "mask/span", width, mask, [&](Stream& stream, int64_t b, uint8_t* row) -> int64_t {
    const int64_t length = lengths[b];
    if (length == 0) return 0;
    const int64_t spans = std::min(std::max(min_spans, span_count(stream, probability, length, span)), length);
    // Starts lie where a whole span fits. A sequence too short for that many different starts gets one more start than spans, and
    // spans are cut at its end.
    const int64_t starts = length - span > spans ? length - span : spans + 1;
    chosen.assign(static_cast<size_t>(starts), 0);
    choose(stream, starts, spans, chosen.data(), [&](int64_t start) { paint(row, start, span, length); });
    const int64_t masked = count_ones(row, length);
    if (masked < length) return masked;
    row[stream.below(static_cast<uint64_t>(length))] = 0;  // a row that hides everything teaches nothing: one position stays visible
    return masked - 1;
  });
}

int64_t block_masks(const MaskKeys& keys, int64_t height, int64_t width, int64_t count, int64_t min_area, double min_aspect, uint8_t* mask) {
  const double log_aspect = portable_log(min_aspect);
  return for_each_row(keys, "mask/block", height * width, mask, [&](Stream& stream, int64_t, uint8_t* row) {
    int64_t masked = 0;
    for (bool grew = true; grew && masked < count;) {
      grew = false;
      const int64_t room = count - masked;
      for (int attempt = 0; attempt < 10 && !grew; ++attempt) {
        const double area = static_cast<double>(min_area) + static_cast<double>(room - min_area) * stream.uniform();
        const double aspect = portable_exp(log_aspect * (1.0 - 2.0 * stream.uniform()));
        const auto h = static_cast<int64_t>(nearbyint(sqrt(area * aspect)));  // halves to even; sqrt is exactly rounded everywhere
        const auto w = static_cast<int64_t>(nearbyint(sqrt(area / aspect)));
        if (h >= height || w >= width) continue;
        const auto top = static_cast<int64_t>(stream.below(static_cast<uint64_t>(height - h) + 1));
        const auto left = static_cast<int64_t>(stream.below(static_cast<uint64_t>(width - w) + 1));
        uint8_t* corner = row + top * width + left;
        int64_t fresh = h * w;
        for (int64_t y = 0; y < h; ++y) fresh -= count_ones(corner + y * width, w);
        if (fresh == 0 || fresh > room) continue;
        for (int64_t y = 0; y < h; ++y) memset(corner + y * width, 1, static_cast<size_t>(w));
        masked += fresh;
        grew = true;
      }
    }
    return masked;
  });
}

int64_t inverse_block_masks(const MaskKeys& keys, int64_t height, int64_t width, int64_t kept, int64_t centres, int64_t block, uint8_t* mask) {
  const int64_t patches = height * width;
  std::vector<int64_t> list;
  return for_each_row(keys, "mask/inverse_block", patches, mask, [&](Stream& stream, int64_t, uint8_t* row) {
    memset(row, 1, static_cast<size_t>(patches));
    for (int64_t c = 0; c < centres; ++c) {
      const auto centre = static_cast<int64_t>(stream.below(static_cast<uint64_t>(patches)));
      const int64_t top = centre / width - block / 2, left = centre % width - block / 2;
      const int64_t x0 = std::max<int64_t>(left, 0), x1 = std::min(left + block, width);
      for (int64_t y = std::max<int64_t>(top, 0); y < std::min(top + block, height); ++y)
        memset(row + y * width + x0, 0, static_cast<size_t>(x1 - x0));
    }
    const int64_t excess = patches - count_ones(row, patches) - kept;  // patches kept beyond, or short of, the exact number
    if (excess > 0) set_random(stream, row, patches, 1, excess, list);
    if (excess < 0) set_random(stream, row, patches, 0, -excess, list);
    return patches - kept;
  });
}

int64_t fixed_span_masks(const MaskKeys& keys, const int64_t* lengths, int64_t width, double ratio, double per_position, int64_t block,
                         uint8_t* mask) {
  std::vector<int64_t> list;
  return for_each_row(keys, "mask/fixed_span", width, mask, [&](Stream& stream, int64_t b, uint8_t* row) -> int64_t {
    const int64_t length = lengths[b];
    if (length == 0) return 0;
    const auto hidden = static_cast<int64_t>(static_cast<double>(length) * ratio);
    const auto centres = static_cast<int64_t>(static_cast<double>(length) * per_position);
    for (int64_t c = 0; c < centres; ++c) {
      const int64_t left = static_cast<int64_t>(stream.below(static_cast<uint64_t>(length))) - block / 2;
      const int64_t start = std::max<int64_t>(left, 0);
      paint(row, start, left + block - start, length);
    }
    const int64_t excess = count_ones(row, length) - hidden;
    if (excess > 0) set_random(stream, row, length, 0, excess, list);
    if (excess < 0) set_random(stream, row, length, 1, -excess, list);
    return hidden;
  });
}

int64_t random_masks(const MaskKeys& keys, const int64_t* lengths, int64_t width, double kept_share, uint8_t* mask) {
  return for_each_row(keys, "mask/random", width, mask, [&](Stream& stream, int64_t b, uint8_t* row) -> int64_t {
    const int64_t length = lengths[b];
    if (length == 0) return 0;
    const int64_t kept = std::max<int64_t>(static_cast<int64_t>(static_cast<double>(length) * kept_share), 1);
    choose(stream, length, length - kept, row, [](int64_t) {});
    return length - kept;
  });
}

int64_t token_masks(const MaskKeys& keys, const int64_t* tokens, const int64_t* lengths, int64_t width, double probability, int64_t span,
                    const TokenReplacement& replacement, uint8_t* mask, int64_t* masked_tokens) {
  std::vector<uint8_t> chosen;
  const auto candidates = static_cast<uint64_t>(replacement.vocab_size - replacement.excluded_count);
  return for_each_row(keys, "mask/token", width, mask, [&](Stream& stream, int64_t b, uint8_t* row) -> int64_t {
    const int64_t length = lengths[b];
    const int64_t* source = tokens + b * width;
    int64_t* target = masked_tokens;
    masked_tokens += width;
    // Unlike speech, starts lie anywhere and spans are cut at the end, so all of a sequence may be selected.
    const int64_t spans = std::min(span_count(stream, probability, length, span), length);
    chosen.assign(static_cast<size_t>(length), 0);
    memcpy(target, source, static_cast<size_t>(width) * sizeof(int64_t));
    choose(stream, length, spans, chosen.data(), [&](int64_t start) {
      paint(row, start, span, length);
      std::fill(target + start, target + std::min(start + span, length), replacement.mask_id);
    });
    if (replacement.keep + replacement.random > 0) {
      for (int64_t t = 0; t < length; ++t) {
        if (!row[t]) continue;
        const double fate = stream.uniform();
        if (fate < replacement.keep) {
          target[t] = source[t];
        } else if (fate < replacement.keep + replacement.random) {
          target[t] = static_cast<int64_t>(stream.below(candidates));
          for (int64_t i = 0; i < replacement.excluded_count && target[t] >= replacement.excluded[i]; ++i) ++target[t];
        }
      }
    }
    return count_ones(row, length);
  });
}

void flat_rows(const uint8_t* mask, int64_t masked, int64_t* rows) {
  // Without a branch: every index is written, and the next one overwrites it unless the position is masked.
  for (int64_t i = 0, found = 0; found < masked; ++i) {
    rows[found] = i;
    found += mask[i];
  }
}

int64_t flat_kept(const uint8_t* mask, const int64_t* lengths, int64_t samples, int64_t views, int64_t width, int64_t* kept) {
  int64_t found = 0;
  for (int64_t row = 0; row < samples * views; ++row) {
    const int64_t first = row * width;
    for (int64_t i = first; i < first + lengths[row / views]; ++i) {
      kept[found] = i;  // without a branch, as in flat_rows
      found += 1 - mask[i];
    }
  }
  return found;
}

}  // namespace d2v
