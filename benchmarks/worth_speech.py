"""The sound of worth.py: words and sentences by eSpeak NG's voices, commands by those of Flite, and people."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import soundfile
import soxr
from outcomes_data import NUMBERS, sentences_of
from worth_parts import Part, Question, Worth, check, few, part, share

from d2v_fast.data import ArraySource
from d2v_fast.demo import speech as demo
from d2v_fast.demo.espeak import espeak, speak

INTENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "light on": (
        ("turn on", "switch on", "put on", "light up"),
        ("the lamp", "the lights", "the light above the door"),
    ),
    "light off": (("turn off", "switch off", "put out", "dim"), ("the lamp", "the lights", "the light above the door")),
    "music": (("play", "start", "put on", "let me hear"), ("some music", "my favourite song", "the new record")),
    "silence": (("stop", "end", "turn off", "pause"), ("the music", "this song", "the record")),
    "alarm": (("set", "start", "give me", "I need"), ("an alarm", "a timer for ten minutes", "a reminder")),
    "weather": (("what is", "tell me", "how is", "show me"), ("the weather", "the forecast", "the temperature")),
    "call": (("call", "ring", "phone", "dial"), ("my mother", "the doctor", "the office")),
    "door": (("open", "close", "lock", "check"), ("the front door", "the garage", "the garden gate")),
}
"""Of a spoken command to its ways to begin and to end; a request for silence may begin as one for darkness does."""

REQUESTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "food": (("bring me", "order", "I would like", "get"), ("a coffee", "two sandwiches", "the menu")),
    "lost": (("where is", "find", "look for", "who has"), ("my key", "my jacket", "the letter")),
    "travel": (("when is", "book", "is there", "take me to"), ("the train", "a bus to the river", "the harbour")),
    "shopping": (("buy", "add", "remember", "we need"), ("bread and butter", "paper", "green apples")),
    "heating": (("warm up", "heat", "cool", "air"), ("the bathroom", "the hall", "the bedroom")),
    "news": (("read", "what are", "tell us", "skip"), ("the headlines", "the sports results", "the news")),
    "message": (("write to", "send", "answer", "mail"), ("my sister", "a note to the school", "the landlord")),
    "cleaning": (("clean", "sweep", "vacuum", "wash"), ("the carpet", "the floor", "the stairs")),
}
"""The same for choices: other words, by two voices of eSpeak NG to learn from and others to judge by; and by those of
`LEARNED` to learn from and one of Festival to judge by."""

BEFORE = ("", "please", "could you", "hey there", "now")
AFTER = ("", "today", "right now", "in the kitchen", "for me", "after dinner")
LEARNED, HEARD = ("slt", "kal16"), ("rms", "awb")
"""Voices of Flite that the probe learns from, and those that it is judged by."""

STRANGER = "voice_ked_diphone"
"""The voice of Festival."""

PEOPLE = {
    "tuxpaint-stamps-default": "/usr/share/tuxpaint/stamps",
    "klettres-data": "/usr/share/klettres",
    "ktuberling-data": "/usr/share/ktuberling/sounds",
}
"""Debian packages with recordings of people who name things and letters, in more than thirty languages: 3.9 hours, some
sounds of the things among them."""


def sound(folder: Path, quick: bool) -> Worth:
    """The corpus: sentences, commands, people. Words and requests are for choices, numbers and commands held out."""
    voices = espeak().voices[:: 12 if quick else 1]
    test = [voice for voice in voices if share(f"test {voice}") < 0.25]
    dev = [voice for voice in voices if voice not in test and share(f"dev {voice}") < 0.2]
    train = [voice for voice in voices if voice not in test and voice not in dev]
    count = 2 if quick else 40
    said = [(text, voice) for voice in train for text in sentences_of(voice, count)]
    words = [word for word in demo.WORDS if word not in NUMBERS][: 4 if quick else 30]
    parts = {
        "sentences": said,
        "dev-fit": list(product(words, train)),
        "dev-judge": list(product(words, dev)),
        "numbers-fit": list(product(NUMBERS[: 4 if quick else 20], train)),
        "numbers-judge": list(product(NUMBERS[: 4 if quick else 20], test)),
    }
    spoken = {name: _kept(folder / f"{name}.npz", lambda lines=lines: _espeak(lines)) for name, lines in parts.items()}

    def words_of(name: str) -> Part:
        rows = zip(spoken[name], parts[name], strict=True)
        unique = {clip.tobytes(): (clip, word, voice) for clip, (word, voice) in rows}  # a few voices are alike
        return part(list(unique.values()), grouped=True)

    fit, judge = _intents(folder, "commands", INTENTS, LEARNED, HEARD, _programs, quick)
    asked = _intents(folder, "requests", REQUESTS, (train[0], train[len(train) // 2]), dev[::3], _espeak, quick)
    others = _intents(folder, "errands", REQUESTS, LEARNED, (STRANGER,), _programs, quick)
    given = [*spoken["sentences"], *fit.inputs, *_kept(folder / "people.npz", lambda: _people(quick))]
    corpus = ArraySource("spectrogram", given, [f"clip {i}" for i in range(len(given))])
    questions = (
        Question(
            "words",
            "which of 30 words, by voices of eSpeak NG that are in neither the corpus nor a test",
            words_of("dev-fit"),
            words_of("dev-judge"),
        ),
        Question(
            "requests",
            "what a spoken request wants, 8 intents; other wordings and voices than those learned from, by eSpeak NG",
            *asked,
        ),
        Question(
            "errands",
            "the same, learned from two voices of Flite, by a voice of Festival",
            *others,
        ),
        Question(
            "numbers",
            "which number, zero to nineteen, by other voices of eSpeak NG that are not in the corpus",
            words_of("numbers-fit"),
            words_of("numbers-judge"),
            chosen_on="words",
        ),
        Question(
            "commands",
            "what a spoken command wants, 8 intents; other wordings and other voices (Flite) than those learned from",
            fit,
            judge,
            chosen_on="errands",
        ),
    )
    if quick:
        questions = tuple(few(one, 24) for one in questions)
    made = Worth("speech-small", {}, corpus, questions[:3], questions[3:], {"log-mel mean and deviation": _log_mel})
    check(made, lambda clip: clip.tobytes())
    return made


def _log_mel(fit: Part, judge: Part) -> tuple[np.ndarray, np.ndarray]:
    both = [np.stack([demo.log_mel_statistics(clip) for clip in one.inputs]) for one in (fit, judge)]
    return both[0], both[1]


def _intents(
    folder: Path,
    name: str,
    intents: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]],
    learned: Sequence[str],
    heard: Sequence[str],
    say: Callable[[list[tuple[str, str]]], list[np.ndarray]],
    quick: bool,
) -> tuple[Part, Part]:
    """The wordings to learn from by some voices, and the others by others; groups are wordings."""
    lines: dict[str, list[tuple[str, str, str]]] = {"fit": [], "judge": []}
    for intent, (begins, ends) in intents.items():
        for before, begin, end, after in product(BEFORE, begins, ends, AFTER):
            text = " ".join(word for word in (before, begin, end, after) if word)
            held = share(f"command {text}") < 0.3
            if share(f"chosen {text}") < (0.02 if quick else 0.35):
                for voice in heard if held else learned:
                    lines["judge" if held else "fit"].append((text, voice, intent))
    found = []
    for kind, those in lines.items():
        clips = _kept(folder / f"{name}-{kind}.npz", lambda those=those: say([one[:2] for one in those]))
        rows = [(clip, intent, text) for clip, (text, _, intent) in zip(clips, those, strict=True)]
        found.append(part(rows, grouped=True))
    return found[0], found[1]


def _espeak(lines: list[tuple[str, str]]) -> list[np.ndarray]:
    """int16 clips at 16 kHz of (text, voice); rate and pitch differ from line to line."""
    draws = [int(2**32 * share(f"{voice}: {text}")) for text, voice in lines]
    said = [(*line, 150 + draw % 51, 40 + draw // 64 % 21) for line, draw in zip(lines, draws, strict=True)]
    rate, raw = speak(said)
    with ThreadPoolExecutor(2) as pool:  # soxr releases the interpreter lock
        return list(pool.map(lambda clip: soxr.resample(clip, rate, demo.SAMPLE_RATE), raw))


def _programs(lines: list[tuple[str, str]]) -> list[np.ndarray]:
    """int16 clips at 16 kHz of (text, voice), by the program that has the voice."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda line: (_festival if line[1] == STRANGER else _flite)(*line), lines))


def _flite(text: str, voice: str) -> np.ndarray:
    made = subprocess.run(
        [_program("flite", "flite"), "-voice", voice, "-t", text, "-o", "/dev/stdout"], capture_output=True, check=True
    ).stdout
    with wave.open(io.BytesIO(made)) as file:
        if file.getframerate() != demo.SAMPLE_RATE or file.getsampwidth() != 2:
            raise SystemExit(f"flite's voice {voice} is not of 16 kHz and 16 bits")
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def _festival(text: str, voice: str) -> np.ndarray:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = [_program("text2wave", "festival festvox-kdlpc16k"), "-eval", f"({voice})", "-o", file.name]
        subprocess.run(command, input=text.encode(), capture_output=True, check=True)
        clip, rate = soundfile.read(file.name, dtype="int16")
    if rate != demo.SAMPLE_RATE:
        raise SystemExit(f"Festival's {voice} is not of 16 kHz")
    return np.asarray(clip)


def _program(name: str, packages: str) -> str:
    """Where a program is; an error says what to install."""
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is not there: apt-get install {packages}")
    return found


def _people(quick: bool) -> list[np.ndarray]:
    """int16 clips at 16 kHz, half a second at least, none of them twice."""
    found: dict[bytes, np.ndarray] = {}
    for package, folder in PEOPLE.items():
        files = sorted(Path(folder).rglob("*.ogg"))
        if not files:
            raise SystemExit(f"{folder} has no recordings: apt-get install {package}")
        for file in files[:: 400 if quick else 1]:
            sound, rate = soundfile.read(file, dtype="float32", always_2d=True)
            clip = soxr.resample(sound.mean(1), rate, demo.SAMPLE_RATE)
            if len(clip) >= demo.SAMPLE_RATE / 2 and (peak := np.abs(clip).max()) > 1e-3:
                kept = np.round(clip * (0.7 * 32767 / peak)).astype(np.int16)
                found[kept.tobytes()] = kept
    return list(found.values())


def _kept(file: Path, make: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
    """The clips in a file; made and written if it is not there."""
    if not file.is_file():
        clips = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, samples=np.concatenate(clips), ends=np.cumsum([len(clip) for clip in clips]))
    with np.load(file) as made:
        return np.split(made["samples"], made["ends"][:-1])
