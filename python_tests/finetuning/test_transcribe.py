"""Outputs become words with times; one that says nothing is noticed."""

from __future__ import annotations

import pytest
import torch

from d2v_fast.errors import ConfigError, DataError
from d2v_fast.finetuning import transcribe as module
from d2v_fast.finetuning.ctc import align, greedy, spans, stretches
from d2v_fast.finetuning.transcribe import BlankWatch, Transcriber, Word
from d2v_fast.finetuning.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("<pad>", "<unk>", "|", *"abc"))


def outputs(path, sure=10.0):
    """Logits [frames, symbols] of one symbol for each frame: "_" is the blank."""
    number = {"_": 0, "|": 2, "a": 3, "b": 4, "c": 5}
    logits = torch.zeros(len(path), 6)
    for t, symbol in enumerate(path):
        logits[t, number[symbol]] = sure
    return logits


@pytest.mark.parametrize("beam", [1, 8])
def test_words_with_their_times(beam):
    found = Transcriber(VOCABULARY, 0.02, beam=beam)(outputs("_aab_|_c_c"))
    assert found.text == "ab cc"
    assert [word.text for word in found.words] == ["ab", "cc"]
    assert found.words[0] == Word("ab", pytest.approx(0.02), pytest.approx(0.08))
    assert found.words[1] == Word("cc", pytest.approx(0.14), pytest.approx(0.20))
    assert found.score == pytest.approx(0, abs=0.05)


def test_delimiters_at_the_ends_make_no_words():
    found = Transcriber(VOCABULARY, 0.02)(outputs("|_a||b|_"))
    assert found.text == "a b"
    assert [word.text for word in found.words] == ["a", "b"]


def test_silence_is_no_word():
    found = Transcriber(VOCABULARY, 0.02)(outputs("____"))
    assert (found.text, found.words) == ("", ())


def test_a_language_model_decides_between_likely_words(tmp_path):
    arpa = tmp_path / "words.arpa"
    arpa.write_text("\\data\\\nngram 1=4\n\n\\1-grams:\n-99 <s>\n-1 </s>\n-3 ab\n-0.2 ac\n\n\\end\\\n")
    logits = outputs("ab", sure=5.0)
    logits[1, 5] = 4.5  # c is nearly as likely
    assert Transcriber(VOCABULARY, 0.02).text(logits) == "ab"
    assert Transcriber(VOCABULARY, 0.02, beam=20, language_model=arpa).text(logits) == "ac"
    with pytest.raises(ConfigError, match="a language model needs a beam, but beam is 1"):
        Transcriber(VOCABULARY, 0.02, language_model=arpa)


def arpa(file, *words):
    """A language model of 1-grams."""
    lines = "".join(f"-1 {word}\n" for word in ("<s>", "</s>", *words))
    file.write_text(f"\\data\\\nngram 1={len(words) + 2}\n\n\\1-grams:\n{lines}\n\\end\\\n")
    return file


def test_a_model_of_words_is_not_for_a_recogniser_without_a_delimiter(tmp_path, caplog):
    """It would be scored letter by letter, all of them unknown."""
    letters = Vocabulary(("<pad>", *"abc"))
    words = arpa(tmp_path / "words.arpa", "ab", "ac")
    with pytest.raises(
        DataError, match=r"has no letters as words, but words such as 'ab ac', .*no symbol '\|'.*ctc.vocab"
    ):
        Transcriber(letters, 0.02, beam=8, language_model=words)
    assert not caplog.records
    Transcriber(letters, 0.02, beam=8, language_model=arpa(tmp_path / "mixed.arpa", "a", "ab", "ac"))
    assert "looks like a model of words" in caplog.text
    assert "2 of 3 words never are" in caplog.text
    caplog.clear()
    Transcriber(letters, 0.02, beam=8, language_model=arpa(tmp_path / "letters.arpa", "a", "b"))
    assert not caplog.records


def test_a_model_without_a_word_that_can_be_written_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"no word of .*upper.arpa, which has words such as 'AB C', .* 'abc': are they of"
    ):
        Transcriber(VOCABULARY, 0.02, beam=8, language_model=arpa(tmp_path / "upper.arpa", "AB", "C"))


@pytest.mark.parametrize("beam", [1, 8])
def test_a_long_recording_is_searched_in_stretches(monkeypatch, beam):
    """Cuts lie in pauses between words; words, times and score are those of one search."""
    path = "_aab_|__c_c|||_____ab_|_b__bc_|_ca_|__" * 4
    one = Transcriber(VOCABULARY, 0.02, beam=beam)
    whole = one(outputs(path))
    monkeypatch.setattr(module, "LONGEST", 20)
    found = one(outputs(path))
    assert found.text == whole.text == one.text(outputs(path)) == " ".join(["ab cc ab bbc ca"] * 4)
    assert found.words == whole.words
    assert found.score == pytest.approx(whole.score, abs=0.1)


def test_cuts_lie_between_words_where_they_can():
    log_probs = outputs("abc__a_|_b_____c_____abcabcabcabcabc").log_softmax(1)
    found = stretches(log_probs, 14, delimiter=2)
    assert [one.begin for one in found] == [0, *(one.end for one in found[:-1])]
    assert found[-1].end == len(log_probs)
    assert (found[0].end, found[0].word_ends) == (8, True)  # the pause with the delimiter, not the longest one
    assert (found[1].end, found[1].word_ends) == (18, False)
    assert all(one.end - one.begin <= 14 for one in found)
    without = stretches(log_probs, 14)
    assert without[0].word_ends is False


def test_times_of_the_best_symbols_are_their_best_alignment():
    torch.manual_seed(0)
    for frames in (1, 2, 7, 50):
        log_probs = torch.randn(frames, 5).mul(3).log_softmax(1)
        tokens = greedy(log_probs).tokens
        first, behind = spans(log_probs)
        wanted = align(log_probs, tokens)
        assert first.tolist() == wanted[0].tolist()
        assert behind.tolist() == wanted[1].tolist()


def test_all_blank_is_said_once_with_a_remedy():
    watch = BlankWatch(after=2)
    assert watch.see(["", ""]) is None
    said = watch.see(["", ""])
    assert "all 2 recordings was blank in 2 evaluations in a row" in said
    assert "optim.lr" in said
    assert watch.see(["", ""]) is None
    assert watch.see(["", "a"]) is None
    assert watch.see([""]) is None
    assert watch.see([""]) is not None
    assert BlankWatch(after=1).see([]) is None
