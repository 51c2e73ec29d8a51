"""eSpeak NG through ctypes: the library and its voices come with the package `espeakng-loader`.

The library keeps state from one utterance to the next, also over a restart: what it says depends a little on what it
said before. So `speak` has a list of lines said by a process of its own, and the same list always sounds the same.
"""

from __future__ import annotations

import ctypes
import functools
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.demo.task import DemoError, require

# Values of espeak-ng's speak_lib.h.
_SYNCHRONOUS, _CHARS_UTF8 = 2, 1
_RATE, _PITCH = 1, 3
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """A speech synthesiser. The library has one global state, so there is one object: `espeak()`."""

    def __init__(self) -> None:
        loader = require("espeakng_loader")
        self._library: Any = ctypes.CDLL(loader.get_library_path())
        data = Path(loader.get_data_path())
        self._pieces: list[np.ndarray] = []
        self._callback = _CALLBACK(self._receive)  # kept: the library holds only its address
        self.sample_rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode(), 0))
        if self.sample_rate <= 0:
            raise DemoError(f"eSpeak NG could not be started with the data in {data}; reinstall espeakng-loader")
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        folder = data / "voices" / "!v"
        self.voices = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_file()))
        """Names of the voice variants, each a speaker of its own."""

    def say(self, text: str, voice: str, *, language: str = "en-us", rate: int = 175, pitch: int = 50) -> np.ndarray:
        """Speak a text: int16 [samples].

        Args:
            text: What to say.
            voice: One of `voices`.
            language: An eSpeak language code.
            rate: Words per minute.
            pitch: 0 to 99.

        Raises:
            DemoError: There is no such voice or language, or nothing was said.
        """
        library, name = self._library, f"{language}+{voice}"
        if voice not in self.voices or library.espeak_SetVoiceByName(name.encode()) != 0:
            raise DemoError(f"eSpeak NG has no voice {name!r}")
        library.espeak_SetParameter(_RATE, rate, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        library.espeak_ng_SetRandSeed(1)  # some voices have breath in them
        self._pieces.clear()
        encoded = text.encode()
        library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _CHARS_UTF8, None, None)
        library.espeak_Synchronize()
        if not self._pieces:
            raise DemoError(f"eSpeak NG said nothing for {text!r} with voice {name!r}")
        return np.concatenate(self._pieces)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


@functools.cache
def espeak() -> Espeak:
    """The synthesiser, started on the first call.

    Raises:
        DemoError: espeakng-loader is not installed or does not work.
    """
    return Espeak()


def speak(lines: Sequence[tuple[str, str, int, int]]) -> tuple[int, list[np.ndarray]]:
    """The clips of lines (text, voice, rate, pitch; see `Espeak.say`), the same for the same list.

    Returns:
        The sample rate in Hz, and int16 [samples] for each line.

    Raises:
        DemoError: eSpeak NG is not installed or does not work, or a line cannot be said.
    """
    require("espeakng_loader")
    command = [sys.executable, "-m", "d2v_fast.demo.espeak"]
    # From a folder without a d2v_fast in it: -m would prefer an unbuilt source tree to the installed package.
    folder = Path(__file__).parent
    asked = json.dumps(list(lines)).encode()
    done = subprocess.run(command, input=asked, capture_output=True, check=False, cwd=folder)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise DemoError(f"speech could not be made: {reason[-1]}")
    with np.load(io.BytesIO(done.stdout)) as made:
        ends = np.cumsum(made["lengths"])[:-1]
        return int(made["rate"]), np.split(made["samples"], ends)


def _serve() -> None:
    """Says the lines on standard input (JSON) and writes the clips to standard output (npz)."""
    synthesiser = espeak()
    lines = json.load(sys.stdin)
    clips = [synthesiser.say(text, voice, rate=rate, pitch=pitch) for text, voice, rate, pitch in lines]
    packed = io.BytesIO()
    lengths = [len(clip) for clip in clips]
    np.savez(packed, rate=synthesiser.sample_rate, lengths=lengths, samples=np.concatenate(clips))
    sys.stdout.buffer.write(packed.getvalue())


if __name__ == "__main__":
    _serve()
