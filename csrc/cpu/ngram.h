// An n-gram language model with backoff (Katz, 1987), as ARPA files have it. Words are numbers; d2v_fast/finetuning/ngram.py reads the file.
#pragma once
#include <stdint.h>

#include <unordered_map>
#include <vector>

namespace d2v {

class NGram {
 public:
  static constexpr int kMaxOrder = 8;

  // The last words that a probability depends on, newest first; as few as the model knows something about.
  struct State {
    int32_t words[kMaxOrder - 1];
    int32_t length = 0;
  };

  // order: words of the longest n-gram, 1 to kMaxOrder.
  explicit NGram(int order) : order_(order) {}

  // Adds an n-gram: `words` oldest first, natural logarithms of its probability and of its backoff weight (0: none).
  void add(const int32_t* words, int length, float log_probability, float log_backoff);

  // The state at the beginning of a sentence, after word `begin` (-1: nothing was before).
  State begin(int32_t begin) const;

  // Natural logarithm of the probability of `word` after `state`; `next` is the state after it. A word that no 1-gram names is
  // impossible: give the number of <unk> instead.
  double score(const State& state, int32_t word, State* next) const;

  int order() const { return order_; }

 private:
  struct Entry {
    float log_probability, log_backoff;
    bool has_longer = false;  // some n-gram begins with this one, so a state has to remember it
  };
  // Of an n-gram's words, newest first: a context is a prefix of the key of what follows it.
  static uint64_t extend(uint64_t key, int32_t word);

  int order_;
  std::unordered_map<uint64_t, Entry> entries_;
};

}  // namespace d2v
