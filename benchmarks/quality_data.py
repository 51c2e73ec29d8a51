"""The data of quality_per_cost.py: for each modality that of its demo, and larger sets.

A set is a `Task` of the demo (what is pretrained on, a training part and a test part with labels) and what it changes
in the tiny presets, in both of them alike: width and depth stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import quality_text
from outcomes_data import NUMBERS, clothes, sentences_of

from d2v_fast.data import ArraySource
from d2v_fast.demo.speech import of_words
from d2v_fast.demo.task import Labelled, Task


@dataclass(frozen=True)
class Data:
    """A set."""

    task: Task

    changes: Mapping[str, Any] = field(default_factory=dict)
    """Dotted name of a field to its value, in the presets of both methods."""

    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The same for a single method: "1.0" or "2.0" to fields, such as the steps of its longest run."""


def demo(modality: str) -> Data:
    """What `d2v-fast demo` takes."""
    return Data(import_module(f"d2v_fast.demo.{modality}").task())


def fashion(modality: str) -> Data:
    """Fashion-MNIST, 28 x 28 grey pictures in 49 patches: the first 4,000 for training, 2,000 of its test files.

    All 4,000 are pretrained on and have labels for the probes.
    """
    (pixels, labels), (other, wanted) = clothes()

    def part(images: np.ndarray, classes: np.ndarray) -> Labelled:
        return Labelled(list(images), classes.astype(np.int64), images.reshape(len(images), -1).astype(np.float32))

    train, test = part(pixels[:4000], labels[:4000]), part(other[:2000], wanted[:2000])
    task = Task(
        preset="vision-tiny",
        source=ArraySource(modality, train.inputs, [f"picture {i}" for i in range(len(train))]),
        train=train,
        test=test,
        classes=("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"),
        label="kind of clothes",
        floor="pixels",
        about="4,000 pictures of clothes (Fashion-MNIST), 2,000 others held out",
    )
    changes = {
        "model.embedding.image_size": 28,
        "model.embedding.patch_size": 4,
        "inputs.mean": (0.286,),
        "inputs.std": (0.353,),
    }
    return Data(task, changes, {"1.0": {"steps": 450}, "2.0": {"steps": 360}})


def commands(modality: str) -> Data:
    """Number words as labels, and commands to pretrain on: 40 of each voice."""
    return Data(of_words(NUMBERS, lambda voice: sentences_of(voice, 40)))


PIECES: Mapping[str, Any] = {"model.embedding.vocab_size": quality_text.VOCABULARY}
"""Word pieces instead of bytes, for both methods."""


def standard_library(modality: str) -> Data:
    """The texts of the demo with another question, see quality_text.py."""
    return Data(quality_text.standard_library(), PIECES)


def dictionary(modality: str) -> Data:
    """Definitions from a dictionary and their field, see quality_text.py."""
    return Data(quality_text.dictionary(), PIECES)


SETS: dict[str, dict[str, Callable[[str], Data]]] = {
    "vision": {"demo": demo, "fashion": fashion},
    "speech": {"demo": demo, "commands": commands},
    "text": {"demo": standard_library, "dictionary": dictionary},
}
"""Modality to name to what makes the set."""
