// Masks as pure functions of (seed, epoch, sample id, view): no state, no clock, nothing of the batch around a sample.
//
// Every function fills mask [samples * views, positions] with 0 and 1, row b * views + v for view v of sample b, and returns how many
// ones it wrote; flat_rows then lists them. Arguments are checked in d2v_fast/masking. They run on the caller's thread: a whole
// batch takes tens to hundreds of microseconds, less than waking a team of threads gains.
#pragma once
#include <stdint.h>

namespace d2v {

// Whose masks: the numbers of view v of sample b come from the key (seed, algorithm, epoch, ids[b], v).
struct MaskKeys {
  uint64_t seed, epoch;
  const int64_t* ids;  // [samples]
  int64_t samples, views;
};

// Spans (wav2vec 2.0, section 3.1) within the first lengths[b] of `width` positions.
int64_t span_masks(const MaskKeys& keys, const int64_t* lengths, int64_t width, double probability, int64_t span, int64_t min_spans,
                   uint8_t* mask);

// Rectangles (BEiT, algorithm 1) on a grid of height * width patches.
int64_t block_masks(const MaskKeys& keys, int64_t height, int64_t width, int64_t count, int64_t min_area, double min_aspect, uint8_t* mask);

// Squares around `centres` random patches are kept (data2vec 2.0, section 3.2), then random patches until exactly `kept` are.
int64_t inverse_block_masks(const MaskKeys& keys, int64_t height, int64_t width, int64_t kept, int64_t centres, int64_t block, uint8_t* mask);

// Blocks around random centres are hidden (data2vec 2.0, section 3.2), int(length * per_position) of them within the first
// lengths[b] of `width` positions; then random positions are shown again, or hidden as well, until int(length * ratio) are.
int64_t fixed_span_masks(const MaskKeys& keys, const int64_t* lengths, int64_t width, double ratio, double per_position, int64_t block,
                         uint8_t* mask);

// All but int(length * kept_share) random positions, at least one, of the first lengths[b] of `width` are hidden.
int64_t random_masks(const MaskKeys& keys, const int64_t* lengths, int64_t width, double kept_share, uint8_t* mask);

// What a selected token becomes: itself with probability `keep`, a random id with probability `random`, else `mask_id`.
struct TokenReplacement {
  double keep, random;
  int64_t mask_id, vocab_size;
  const int64_t* excluded;  // ascending, unique ids in [0, vocab_size) that are never drawn
  int64_t excluded_count;
};

// Spans of tokens with starts anywhere in the first lengths[b] of `width`; masked_tokens [samples * views, width] is tokens
// [samples, width] with the selected ones replaced.
int64_t token_masks(const MaskKeys& keys, const int64_t* tokens, const int64_t* lengths, int64_t width, double probability, int64_t span,
                    const TokenReplacement& replacement, uint8_t* mask, int64_t* masked_tokens);

// rows [masked]: the flat indices of the ones in mask, ascending; `masked` is their number.
void flat_rows(const uint8_t* mask, int64_t masked, int64_t* rows);

// kept: the flat indices, ascending, of the zeros within the first lengths[b] of `width` positions of every row of mask
// [samples * views, width]; returns how many there are. `kept` has room for one more, unless there is no position at all.
int64_t flat_kept(const uint8_t* mask, const int64_t* lengths, int64_t samples, int64_t views, int64_t width, int64_t* kept);

}  // namespace d2v
