"""The data of outcomes.py: what is pretrained on, labels, and splits that content alone decides.

Nothing is downloaded: Fashion-MNIST is a package of Debian, eSpeak NG comes with pip, the texts with Python. Each kind
has four parts: `corpus` without labels; `train`, whose labels a fine-tuning may use; `dev`, on which settings are
chosen; `test`, which is reported. `train` is a part of the corpus or from the same voices; `dev` and `test` are not.
"""

from __future__ import annotations

import gzip
import json
import sysconfig
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from d2v_fast import rng
from d2v_fast.demo.espeak import espeak, speak
from d2v_fast.demo.speech import log_mel_statistics
from d2v_fast.demo.task import content_hash, held_out
from d2v_fast.demo.text import docstrings, topics

FASHION = Path("/usr/share/datasets/fashion-mnist")
SAMPLE_RATE = 16_000
TEXT_BYTES = 126
"""Of a text, for networks and baseline alike: a block of 128 with its begin and end."""

_NUMBERS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
"""
NUMBERS = tuple(_NUMBERS.split())
"""The words that are told apart; some sound much alike."""

_FORMS = (
    "call {n} {n} {n} {n}",
    "set the {thing} to {n}",
    "wake me at {n} {part}",
    "turn {way} the {thing} in the {room}",
    "what is {n} {sum} {n}",
    "please {do} the {thing}",
    "the {room} is {n} degrees {feel}",
    "{do} the {thing} at {n}",
)
_WORDS = {
    "n": NUMBERS,
    "thing": ("lamp", "window", "heating", "door", "radio", "kettle", "curtain", "camera"),
    "part": ("in the morning", "in the evening", "tomorrow", "on monday", "on sunday"),
    "way": ("on", "off", "down", "up"),
    "room": ("kitchen", "garden", "hall", "office", "bedroom", "garage"),
    "sum": ("plus", "minus", "times"),
    "do": ("open", "close", "check", "start", "stop"),
    "feel": ("warm", "cold"),
}


@dataclass(frozen=True)
class Part:
    """Samples as `finetune` takes them, and their labels."""

    inputs: Sequence[Any]
    labels: Sequence[str]
    groups: Sequence[str] | None = None
    classes: bool = True
    """Labels are classes; otherwise transcripts."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Sequence[int]) -> Part:
        groups = None if self.groups is None else [self.groups[i] for i in chosen]
        return Part([self.inputs[i] for i in chosen], [self.labels[i] for i in chosen], groups, self.classes)


@dataclass(frozen=True)
class Data:
    """One kind of input."""

    corpus: Any
    train: Part
    dev: Part
    test: Part
    raw: Callable[[Part, Part], tuple[Any, Any]]
    """Features for the classical baseline, of a training part and of another."""


def share_of(part: Part, share: float, seed: int) -> Part:
    """That share of each class, at least one sample, or of transcripts; other seeds draw others."""
    draws = rng.uniform(seed, "outcomes labels", 0, np.arange(len(part), dtype=np.int64), 1)[:, 0]
    chosen: list[int] = []
    kinds = part.labels if part.classes else [""] * len(part)
    for label in sorted(set(kinds)):
        members = sorted((i for i in range(len(part)) if kinds[i] == label), key=lambda i: draws[i])
        chosen += members[: max(1, round(share * len(members)))]
    return part.take(sorted(chosen))


def clothes() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Fashion-MNIST: uint8 [N, 28, 28] and uint8 [N] of the training files, and of the test files.

    Of equal pictures the first one is left, and of the test files those that no training file has.
    """

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.frombuffer(
            gzip.decompress((FASHION / f"{name}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
        )
        labels = np.frombuffer(
            gzip.decompress((FASHION / f"{name}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
        )
        return pixels.reshape(-1, 28, 28), labels

    if not FASHION.is_dir():
        raise SystemExit(f"{FASHION} is not there: apt-get install dataset-fashion-mnist")
    (pixels, labels), (other, wanted) = read("train"), read("t10k")
    unique = {picture.tobytes(): i for i, picture in reversed(list(enumerate(pixels)))}
    order = sorted(unique.values())
    new = [i for i in range(len(other)) if other[i].tobytes() not in unique]
    return (pixels[order], labels[order]), (other[new], wanted[new])


def vision(folder: Path, quick: bool) -> Data:
    """10,000 pictures of clothes, 5,000 of them with labels; 1,000 others for dev, and 2,000 of the test files."""
    (pixels, labels), (other, wanted) = clothes()
    size = 20 if quick else 1000

    def part(images: np.ndarray, classes: np.ndarray) -> Part:
        return Part(list(images), [str(label) for label in classes])

    def raw(*parts: Part) -> tuple[Any, ...]:
        return tuple(np.stack(one.inputs).reshape(len(one), -1) / 255 for one in parts)

    return Data(
        corpus=list(pixels[: 10 * size]),
        train=part(pixels[: 5 * size], labels[: 5 * size]),
        dev=part(pixels[-size:], labels[-size:]),
        test=part(other[: 2 * size], wanted[: 2 * size]),
        raw=raw,
    )


def speech(folder: Path, quick: bool) -> Data:
    """Number words by synthetic voices; dev and test have their own. The corpus: sentences by the voices of train."""
    known = espeak().voices
    test = [voice for voice in known if held_out(voice.encode(), 0.25)]
    dev = [voice for voice in known if voice not in test and held_out(f"dev {voice}".encode(), 0.12)]
    train = [voice for voice in known if voice not in test and voice not in dev]
    few = 2 if quick else None
    lines = [(text, voice, 0) for voice in train[:few] for text in sentences_of(voice, 140)[:14]]

    def part(name: str, voices: list[str], repeats: int) -> Part:
        lines = [(word, voice, take) for voice in voices[:few] for word in NUMBERS for take in range(repeats)]
        clips = _spoken(folder, f"words-{name}", lines)
        return Part(clips, [word for word, _, _ in lines], [voice for _, voice, _ in lines])

    def raw(*parts: Part) -> tuple[Any, ...]:
        made = [np.stack([log_mel_statistics(clip) for clip in one.inputs]) for one in parts]
        mean, std = made[0].mean(0), made[0].std(0) + 1e-6
        return tuple((one - mean) / std for one in made)

    corpus = _spoken(folder, "sentences-train", lines)
    return Data(corpus, part("train", train, 2), part("dev", dev, 1), part("test", test, 1), raw)


def recognition(folder: Path, quick: bool) -> Data:
    """The same words, to be written letter by letter."""
    words = speech(folder, quick)
    parts = (replace(part, classes=False) for part in (words.train, words.dev, words.test))
    return Data(words.corpus, *parts, words.raw)


def sentences_of(name: str, count: int) -> list[str]:
    """So many sentences that the name decides."""
    draws = rng.uniform(7, f"outcomes sentences {name}", 0, np.arange(count, dtype=np.int64), 8)
    made = []
    for row in draws:
        numbers = iter(row)
        form = _FORMS[int(next(numbers) * len(_FORMS))]
        words = []
        for word in form.split():
            if word.startswith("{"):
                choice = _WORDS[word.strip("{}")]
                word = choice[int(next(numbers) * len(choice))]
            words.append(word)
        made.append(" ".join(words))
    return made


def _spoken(folder: Path, name: str, lines: list[tuple[str, str, int]]) -> list[np.ndarray]:
    """int16 clips at 16 kHz of (text, voice, take); rate and pitch differ. Kept in the folder."""
    file = folder / f"{name}.npz"
    if not file.is_file():
        draws = [content_hash(f"{voice}\n{text}\n{take}".encode()) for text, voice, take in lines]
        said = [
            (text, voice, 140 + draw % 61, 35 + draw // 64 % 31)
            for (text, voice, _), draw in zip(lines, draws, strict=True)
        ]
        rate, raw = speak(said)
        with ThreadPoolExecutor(2) as pool:
            clips = list(pool.map(lambda clip: soxr.resample(clip, rate, SAMPLE_RATE), raw))
        part = file.with_name(f"{name}.part.npz")
        np.savez(part, samples=np.concatenate(clips), ends=np.cumsum([len(clip) for clip in clips]))
        part.replace(file)
    with np.load(file) as made:
        return np.split(made["samples"], made["ends"][:-1])


def text(folder: Path, quick: bool) -> Data:
    """Docstrings of Python's library, and which of ten packages each is from. The corpus: all but dev and test."""
    library = Path(sysconfig.get_path("stdlib"))
    found = docstrings(library / "asyncio" if quick else library)
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "dev": [], "test": []}
    seen = set()
    for module, whole in found:
        cut = " ".join(whole.split()).encode()[:TEXT_BYTES].decode(errors="ignore")
        if cut not in seen:
            seen.add(cut)
            name = (
                "test" if held_out(cut.encode(), 0.25) else "dev" if held_out(b"dev" + cut.encode(), 0.12) else "train"
            )
            parts[name].append((module, cut))
    counts: dict[str, int] = {}
    for module, _ in parts["train"]:
        counts[module] = counts.get(module, 0) + 1
    classes = set(sorted(counts, key=lambda module: (-counts[module], module))[:10])
    hidden = {cut for name in ("dev", "test") for _, cut in parts[name]}
    whole = [
        text for _, text in found if " ".join(text.split()).encode()[:TEXT_BYTES].decode(errors="ignore") not in hidden
    ]
    corpus = folder / "corpus.jsonl"
    if not corpus.is_file():
        lines = [*topics(), *(" ".join(one.split()) for one in whole)][: 200 if quick else None]
        corpus.write_text("".join(json.dumps({"text": one}) + "\n" for one in lines))

    def part(name: str) -> Part:
        chosen = [pair for pair in parts[name] if pair[0] in classes]
        chosen = chosen[:: max(1, len(chosen) // 40)] if quick else chosen
        return Part([cut for _, cut in chosen], [module for module, _ in chosen])

    def raw(*given: Part) -> tuple[Any, ...]:
        from sklearn.feature_extraction.text import TfidfVectorizer

        counter = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
        return counter.fit_transform(given[0].inputs), *(counter.transform(one.inputs) for one in given[1:])

    return Data(corpus, part("train"), part("dev"), part("test"), raw)


KINDS: dict[str, Callable[[Path, bool], Data]] = {
    "vision": vision,
    "speech": speech,
    "text": text,
    "recognition": recognition,
}
