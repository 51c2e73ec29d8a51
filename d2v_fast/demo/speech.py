"""Spoken words from eSpeak NG, about a hundred voices; what counts is the word, on voices never heard before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import soxr

from d2v_fast import rng
from d2v_fast.data import ArraySource
from d2v_fast.demo.espeak import espeak, speak
from d2v_fast.demo.task import Labelled, Task, content_hash, held_out
from d2v_fast.modalities.speech.mel import log_mel

_WORDS = """
above apple bottle bridge circle coffee doctor early finger garden
green hammer island jacket kitchen letter market morning never orange
paper planet quiet river school seven silver simple station summer
sunday table thunder travel under village water window winter yellow
"""
WORDS = tuple(_WORDS.split())
"""The labels."""

SAMPLE_RATE = 16000
TEST_SHARE = 0.25
"""Of the voices, by a hash of their names."""

STEPS = 900
"""Of `speech-small`, which has 80,000: less than a minute, about one epoch."""

SENTENCES = 10
"""Clips for pretraining from each voice of the training part, of WORDS_IN_SENTENCE words each."""

WORDS_IN_SENTENCE = 5
_SEED = 2022


def task() -> Task:
    """Every voice says every word; a quarter of the voices is held out. Pretraining: sentences of the other voices.

    Raises:
        DemoError: espeakng-loader is not installed or does not work.
    """
    made = of_words(WORDS, _sentences)
    clips = [made.source.read(i) for i in range(len(made.source))]
    names = [made.source.name(i) for i in range(len(made.source))]
    return replace(made, preset="speech-small", steps=STEPS, source=ArraySource("spectrogram", clips, names))


def of_words(labels: Sequence[str], said_by: Callable[[str], Sequence[str]]) -> Task:
    """The same for waveforms, with other words as labels and other sentences: those that `said_by` returns for a voice.

    Raises:
        DemoError: espeakng-loader is not installed or does not work.
    """
    voices = espeak().voices
    test_voices = [voice for voice in voices if held_out(voice.encode(), TEST_SHARE)]
    train_voices = [voice for voice in voices if voice not in test_voices]
    sentences = [(text, voice) for voice in train_voices for text in said_by(voice)]
    fit, judge = ([(word, voice) for voice in part for word in labels] for part in (train_voices, test_voices))
    spoken = _speak([*sentences, *fit, *judge])
    clips, words = spoken[: len(sentences)], spoken[len(sentences) :]
    train = _part(fit, words[: len(fit)], labels, seen=set())
    test = _part(judge, words[len(fit) :], labels, seen={content_hash(clip.tobytes()) for clip in train.inputs})
    return Task(
        preset="speech2-tiny",
        source=ArraySource("speech", clips, [f"{voice}: {text}" for text, voice in sentences]),
        train=train,
        test=test,
        classes=tuple(labels),
        label="spoken word",
        floor="log-mel mean and deviation",
        about=(
            f"{len(labels)} English words by {len(voices)} synthetic voices (eSpeak NG), {len(test_voices)} of them "
            f"held out; pretrained on {sum(map(len, clips)) / SAMPLE_RATE / 60:.0f} minutes "
            "of word sequences by the others"
        ),
    )


def _sentences(voice: str) -> list[str]:
    """Random sequences of words, other ones for each voice."""
    draws = rng.uniform(_SEED, f"demo speech {voice}", 0, np.arange(SENTENCES, dtype=np.int64), WORDS_IN_SENTENCE)
    return [" ".join(WORDS[int(u * len(WORDS))] for u in row) for row in draws]


def _speak(lines: list[tuple[str, str]]) -> list[np.ndarray]:
    """The clips of (text, voice) pairs, int16 at 16 kHz; rate and pitch differ from line to line."""
    draws = [content_hash(f"{voice}\n{text}".encode()) for text, voice in lines]
    rate, raw = speak([(*line, 150 + draw % 51, 40 + draw // 64 % 21) for line, draw in zip(lines, draws, strict=True)])
    with ThreadPoolExecutor(2) as pool:  # soxr releases the interpreter lock
        return list(pool.map(lambda clip: soxr.resample(clip, rate, SAMPLE_RATE), raw))


def _part(lines: list[tuple[str, str]], spoken: list[np.ndarray], words: Sequence[str], seen: set[int]) -> Labelled:
    """Words with labels; a clip whose sound is in `seen` already is left out."""
    clips, labels, groups = [], [], []
    voices: dict[str, int] = {}
    for clip, (word, voice) in zip(spoken, lines, strict=True):
        key = content_hash(clip.tobytes())
        if key not in seen:
            seen.add(key)
            clips.append(clip)
            labels.append(words.index(word))
            groups.append(voices.setdefault(voice, len(voices)))
    raw = np.stack([log_mel_statistics(clip) for clip in clips])
    return Labelled(clips, np.array(labels, dtype=np.int64), raw, groups=np.array(groups, dtype=np.int64))


def log_mel_statistics(clip: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of `log_mel` over time: float32 [80]; `clip` is int16 [samples]."""
    energies = log_mel(clip / 32768, SAMPLE_RATE)
    return np.concatenate([energies.mean(0), energies.std(0)]).astype(np.float32)
