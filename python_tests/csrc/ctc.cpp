// The CTC decoder on buffers of exactly the sizes that it is told, for the sanitizers. Prints "ok".
#include "cpu/ctc.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "check.h"

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  d2v::NGram model(3);
  const int32_t one[][1] = {{0}, {1}, {2}, {3}, {4}};
  for (const auto& words : one) model.add(words, 1, -1.5f, -0.3f);
  const int32_t two[] = {0, 3}, three[] = {0, 3, 4};
  model.add(two, 2, -0.5f, -0.1f);
  model.add(three, 3, -0.2f, 0.0f);
  d2v::Lexicon lexicon;
  const int32_t spelling[] = {2, 3};
  lexicon.add(spelling, 2, 3);
  lexicon.add(spelling, 1, 4);
  CHECK(lexicon.word(lexicon.child(lexicon.child(0, 2), 3)) == 3);
  CHECK(lexicon.child(-1, 2) == -1);
  const std::vector<int32_t> words = {-1, 0, 3, 4};
  for (const int64_t frames : {0, 1, 2, 7, 40}) {
    for (const int64_t symbols : {1, 2, 4}) {
      std::vector<float> logs(frames * symbols);
      for (float& value : logs) value = normal(random) - 2.0f;
      if (frames > 2) logs[symbols] = -INFINITY;
      for (const int64_t beam : {1, 3, 50}) {
        for (int kind = 0; kind < 3; ++kind) {
          d2v::LanguageModel language;
          if (kind > 0 && symbols == 4) {
            language.ngram = &model;
            language.lexicon = kind == 1 ? &lexicon : nullptr;
            language.words = words.data();
            language.delimiter = kind == 1 ? 1 : -1;
            language.begin = 0, language.end = 1, language.unknown = kind == 1 ? 2 : -1;
            language.lm_weight = 0.7, language.word_score = 0.2;
          }
          const auto found = d2v::ctc_beam_search(logs.data(), frames, symbols, 0, beam, language);
          CHECK(static_cast<int64_t>(found.size()) <= beam);
          for (const auto& hypothesis : found) {
            const int64_t count = static_cast<int64_t>(hypothesis.tokens.size());
            std::vector<int64_t> first(count), behind(count);
            const double score = d2v::ctc_align(logs.data(), frames, symbols, 0, hypothesis.tokens.data(), count, first.data(), behind.data());
            CHECK(score <= hypothesis.acoustic + 1e-4 || beam < 50);
            for (int64_t i = 0; i < count && std::isfinite(score); ++i) CHECK(first[i] < behind[i] && behind[i] <= frames);
          }
        }
      }
    }
  }
  std::puts("ok");
}
