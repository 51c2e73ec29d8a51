// The only file of the CPU side that sees Python. Tensors arrive as addresses and sizes; d2v_fast/ops checks them before.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "cpu/ctc.h"
#include "cpu/kernels.h"
#include "cpu/masks.h"
#include "cpu/rng.h"

namespace py = pybind11;

namespace {

template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Sample ids and lengths, int64 [B], are the only arrays that arrive as arrays: reading an address in Python costs as much as a mask.
using Integers = py::array_t<int64_t, py::array::c_style>;

// Random numbers (cpu/rng.h) and masks (cpu/masks.h); checked in d2v_fast/rng.py and d2v_fast/masking.
void bind_random(py::module_& m) {
  using nogil = py::call_guard<py::gil_scoped_release>;
  m.def("rng_text", [](const std::string& text) { return d2v::hash_text(text.data(), text.size()); });
  m.def("rng_key", [](const std::vector<uint64_t>& words) {
    uint64_t key = 0;
    for (uint64_t word : words) key = d2v::absorb(key, word);
    return key;
  });
  m.def("rng_uniform", [](uint64_t key, const Integers& ids, int64_t count, uintptr_t out) {
    d2v::fill_uniform(key, ids.data(), ids.size(), count, pointer<double>(out));
  }, nogil());
  m.def("rng_permutation", [](uint64_t key, int64_t n, uintptr_t out) { d2v::fill_permutation(key, n, pointer<int64_t>(out)); }, nogil());
  m.def("span_masks", [](uint64_t seed, uint64_t epoch, const Integers& ids, int64_t views, const Integers& lengths, int64_t width,
                         double probability, int64_t span, int64_t min_spans, uintptr_t mask) {
    return d2v::span_masks({seed, epoch, ids.data(), ids.size(), views}, lengths.data(), width, probability, span, min_spans,
                           pointer<uint8_t>(mask));
  }, nogil());
  m.def("block_masks", [](uint64_t seed, uint64_t epoch, const Integers& ids, int64_t views, int64_t height, int64_t width, int64_t count,
                          int64_t min_area, double min_aspect, uintptr_t mask) {
    return d2v::block_masks({seed, epoch, ids.data(), ids.size(), views}, height, width, count, min_area, min_aspect, pointer<uint8_t>(mask));
  }, nogil());
  m.def("inverse_block_masks", [](uint64_t seed, uint64_t epoch, const Integers& ids, int64_t views, int64_t height, int64_t width,
                                  int64_t kept, int64_t centres, int64_t block, uintptr_t mask) {
    return d2v::inverse_block_masks({seed, epoch, ids.data(), ids.size(), views}, height, width, kept, centres, block, pointer<uint8_t>(mask));
  }, nogil());
  m.def("fixed_span_masks", [](uint64_t seed, uint64_t epoch, const Integers& ids, int64_t views, const Integers& lengths, int64_t width,
                               double ratio, double per_position, int64_t block, uintptr_t mask) {
    return d2v::fixed_span_masks({seed, epoch, ids.data(), ids.size(), views}, lengths.data(), width, ratio, per_position, block,
                                 pointer<uint8_t>(mask));
  }, nogil());
  m.def("random_masks", [](uint64_t seed, uint64_t epoch, const Integers& ids, int64_t views, const Integers& lengths, int64_t width,
                           double kept_share, uintptr_t mask) {
    return d2v::random_masks({seed, epoch, ids.data(), ids.size(), views}, lengths.data(), width, kept_share, pointer<uint8_t>(mask));
  }, nogil());
  m.def("token_masks", [](uint64_t seed, uint64_t epoch, const Integers& ids, int64_t views, uintptr_t tokens, const Integers& lengths,
                          int64_t width, double probability, int64_t span, double keep, double random, int64_t mask_id, int64_t vocab_size,
                          const std::vector<int64_t>& excluded, uintptr_t mask, uintptr_t masked_tokens) {
    return d2v::token_masks({seed, epoch, ids.data(), ids.size(), views}, pointer<const int64_t>(tokens), lengths.data(), width, probability, span,
                            {keep, random, mask_id, vocab_size, excluded.data(), static_cast<int64_t>(excluded.size())},
                            pointer<uint8_t>(mask), pointer<int64_t>(masked_tokens));
  }, nogil());
  m.def("flat_rows", [](uintptr_t mask, int64_t masked, uintptr_t rows) {
    d2v::flat_rows(pointer<const uint8_t>(mask), masked, pointer<int64_t>(rows));
  }, nogil());
  m.def("flat_kept", [](uintptr_t mask, const Integers& lengths, int64_t views, int64_t width, uintptr_t kept) {
    return d2v::flat_kept(pointer<const uint8_t>(mask), lengths.data(), lengths.size(), views, width, pointer<int64_t>(kept));
  }, nogil());
}

// Decoding of CTC (cpu/ctc.h) with an n-gram model (cpu/ngram.h); checked in d2v_fast/finetuning/{ctc,ngram}.py.
void bind_ctc(py::module_& m) {
  using nogil = py::call_guard<py::gil_scoped_release>;
  using Words = py::array_t<int32_t, py::array::c_style>;
  using Logs = py::array_t<float, py::array::c_style>;
  py::class_<d2v::NGram>(m, "NGram")
      .def(py::init<int>())
      .def("add", [](d2v::NGram& model, const Words& words, const Logs& probabilities, const Logs& backoffs) {
        const int length = static_cast<int>(words.shape(1));
        for (py::ssize_t i = 0; i < words.shape(0); ++i)
          model.add(words.data() + i * length, length, probabilities.data()[i], backoffs.data()[i]);
      })
      .def("score_words", [](const d2v::NGram& model, int32_t begin, const std::vector<int32_t>& words) {
        std::vector<double> scores;
        d2v::NGram::State state = model.begin(begin);
        for (int32_t word : words) scores.push_back(model.score(state, word, &state));
        return scores;
      });
  py::class_<d2v::Lexicon>(m, "Lexicon").def(py::init<>()).def("add", [](d2v::Lexicon& lexicon, const std::vector<int32_t>& tokens, int32_t word) {
    lexicon.add(tokens.data(), static_cast<int>(tokens.size()), word);
  });
  m.def("ctc_beam_search", [](uintptr_t log_probs, int64_t frames, int64_t symbols, int32_t blank, int64_t beam, const d2v::NGram* ngram,
                              const d2v::Lexicon* lexicon, const std::vector<int32_t>& words, int32_t delimiter, int32_t begin, int32_t end,
                              int32_t unknown, double unknown_score, double lm_weight, double word_score) {
    const d2v::LanguageModel model{ngram, lexicon, words.data(), delimiter, begin, end, unknown, unknown_score, lm_weight, word_score};
    std::vector<d2v::Hypothesis> found;
    {
      py::gil_scoped_release released;
      found = d2v::ctc_beam_search(pointer<const float>(log_probs), frames, symbols, blank, beam, model);
    }
    py::list out;
    for (d2v::Hypothesis& hypothesis : found) out.append(py::make_tuple(hypothesis.tokens, hypothesis.acoustic, hypothesis.language));
    return out;
  });
  m.def("ctc_align", [](uintptr_t log_probs, int64_t frames, int64_t symbols, int32_t blank, const std::vector<int32_t>& tokens,
                        uintptr_t first, uintptr_t behind) {
    return d2v::ctc_align(pointer<const float>(log_probs), frames, symbols, blank, tokens.data(), static_cast<int64_t>(tokens.size()),
                          pointer<int64_t>(first), pointer<int64_t>(behind));
  }, nogil());
}

// ema_update_, adamw_ema_ and masked_smooth_l1; checked in d2v_fast/ops/{ema,adamw_ema,smooth_l1}.py.
void bind_ema_and_loss(py::module_& m) {
  using nogil = py::call_guard<py::gil_scoped_release>;
  m.def("ema", [](uintptr_t table, int64_t count, double decay, int threads) {
    d2v::kernels().ema(pointer<const d2v::EmaTensor>(table), count, decay, d2v::usable_threads(threads));
  }, nogil());
  m.def("adamw_ema", [](uintptr_t table, uintptr_t rates, int64_t count, double beta1, double beta2, double eps, double gradient_scale,
                        double decay, int threads) {
    d2v::kernels().adamw_ema(pointer<const d2v::AdamwTensor>(table), pointer<const d2v::AdamwRate>(rates), count,
                             {beta1, beta2, eps, gradient_scale, decay}, d2v::usable_threads(threads));
  }, nogil());
  m.def("smooth_l1_forward", [](uintptr_t pred, uintptr_t target, uintptr_t rows, uintptr_t gradient, uintptr_t loss, int64_t count,
                                int64_t positions, int64_t channels, int64_t pred_dtype, int64_t target_dtype, int64_t reduction, double beta,
                                double scale, double gradient_factor, int threads) {
    std::vector<double> losses(static_cast<size_t>(count));
    d2v::kernels().smooth_l1_forward({pointer<const void>(pred), pointer<const void>(target), pointer<const int64_t>(rows),
                                      pointer<void>(gradient), pointer<void>(loss), count, positions, channels, pred_dtype, target_dtype,
                                      reduction, beta, scale, gradient_factor}, losses.data(), d2v::usable_threads(threads));
  }, nogil());
  m.def("smooth_l1_backward", [](uintptr_t gradient, uintptr_t incoming, uintptr_t rows, uintptr_t out, int64_t count, int64_t positions,
                                 int64_t channels, int64_t dtype, int64_t incoming_dtype, int64_t incoming_per_row, double factor,
                                 int threads) {
    d2v::kernels().smooth_l1_backward({pointer<const void>(gradient), pointer<const void>(incoming), pointer<const int64_t>(rows),
                                       pointer<void>(out), count, positions, channels, dtype, incoming_dtype, incoming_per_row, factor},
                                      d2v::usable_threads(threads));
  }, nogil());
  m.def("first_bad_row", [](uintptr_t rows, int64_t count, int64_t limit) {
    return d2v::kernels().first_bad_row(pointer<const int64_t>(rows), count, limit);
  });
  m.def("streaming_copy", [](uintptr_t dst, uintptr_t src, int64_t bytes, int threads) {
    d2v::kernels().streaming_copy(pointer<void>(dst), pointer<const void>(src), bytes, d2v::usable_threads(threads));
  }, nogil());
}

// Checked in d2v_fast/ops/layer_targets.py.
void bind_layer_targets(py::module_& m) {
  m.def("layer_targets", [](const std::vector<uintptr_t>& layers, const std::vector<int64_t>& strides, uintptr_t rows, uintptr_t lengths,
                            uintptr_t out, int64_t batch, int64_t frames, int64_t channels, int64_t count, int64_t dtype,
                            int64_t layer_norm, int64_t final_norm, double eps, int threads, int64_t views) {
    static_assert(sizeof(uintptr_t) == sizeof(void*), "addresses are passed as numbers");
    const d2v::LayerTargets x = {reinterpret_cast<const void* const*>(layers.data()), strides.data(), pointer<const int64_t>(rows),
                                 pointer<const int64_t>(lengths), pointer<void>(out), static_cast<int64_t>(layers.size()), batch, frames,
                                 channels, count, dtype, layer_norm, final_norm, views, eps};
    if (!d2v::kernels().layer_targets(x, d2v::usable_threads(threads))) throw std::bad_alloc();
  },
     py::call_guard<py::gil_scoped_release>(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg(),
     py::arg(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg("views") = 1);
}

// restore, decoder_layer, norm_gelu, front_layer and attention: tensors and sizes in the order of the structs; checked in d2v_fast/ops.
void bind_views(py::module_& m) {
  using nogil = py::call_guard<py::gil_scoped_release>;
  m.def("restore", [](uintptr_t tokens, uintptr_t kept, uintptr_t noise, uintptr_t out, int64_t count, int64_t places, int64_t row_bytes,
                      int threads) {
    d2v::kernels().restore({pointer<const char>(tokens), pointer<const char>(noise), pointer<const int64_t>(kept), pointer<char>(out), count,
                            places, row_bytes}, d2v::usable_threads(threads));
  }, nogil());
  m.def("decoder_layer", [](bool backward, const std::array<uintptr_t, 10>& t, const std::array<int64_t, 10>& n, double eps, int threads) {
    const d2v::DecoderLayer x = {pointer<const void>(t[0]), pointer<const void>(t[1]), pointer<const void>(t[2]), pointer<void>(t[3]),
                                 pointer<void>(t[4]), pointer<const void>(t[5]), pointer<void>(t[6]), pointer<void>(t[7]),
                                 pointer<void>(t[8]), pointer<void>(t[9]), n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], eps};
    const auto run = backward ? d2v::kernels().decoder_layer_backward : d2v::kernels().decoder_layer_forward;
    if (!run(x, d2v::usable_threads(threads))) throw std::bad_alloc();
  }, nogil());
  m.def("norm_gelu", [](bool backward, const std::array<uintptr_t, 8>& t, const std::array<int64_t, 4>& n, double eps, int threads) {
    const d2v::NormGelu x = {pointer<const void>(t[0]), pointer<const void>(t[1]), pointer<const void>(t[2]), pointer<void>(t[3]),
                             pointer<const void>(t[4]), pointer<void>(t[5]), pointer<void>(t[6]), pointer<void>(t[7]), n[0], n[1], n[2], n[3],
                             eps};
    if (!d2v::kernels().norm_gelu(x, backward, d2v::usable_threads(threads))) throw std::bad_alloc();
  }, nogil());
  m.def("front_layer", [](bool backward, const std::array<uintptr_t, 7>& t, const std::array<int64_t, 8>& n, double eps, int threads) {
    const d2v::FrontLayer x = {pointer<const void>(t[0]), pointer<const void>(t[1]), pointer<const void>(t[2]), pointer<const void>(t[3]),
                               pointer<void>(t[4]), pointer<const void>(t[5]), pointer<void>(t[6]), n[0], n[1], n[2], n[3], n[4], n[5], n[6],
                               n[7], eps};
    if (!d2v::kernels().front_layer(x, backward, d2v::usable_threads(threads))) throw std::bad_alloc();
  }, nogil());
  m.def("attention", [](bool backward, const std::array<uintptr_t, 16>& t, const std::array<int64_t, 11>& strides, const std::array<int64_t, 7>& n,
                        bool pairs, uint64_t seed, double dropout, int threads) {
    const double limit = dropout * 4294967296.0;
    const d2v::Attention x = {pointer<const void>(t[0]), pointer<const void>(t[1]), pointer<const void>(t[2]), &strides[0], &strides[2],
                              &strides[4], pointer<const int32_t>(t[3]), pointer<const int64_t>(t[4]), pointer<const uint8_t>(t[5]),
                              pointer<const void>(t[6]), pointer<const void>(t[7]), &strides[8], pointer<void>(t[8]), pointer<void>(t[9]),
                              pointer<const void>(t[10]), &strides[6], pointer<void>(t[11]), pointer<void>(t[12]), pointer<void>(t[13]),
                              pointer<double>(t[14]), pointer<void>(t[15]), n[0], n[1], n[2], n[3], n[4], n[5], n[6], pairs, seed,
                              static_cast<uint32_t>(limit), dropout};
    const auto run = backward ? d2v::kernels().attention_backward : d2v::kernels().attention_forward;
    if (!run(x, d2v::usable_threads(threads))) throw std::bad_alloc();
  }, nogil());
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of d2v_fast; use d2v_fast.ops and d2v_fast.masking instead.";
  m.def("isa", [] { return d2v::kernels().isa; }, "Name of the instruction set in use: baseline, avx2, avx512 or avx512bf16.");
  m.attr("compiler") = D2V_COMPILER;
  m.attr("cuda") = D2V_CUDA;  // what d2v_fast._cuda was built for, or why it was not built
  bind_random(m);
  bind_ctc(m);
  bind_ema_and_loss(m);
  bind_layer_targets(m);
  bind_views(m);
  m.attr("instruction_sets") = d2v::instruction_sets();
  d2v::kernels();  // a wrong D2V_FAST_ISA fails here, at import, not in the middle of a run
}
