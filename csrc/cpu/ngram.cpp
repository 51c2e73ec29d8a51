#include "ngram.h"

#include <limits>

namespace d2v {

uint64_t NGram::extend(uint64_t key, int32_t word) {
  // splitmix64 of both: 64 bits, so that two of a billion n-grams share a key with a chance of 3 %.
  uint64_t x = key * 0x9e3779b97f4a7c15ull + static_cast<uint64_t>(static_cast<uint32_t>(word)) + 1;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

void NGram::add(const int32_t* words, int length, float log_probability, float log_backoff) {
  uint64_t key = 0;
  for (int i = length - 1; i >= 0; --i) key = extend(key, words[i]);
  Entry& entry = entries_[key];
  entry.log_probability = log_probability;
  entry.log_backoff = log_backoff;
  if (length == 1) return;
  // The context of this n-gram is all but its newest word.
  uint64_t context = 0;
  for (int i = length - 2; i >= 0; --i) context = extend(context, words[i]);
  const auto found = entries_.find(context);
  if (found != entries_.end()) found->second.has_longer = true;
}

NGram::State NGram::begin(int32_t begin) const {
  State state;
  if (begin >= 0 && order_ > 1) {
    state.words[0] = begin;
    state.length = 1;
  }
  return state;
}

double NGram::score(const State& state, int32_t word, State* next) const {
  // The longest n-gram that ends in `word` and whose other words are the newest of the state.
  int matched = 0;
  float log_probability = -std::numeric_limits<float>::infinity();
  uint64_t key = extend(0, word);
  int remembered = 0;  // words of the next state
  for (int length = 1;; ++length) {
    const auto found = entries_.find(key);
    if (found != entries_.end()) {
      matched = length;
      log_probability = found->second.log_probability;
      if (found->second.has_longer || found->second.log_backoff != 0.0f) remembered = length;
    } else if (length == 1) {
      break;
    }
    if (length > state.length || length >= order_) break;
    key = extend(key, state.words[length - 1]);
  }
  double score = log_probability;
  // Backing off from longer contexts costs their weights: those of contexts with `matched` words and more.
  uint64_t context = 0;
  for (int length = 1; length <= state.length; ++length) {
    context = extend(context, state.words[length - 1]);
    if (length < matched) continue;
    const auto found = entries_.find(context);
    if (found != entries_.end()) score += found->second.log_backoff;
  }
  if (next != nullptr) {
    if (remembered > order_ - 1) remembered = order_ - 1;
    State after;
    after.length = remembered;
    if (remembered > 0) after.words[0] = word;
    for (int i = 1; i < remembered; ++i) after.words[i] = state.words[i - 1];
    *next = after;
  }
  return score;
}

}  // namespace d2v
