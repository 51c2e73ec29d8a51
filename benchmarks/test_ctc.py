"""The prefix beam search with a 3-gram of 50,000 entries: how many times real time one core decodes."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

from d2v_fast.finetuning.ctc import BeamSearch
from d2v_fast.finetuning.ngram import read_arpa

FRAMES_PER_SECOND = 50
SECONDS = 20
SYMBOLS = ["", "|", *"abcdefghijklmnopqrstuvwxyz'", "-", ".", ","]


def write_arpa(path, unigrams=5_000, bigrams=20_000, trigrams=25_000):
    """A model of made-up words, 50,000 n-grams in all."""
    draw = random.Random(0)
    words = sorted({"".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 8))) for _ in range(2 * unigrams)})[
        :unigrams
    ]
    pairs = sorted({(draw.choice(words), draw.choice(words)) for _ in range(2 * bigrams)})[:bigrams]
    triples = sorted({(*draw.choice(pairs), draw.choice(words)) for _ in range(2 * trigrams)})[:trigrams]
    lines = [
        "\\data\\",
        f"ngram 1={len(words) + 3}",
        f"ngram 2={len(pairs)}",
        f"ngram 3={len(triples)}",
        "",
        "\\1-grams:",
    ]
    lines += ["-99 <s> -0.5", "-2 </s>", "-4 <unk>", *(f"{-draw.uniform(2, 5):.3f} {word} -0.4" for word in words)]
    lines += ["", "\\2-grams:", *(f"{-draw.uniform(0.5, 2):.3f} {' '.join(pair)} -0.3" for pair in pairs)]
    lines += [
        "",
        "\\3-grams:",
        *(f"{-draw.uniform(0.1, 1):.3f} {' '.join(triple)}" for triple in triples),
        "",
        "\\end\\",
    ]
    path.write_text("\n".join(lines) + "\n")
    return words


@pytest.mark.parametrize("sharp", [3.0, 6.0], ids=["vague outputs", "sharp outputs"])
def test_beam_search(benchmark, tmp_path, sharp):
    words = write_arpa(tmp_path / "made.arpa")
    model = read_arpa(tmp_path / "made.arpa")
    draw = random.Random(1)
    text = "|".join(draw.choices(words, k=200))
    frames = SECONDS * FRAMES_PER_SECOND
    symbols = [SYMBOLS.index(letter) for letter in text][: frames // 3]
    path = [token for letter in symbols for token in (letter, letter, 0)][:frames]
    noise = torch.randn(frames, len(SYMBOLS), generator=torch.Generator().manual_seed(0))
    path = torch.tensor(path + [0] * (frames - len(path)))
    log_probs = F.log_softmax(noise + sharp * F.one_hot(path, len(SYMBOLS)), 1)
    decode = BeamSearch(SYMBOLS, beam=50, language_model=model, delimiter="|", lm_weight=1.5, word_score=1.0)
    benchmark.extra_info["symbols"] = len(SYMBOLS)
    benchmark.pedantic(lambda: decode(log_probs), rounds=3)
    times_real = SECONDS / benchmark.stats.stats.median
    benchmark.extra_info["times real time"] = round(times_real)
    print(f"\n{len(SYMBOLS)} symbols, beam 50, 3-gram of 50,000 entries: {times_real:.0f} times real time")
