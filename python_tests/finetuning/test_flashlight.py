"""The decoder of flashlight-text, where it is installed; what it is called with, shown by a stand-in."""

from __future__ import annotations

import ctypes
import importlib.util
import math
import sys
import types

import numpy as np
import pytest
import torch

from d2v_fast.errors import ConfigError, DataError
from d2v_fast.finetuning.ctc_config import CtcConfig
from d2v_fast.finetuning.flashlight import FlashlightSearch
from d2v_fast.finetuning.transcribe import Transcriber
from d2v_fast.finetuning.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("<pad>", "<unk>", "|", *"abc"))
installed = importlib.util.find_spec("flashlight") is not None
needs_flashlight = pytest.mark.skipif(
    not installed, reason="flashlight-text is not installed (no wheel for this Python)"
)

ARPA = """\\data\\
ngram 1=6
ngram 2=3

\\1-grams:
-99\t<s>\t-0.3
-1\t</s>
-2\tab\t-0.1
-0.4\tac\t-0.2
-1.5\tcab\t0
-3\t<unk>\t0

\\2-grams:
-0.3\t<s> ac
-0.2\tac cab
-0.5\tcab </s>

\\end\\
"""


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "words.arpa"
    path.write_text(ARPA)
    return path


def test_what_is_said_where_it_is_not_installed(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "flashlight"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flashlight", None)
    with pytest.raises(ConfigError, match=r"ctc\.decoder is 'flashlight', but .* cannot be imported .*pip install"):
        Transcriber(VOCABULARY, 0.02, beam=5, decoder="flashlight")
    with pytest.raises(ConfigError, match=r"ctc\.beam is 1, but it must be above 1 for the decoder flashlight"):
        CtcConfig(decoder="flashlight")


@needs_flashlight
def test_the_same_scores_as_our_own_search(arpa):
    """Random outputs, a beam that holds everything: the best text and its score are those of our search."""
    for seed in range(5):
        logits = torch.from_numpy(np.random.default_rng(seed).standard_normal((6, 6)) * 2).float()
        logits[:, 1] = -50  # <unk> is no letter
        ours = Transcriber(VOCABULARY, 0.02, beam=3000)._search(logits.log_softmax(1))[0]
        theirs = FlashlightSearch(VOCABULARY, beam=3000)(logits.log_softmax(1))[0]
        assert VOCABULARY.decode(ours.tokens) == VOCABULARY.decode(theirs.tokens)
    logits = torch.zeros(8, 6)
    for t, symbol in enumerate([3, 5, 0, 2, 5, 3, 4, 0]):
        logits[t, symbol] = 6.0
    logits[1, 4] = 5.8
    ours = Transcriber(VOCABULARY, 0.02, beam=200, language_model=arpa, lm_weight=0.7, word_score=0.3)
    theirs = Transcriber(
        VOCABULARY, 0.02, beam=200, language_model=arpa, lm_weight=0.7, word_score=0.3, decoder="flashlight"
    )
    assert ours(logits).text == theirs(logits).text == "ac cab"
    assert theirs(logits).score == pytest.approx(ours(logits).score, abs=0.02)
    assert [word.text for word in theirs(logits).words] == ["ac", "cab"]


@needs_flashlight
def test_a_damaged_language_model_is_named(tmp_path):
    path = tmp_path / "words.arpa"
    path.write_text(ARPA.replace("\t", " "))
    with pytest.raises(DataError, match=r"words\.arpa cannot be read by flashlight's language model"):
        FlashlightSearch(VOCABULARY, beam=5, language_model=path)
    path.write_text("no model")
    with pytest.raises(DataError, match=r"words\.arpa is no ARPA file"):
        FlashlightSearch(VOCABULARY, beam=5, language_model=path)


def test_what_it_is_called_with(monkeypatch, arpa):
    """A stand-in for the library: the contract as its 0.0.7 has it. It shows the calls, not that the library works."""
    calls = {}

    class Options:
        def __init__(self, **given):
            calls["options"] = given

    class Dictionary:
        def __init__(self, lexicon):
            self.words = list(lexicon)

        def get_index(self, word):
            return self.words.index(word)

    class Trie:
        def __init__(self, children, root):
            calls["trie"], calls["inserted"] = (children, root), []

        def insert(self, indices, label, score):
            calls["inserted"].append((indices, label, score))

        def smear(self, mode):
            calls["smear"] = mode

    class KenLM:
        def __init__(self, path, words):
            calls["model"] = path

        def start(self, with_nothing):
            return "state"

        def score(self, state, word):
            return state, -float(word)

    class LexiconDecoder:
        def __init__(self, options, trie, model, silence, blank, unknown, transitions, over_tokens):
            calls["decoder"] = (silence, blank, unknown, transitions, over_tokens)

        def decode(self, address, frames, symbols):
            there = (ctypes.c_float * (frames * symbols)).from_address(address)
            calls["emissions"] = np.array(there).reshape(frames, symbols)
            return [types.SimpleNamespace(tokens=[2, 3, 3, 0, 5, 2, 2, 0], score=-1.5)]

    decoder = types.SimpleNamespace(
        CriterionType=types.SimpleNamespace(CTC="ctc"),
        SmearingMode=types.SimpleNamespace(MAX="max"),
        LexiconDecoderOptions=Options,
        LexiconDecoder=LexiconDecoder,
        Trie=Trie,
    )
    text = {
        "flashlight.lib.text.decoder": decoder,
        "flashlight.lib.text.decoder.kenlm": types.SimpleNamespace(KenLM=KenLM),
        "flashlight.lib.text.dictionary": types.SimpleNamespace(create_word_dict=Dictionary),
    }
    for name, module in text.items():
        monkeypatch.setitem(sys.modules, name, module)
    log_probs = torch.randn(4, 6).log_softmax(1)
    search = FlashlightSearch(VOCABULARY, beam=7, language_model=arpa, lm_weight=2.0, word_score=0.5)
    (found,) = search(log_probs)
    assert (found.tokens, found.score) == ((3, 5), -1.5)
    assert calls["options"]["lm_weight"] == pytest.approx(2 * math.log(10))
    assert (calls["options"]["beam_size"], calls["options"]["log_add"]) == (7, True)
    assert calls["decoder"] == (2, 0, 3, [], False)
    assert calls["inserted"][:2] == [([3, 4, 2], 0, 0.0), ([3, 5, 2], 1, -1.0)]
    np.testing.assert_allclose(calls["emissions"][:4], log_probs)
    assert calls["emissions"][4].argmax() == 2  # the last word ends, too
