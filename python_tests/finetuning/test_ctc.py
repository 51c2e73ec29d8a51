"""The decoder against all alignments of short inputs, one by one, in plain Python."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from d2v_fast.finetuning.ctc import BeamSearch, align, greedy, needed_frames
from d2v_fast.finetuning.ngram import read_arpa

SYMBOLS = ["", "|", "a", "b"]

ARPA = """\
made by hand

\\data\\
ngram 1=6
ngram 2=5
ngram 3=2

\\1-grams:
-1.2 <unk>
-99 <s> -0.3
-0.8 </s>
-0.6 a -0.25
-0.9 b -0.4
-1.1 ab -0.2

\\2-grams:
-0.3 <s> a -0.1
-0.5 a b -0.15
-0.7 b a
-0.4 b </s>
-0.2 a ab

\\3-grams:
-0.11 <s> a b
-0.21 a b </s>

\\end\\
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "small.arpa"
    path.write_text(ARPA)
    return read_arpa(path)


def collapse(path, blank=0):
    return tuple(token for token, _ in itertools.groupby(path) if token != blank)


def exhaustive(log_probs, blank=0):
    """Token sequence to ln of the sum over all its alignments."""
    frames, symbols = log_probs.shape
    found = {}
    for path in itertools.product(range(symbols), repeat=frames):
        score = sum(float(log_probs[t, s]) for t, s in enumerate(path))
        key = collapse(path, blank)
        found[key] = float(np.logaddexp(found.get(key, -math.inf), score))
    return found


TABLE = {
    ("<unk>",): (-1.2, 0),
    ("<s>",): (-99, -0.3),
    ("</s>",): (-0.8, 0),
    ("a",): (-0.6, -0.25),
    ("b",): (-0.9, -0.4),
    ("ab",): (-1.1, -0.2),
    ("<s>", "a"): (-0.3, -0.1),
    ("a", "b"): (-0.5, -0.15),
    ("b", "a"): (-0.7, 0),
    ("b", "</s>"): (-0.4, 0),
    ("a", "ab"): (-0.2, 0),
    ("<s>", "a", "b"): (-0.11, 0),
    ("a", "b", "</s>"): (-0.21, 0),
}


def log10_p(history, word):
    """Katz's backoff, as the textbook writes it."""
    history = tuple(history[-2:])
    while True:
        if (*history, word) in TABLE:
            return TABLE[(*history, word)][0]
        if not history:
            raise KeyError(word)
        return TABLE.get(history, (0, 0))[1] + log10_p_shorter(history[1:], word)


def log10_p_shorter(history, word):
    if (*history, word) in TABLE:
        return TABLE[(*history, word)][0]
    return TABLE.get(history, (0, 0))[1] + log10_p_shorter(history[1:], word)


def language(words, weight, bonus):
    history, total = ["<s>"], 0.0
    for word in words:
        word = word if (word,) in TABLE else "<unk>"
        total += weight * math.log(10) * log10_p(history, word) + bonus
        history.append(word)
    return total + weight * math.log(10) * log10_p(history, "</s>")


def outputs(frames, symbols, seed):
    return F.log_softmax(2 * torch.randn(frames, symbols, generator=torch.Generator().manual_seed(seed)), 1)


@pytest.mark.parametrize("symbols", [2, 3, 4])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
def test_without_a_model_it_equals_all_alignments(frames, symbols):
    for seed in range(4):
        log_probs = outputs(frames, symbols, 10 * seed + frames)
        expected = exhaustive(log_probs)
        found = BeamSearch(SYMBOLS[:symbols], beam=10_000)(log_probs, best=10_000)
        assert {h.tokens for h in found} == set(expected)
        for hypothesis in found:
            assert hypothesis.acoustic == pytest.approx(expected[hypothesis.tokens], abs=1e-5)
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("weight", "bonus"), [(0.8, 0.5), (1.5, -0.7), (0.0, 1.0)])
@pytest.mark.parametrize("words", [True, False], ids=["words", "symbols"])
def test_with_a_model_it_equals_all_alignments(model, frames, weight, bonus, words):
    decode = BeamSearch(
        SYMBOLS,
        beam=10_000,
        language_model=model,
        delimiter="|" if words else None,
        lm_weight=weight,
        word_score=bonus,
    )
    for seed in range(3):
        log_probs = outputs(frames, 4, 100 + 10 * seed + frames)
        expected = {}
        for tokens, acoustic in exhaustive(log_probs).items():
            written = [SYMBOLS[token] for token in tokens]
            spoken = "".join(written).replace("|", " ").split() if words else written
            expected[tokens] = acoustic + language(spoken, weight, bonus)
        found = decode(log_probs, best=10_000)
        assert {h.tokens for h in found} == set(expected)
        for hypothesis in found:
            assert hypothesis.score == pytest.approx(expected[hypothesis.tokens], abs=1e-4)


@pytest.mark.parametrize("beam", [1, 2, 5, 20])
def test_a_narrow_beam_finds_what_a_plain_one_finds(model, beam):
    """The search leaves out what its bounds say cannot be among the best: the plain search tries everything."""
    decode = BeamSearch(SYMBOLS, beam=beam, language_model=model, delimiter="|", lm_weight=0.7, word_score=0.4)
    for seed in range(5):
        log_probs = outputs(12, 4, seed)
        plain = plain_beam(log_probs.numpy(), beam, 0.7, 0.4)
        found = decode(log_probs, best=beam)
        assert [h.tokens for h in found] == [tokens for tokens, _ in plain]
        assert [h.score for h in found] == pytest.approx([score for _, score in plain], abs=1e-4)


def completed(tokens, weight, bonus):
    """The language score of the words that have ended."""
    written = "".join(SYMBOLS[token] for token in tokens)
    ended = written[: written.rfind("|") + 1].replace("|", " ").split()
    history, total = ["<s>"], 0.0
    for word in ended:
        word = word if (word,) in TABLE else "<unk>"
        total += weight * math.log(10) * log10_p(history, word) + bonus
        history.append(word)
    return total


def plain_beam(log_probs, beam, weight, bonus):
    prefixes = {(): (0.0, -math.inf)}
    for frame in log_probs.astype(np.float64):
        grown = {}

        def add(tokens, blank, other, grown=grown):
            old = grown.get(tokens, (-math.inf, -math.inf))
            grown[tokens] = (np.logaddexp(old[0], blank), np.logaddexp(old[1], other))

        for tokens, (blank, other) in prefixes.items():
            whole = np.logaddexp(blank, other)
            add(tokens, whole + frame[0], -math.inf)
            if tokens:
                add(tokens, -math.inf, other + frame[tokens[-1]])
            for token in range(1, len(frame)):
                before = blank if tokens and tokens[-1] == token else whole
                add((*tokens, token), -math.inf, before + frame[token])
        order = sorted(grown, key=lambda t: -(np.logaddexp(*grown[t]) + completed(t, weight, bonus)))
        prefixes = {tokens: grown[tokens] for tokens in order[:beam] if np.logaddexp(*grown[tokens]) > -math.inf}
    final = []
    for tokens, sums in prefixes.items():
        spoken = "".join(SYMBOLS[token] for token in tokens).replace("|", " ").split()
        final.append((tokens, float(np.logaddexp(*sums)) + language(spoken, weight, bonus)))
    return sorted(final, key=lambda one: -one[1])


def test_the_acoustic_score_is_that_of_torch():
    log_probs = outputs(8, 4, 0)
    hypothesis = BeamSearch(SYMBOLS, beam=100_000)(log_probs)[0]
    tokens = torch.tensor(hypothesis.tokens)
    loss = F.ctc_loss(log_probs[:, None], tokens[None], torch.tensor([8]), torch.tensor([len(tokens)]), reduction="sum")
    assert hypothesis.acoustic == pytest.approx(-float(loss), abs=1e-4)


def test_greedy_takes_repetitions_and_blanks_out():
    best = [0, 2, 2, 0, 2, 3, 3, 1, 0]
    log_probs = F.log_softmax(5.0 * F.one_hot(torch.tensor(best), 4), 1)
    assert greedy(log_probs).tokens == (2, 2, 3, 1)
    assert greedy(F.log_softmax(5.0 * F.one_hot(torch.zeros(4, dtype=torch.int64), 4), 1)).tokens == ()


def test_text_of_words():
    decode = BeamSearch(SYMBOLS, delimiter="|")
    log_probs = F.log_softmax(9.0 * F.one_hot(torch.tensor([1, 2, 0, 2, 1, 1, 3, 1]), 4), 1)
    assert decode.text(decode(log_probs)[0]) == "aa b"


def test_alignment_is_the_best_path():
    for seed in range(5):
        log_probs = outputs(5, 4, seed)
        tokens = [(2,), (2, 2), (2, 3, 2), (1, 3)][seed % 4]
        paths = [p for p in itertools.product(range(4), repeat=5) if collapse(p) == tokens]
        best = max(paths, key=lambda p: sum(float(log_probs[t, s]) for t, s in enumerate(p)))
        first, behind, score = align(log_probs, tokens)
        assert score == pytest.approx(sum(float(log_probs[t, s]) for t, s in enumerate(best)), abs=1e-5)
        spans, at = [], 0
        for token, group in itertools.groupby(best):
            length = len(list(group))
            if token:
                spans.append((at, at + length))
            at += length
        assert list(zip(first.tolist(), behind.tolist(), strict=True)) == spans


def test_what_does_not_fit_is_refused(model):
    log_probs = outputs(3, 4, 0)
    with pytest.raises(ValueError, match="2 tokens do not fit into 2 frames"):
        align(log_probs[:2], [2, 2])
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 4\)"):
        align(log_probs, [4])
    with pytest.raises(ValueError, match="log_probs has 4 symbols, the decoder 3"):
        BeamSearch(SYMBOLS[:3])(log_probs)
    with pytest.raises(ValueError, match="not logarithms"):
        greedy(log_probs * torch.nan)
    with pytest.raises(ValueError, match="beam is 0"):
        BeamSearch(SYMBOLS, beam=0)
    with pytest.raises(ValueError, match="lm_weight must be 0 or more"):
        BeamSearch(SYMBOLS, language_model=model, lm_weight=-1)
    with pytest.raises(ValueError, match="delimiter is '#'"):
        BeamSearch(SYMBOLS, delimiter="#")
    assert needed_frames([2, 2, 3]) == 4
    assert needed_frames([]) == 0


def test_no_frames_say_nothing():
    assert BeamSearch(SYMBOLS)(torch.zeros(0, 4))[0].tokens == ()
