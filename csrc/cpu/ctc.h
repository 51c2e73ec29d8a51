// Decoding of CTC outputs (Graves et al., 2006): prefix beam search with an n-gram model (Hannun et al., 2014), and alignment.
#pragma once
#include <stdint.h>

#include <unordered_map>
#include <vector>

#include "ngram.h"

namespace d2v {

// Which words the model knows, as sequences of tokens: a trie.
class Lexicon {
 public:
  void add(const int32_t* tokens, int length, int32_t word);
  // The node behind `node` (0: the root) and a token; -1 if no word goes on like that.
  int32_t child(int32_t node, int32_t token) const;
  // The word that ends at a node; -1 if none does.
  int32_t word(int32_t node) const { return node < 0 ? -1 : words_[node]; }

 private:
  std::unordered_map<uint64_t, int32_t> children_;
  std::vector<int32_t> words_ = {-1};
};

// What is added to the acoustic score: lm_weight * ln p(words) + word_score for each word. A word is a token, or what stands between two
// delimiters.
struct LanguageModel {
  const NGram* ngram = nullptr;
  const Lexicon* lexicon = nullptr;  // words of several tokens; nullptr: every token is a word
  const int32_t* words = nullptr;    // [symbols], the word of each token, if tokens are words
  int32_t delimiter = -1;            // the token between words, if they have several tokens
  int32_t begin = -1, end = -1;      // <s> and </s>; -1: the model has none
  int32_t unknown = -1;              // <unk>; -1: the model has none
  double unknown_score = -23.0;      // ln p of a word that is not in the model, where that has no <unk>
  double lm_weight = 0.0, word_score = 0.0;
};

struct Hypothesis {
  std::vector<int32_t> tokens;
  double acoustic;  // ln of the sum over all alignments that the beam kept
  double language;  // what the language model added
};

// The best `beam` prefixes, best first. log_probs: [frames, symbols], natural logarithms. A beam that holds all prefixes is exact.
std::vector<Hypothesis> ctc_beam_search(const float* log_probs, int64_t frames, int64_t symbols, int32_t blank, int64_t beam,
                                        const LanguageModel& model);

// The first frame and the frame behind the last of each token in the best single alignment, [count] each. Returns its log-probability,
// or minus infinity if there are too few frames.
double ctc_align(const float* log_probs, int64_t frames, int64_t symbols, int32_t blank, const int32_t* tokens, int64_t count,
                 int64_t* first, int64_t* behind);

}  // namespace d2v
