#include "ctc.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace d2v {

namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

double add_logs(double a, double b) {
  if (a < b) std::swap(a, b);
  return b == kNever ? a : a + std::log1p(std::exp(b - a));
}

uint64_t extend(uint64_t hash, int32_t token) {
  uint64_t x = hash * 0x9e3779b97f4a7c15ull + static_cast<uint64_t>(static_cast<uint32_t>(token)) + 1;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// A prefix that was in the beam at some frame; its tokens are those of its parents and its own.
struct Node {
  int32_t parent, token;
};

// A prefix in the beam.
struct Prefix {
  int32_t node;
  int32_t last;   // token; -1 if empty
  uint64_t hash;    // of the tokens: 64 bits tell the prefixes of one beam apart
  uint64_t before;  // the hash without the last token
  double blank, other;  // ln of the sum over alignments that end in a blank, and in the last token
  double language;
  NGram::State state;
  int32_t spelled;  // place in the lexicon of the word that is being written; -1: no word goes on like that
  bool writing;     // whether it has a token already

  double acoustic() const { return add_logs(blank, other); }
  double total() const { return acoustic() + language; }
};

// The score of one more word, and the state after it.
double word_cost(const LanguageModel& model, const NGram::State& state, int32_t word, NGram::State* next) {
  if (word < 0) word = model.unknown;
  if (word < 0) {
    *next = model.ngram->begin(-1);
    return model.lm_weight * model.unknown_score + model.word_score;
  }
  return model.lm_weight * model.ngram->score(state, word, next) + model.word_score;
}

// `prefix` and one more token, as far as the language model goes.
void speak(const LanguageModel& model, int32_t token, Prefix* prefix) {
  if (model.ngram == nullptr) return;
  if (model.lexicon == nullptr) {
    prefix->language += word_cost(model, prefix->state, model.words[token], &prefix->state);
  } else if (token != model.delimiter) {
    prefix->spelled = model.lexicon->child(prefix->writing ? prefix->spelled : 0, token);
    prefix->writing = true;
  } else if (prefix->writing) {
    prefix->language += word_cost(model, prefix->state, model.lexicon->word(prefix->spelled), &prefix->state);
    prefix->writing = false;
    prefix->spelled = 0;
  }
}

// The word that is being written ends, and so does the sentence.
void finish(const LanguageModel& model, Prefix* prefix) {
  if (model.ngram == nullptr) return;
  if (model.lexicon != nullptr) speak(model, model.delimiter, prefix);
  if (model.end >= 0) prefix->language += model.lm_weight * model.ngram->score(prefix->state, model.end, nullptr);
}

// A prefix of the next frame: one of the beam that stays as it is (token -1), or with one more token.
struct Candidate {
  double bound;  // no smaller than its score: a word costs at least nothing but its word_score
  int32_t from, token;
};

}  // namespace

void Lexicon::add(const int32_t* tokens, int length, int32_t word) {
  int32_t node = 0;
  for (int i = 0; i < length; ++i) {
    const uint64_t key = static_cast<uint64_t>(node) << 32 | static_cast<uint32_t>(tokens[i]);
    const auto made = children_.emplace(key, static_cast<int32_t>(words_.size()));
    if (made.second) words_.push_back(-1);
    node = made.first->second;
  }
  words_[node] = word;
}

int32_t Lexicon::child(int32_t node, int32_t token) const {
  if (node < 0) return -1;
  const auto found = children_.find(static_cast<uint64_t>(node) << 32 | static_cast<uint32_t>(token));
  return found == children_.end() ? -1 : found->second;
}

std::vector<Hypothesis> ctc_beam_search(const float* log_probs, int64_t frames, int64_t symbols, int32_t blank, int64_t beam,
                                        const LanguageModel& model) {
  std::vector<Node> nodes = {{-1, -1}};
  Prefix empty{0, -1, 0, 0, 0.0, kNever, 0.0, {}, 0, false};
  if (model.ngram != nullptr) empty.state = model.ngram->begin(model.begin);
  std::vector<Prefix> current = {empty}, next, kept;
  std::vector<double> incoming;
  std::vector<int32_t> grown_into;  // [beam, symbols], the prefix of the beam that one becomes with a token; -1: none
  std::vector<Candidate> candidates;
  std::unordered_map<uint64_t, int32_t> place;
  // A word may also gain: lm_weight below 0 turns costs into gains without bound, which d2v_fast/finetuning/ctc.py refuses.
  const double gain = model.ngram == nullptr ? 0.0 : std::max(0.0, model.word_score);

  for (int64_t t = 0; t < frames; ++t, log_probs += symbols) {
    place.clear();
    for (size_t i = 0; i < current.size(); ++i) place.emplace(current[i].hash, static_cast<int32_t>(i));
    grown_into.assign(current.size() * symbols, -1);
    for (size_t i = 0; i < current.size(); ++i) {
      const auto parent = current[i].last < 0 ? place.end() : place.find(current[i].before);
      if (parent != place.end()) grown_into[parent->second * symbols + current[i].last] = static_cast<int32_t>(i);
    }
    // Prefixes that stay: a blank, or their last token again; and those that another one grows into.
    next = current;
    incoming.assign(current.size(), kNever);
    candidates.clear();
    for (size_t i = 0; i < current.size(); ++i) {
      const Prefix& prefix = current[i];
      const double whole = prefix.acoustic();
      next[i].blank = whole + log_probs[blank];
      next[i].other = prefix.last < 0 ? kNever : prefix.other + log_probs[prefix.last];
      for (int32_t token = 0; token < symbols; ++token) {
        if (token == blank) continue;
        const double grown = (token == prefix.last ? prefix.blank : whole) + log_probs[token];
        if (grown == kNever) continue;
        const int32_t there = grown_into[i * symbols + token];
        if (there >= 0) {
          incoming[there] = add_logs(incoming[there], grown);
        } else {
          candidates.push_back({grown + prefix.language + gain, static_cast<int32_t>(i), token});
        }
      }
    }
    for (size_t i = 0; i < next.size(); ++i) {
      next[i].other = add_logs(next[i].other, incoming[i]);
      candidates.push_back({next[i].total(), static_cast<int32_t>(i), -1});
    }
    // Best bound first: when `beam` scores are found that no bound is above, the rest cannot be among the best.
    const auto worse = [](const Candidate& a, const Candidate& b) {
      return a.bound != b.bound ? a.bound < b.bound : a.from != b.from ? a.from > b.from : a.token > b.token;
    };
    std::make_heap(candidates.begin(), candidates.end(), worse);
    kept.clear();
    std::vector<double> heap;  // the best scores so far, the worst of them in front
    for (auto end = candidates.end(); end != candidates.begin();) {
      std::pop_heap(candidates.begin(), end, worse);
      const Candidate candidate = *--end;
      const bool full = static_cast<int64_t>(heap.size()) >= beam;
      if (candidate.bound == kNever || (full && candidate.bound <= heap.front())) break;
      Prefix prefix = candidate.token < 0 ? next[candidate.from] : current[candidate.from];
      if (candidate.token >= 0) {
        const double grown = (candidate.token == prefix.last ? prefix.blank : prefix.acoustic()) + log_probs[candidate.token];
        prefix.before = prefix.hash;
        prefix.hash = extend(prefix.hash, candidate.token);
        prefix.last = candidate.token;
        prefix.blank = kNever;
        prefix.other = grown;
        speak(model, candidate.token, &prefix);
        prefix.node = -1 - prefix.node;  // a child of that node, which is made if it stays in the beam
      }
      const double total = prefix.total();
      if (total == kNever || (full && total <= heap.front())) continue;
      kept.push_back(prefix);
      if (full) {
        std::pop_heap(heap.begin(), heap.end(), std::greater<double>());
        heap.back() = total;
      } else {
        heap.push_back(total);
      }
      std::push_heap(heap.begin(), heap.end(), std::greater<double>());
    }
    std::stable_sort(kept.begin(), kept.end(), [](const Prefix& a, const Prefix& b) { return a.total() > b.total(); });
    if (static_cast<int64_t>(kept.size()) > beam) kept.resize(beam);
    for (Prefix& prefix : kept) {
      if (prefix.node >= 0) continue;
      nodes.push_back({-1 - prefix.node, prefix.last});
      prefix.node = static_cast<int32_t>(nodes.size() - 1);
    }
    current.swap(kept);
  }

  for (Prefix& prefix : current) finish(model, &prefix);
  std::stable_sort(current.begin(), current.end(), [](const Prefix& a, const Prefix& b) { return a.total() > b.total(); });
  std::vector<Hypothesis> found;
  for (const Prefix& prefix : current) {
    Hypothesis hypothesis{{}, prefix.acoustic(), prefix.language};
    for (int32_t node = prefix.node; node > 0; node = nodes[node].parent) hypothesis.tokens.push_back(nodes[node].token);
    std::reverse(hypothesis.tokens.begin(), hypothesis.tokens.end());
    found.push_back(std::move(hypothesis));
  }
  return found;
}

double ctc_align(const float* log_probs, int64_t frames, int64_t symbols, int32_t blank, const int32_t* tokens, int64_t count,
                 int64_t* first, int64_t* behind) {
  // State 2i is the blank before token i, state 2i + 1 the token; Viterbi over them.
  const int64_t states = 2 * count + 1;
  const auto symbol = [&](int64_t s) { return s % 2 ? tokens[s / 2] : blank; };
  std::vector<double> best(states, kNever), before(states);
  std::vector<uint8_t> from(static_cast<size_t>(frames * states));  // how many states back the best way comes from
  for (int64_t t = 0; t < frames; ++t) {
    before.swap(best);
    for (int64_t s = 0; s < states; ++s) {
      double score = t == 0 ? (s < 2 ? 0.0 : kNever) : before[s];
      uint8_t step = 0;
      if (t > 0) {
        if (s > 0 && before[s - 1] > score) score = before[s - 1], step = 1;
        const bool skips = s > 2 && s % 2 && tokens[s / 2] != tokens[s / 2 - 1];
        if (skips && before[s - 2] > score) score = before[s - 2], step = 2;
      }
      best[s] = score + log_probs[t * symbols + symbol(s)];
      from[t * states + s] = step;
    }
  }
  int64_t state = states - 1;
  if (frames == 0) return count == 0 ? 0.0 : kNever;
  if (states > 1 && best[states - 2] > best[state]) state = states - 2;
  const double score = best[state];
  if (score == kNever) return kNever;
  for (int64_t i = 0; i < count; ++i) first[i] = behind[i] = -1;
  for (int64_t t = frames - 1; t >= 0; --t) {
    if (state % 2) {
      first[state / 2] = t;
      if (behind[state / 2] < 0) behind[state / 2] = t + 1;
    }
    state -= from[t * states + state];
  }
  return score;
}

}  // namespace d2v
