"""Texts with labels for quality_per_cost.py: what a passage is about, told from the mean of its features.

The demo of text asks what letter is hidden, at a mask token. A student of data2vec 2.0 never sees one, so that task
would be unfair to it. Here the whole passage is seen.

Texts are word pieces, not bytes as in the demo: as bytes neither method does better than an untrained network in the
time of a tiny preset (docs/measured.md). All passages have the same length: where they differ, so does the part of the
mean that positions have, and nearest neighbours are those of the same length.
"""

from __future__ import annotations

import gzip
import re
import sysconfig
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast import presets
from d2v_fast.demo.task import DemoError, Labelled, Task, content_hash, held_out
from d2v_fast.demo.text import docstrings, topics
from d2v_fast.modalities.text import tokenizer as vocabulary
from d2v_fast.modalities.text.blocks import TextBlocks

TEST_SHARE = 1 / 3
"""Of the texts, by a hash of what each begins with."""

BEGINNING = 63
"""Bytes that are hashed: fewer than nearly every passage has, so that both parts share none."""

DICTIONARY = Path("/usr/share/dictd/gcide.dict.dz")
"""From the Debian package dict-gcide."""

FIELDS = {
    "Anat.": "anatomy",
    "Arch.": "architecture",
    "Biol.": "biology",
    "Bot.": "botany",
    "Chem.": "chemistry",
    "Med.": "medicine",
    "Mil.": "the military",
    "Min.": "minerals",
    "Mus.": "music",
    "Naut.": "the sea",
    "Physiol.": "physiology",
    "Zool.": "animals",
}
"""The dictionary's name of a field to ours: those with more than 600 definitions."""

VOCABULARY = 1024
"""Word pieces of the tokenizer, which is trained on the corpus; bytes and special tokens are among them."""

PASSAGE = 32
"""Tokens of a passage, the begin token included: the beginning of a text that has so many."""

SHORTEST = 40
"""Bytes of a definition, at least."""

LONG = 4 * PASSAGE
"""Bytes of a text that has a passage, about."""


def standard_library() -> Task:
    """The text of the demo, and which of the 16 modules with most documentation a passage of it belongs to.

    Raises:
        DemoError: This Python comes without the sources of its library.
    """
    found = docstrings(Path(sysconfig.get_path("stdlib")))
    if len(found) < 1000:
        raise DemoError(f"this Python has only {len(found)} docstrings: use one that comes with its library's sources")
    long = Counter(module for module, text in found if len(text.encode()) >= LONG)
    classes = tuple(sorted(name for name, _ in long.most_common(16)))
    about = "docstrings of this Python's standard library and its help topics"
    return _task(found, topics(), classes, "module", about, (250, 100))


def dictionary() -> Task:
    """Definitions of a dictionary (GCIDE) that belong to a field, and which of twelve it is.

    Raises:
        DemoError: The dictionary is not installed.
    """
    if not DICTIONARY.is_file():
        raise DemoError(f"there is no {DICTIONARY}: apt-get install dict-gcide")
    found = definitions(gzip.decompress(DICTIONARY.read_bytes()).decode("utf-8", "replace"))
    about = "definitions of a dictionary (GCIDE)"
    return _task(found, [], tuple(sorted(FIELDS.values())), "field", about, (500, 150))


def definitions(text: str) -> list[tuple[str, str]]:
    """(field, definition) of every definition that the dictionary marks with a field and nothing stands before."""
    names = "|".join(re.escape(name) for name in FIELDS)
    marked = re.compile(
        rf"\(({names})\)\s+(.+?)(?=\n\s*\n|\s\[1913|\s--[A-Z]|\sNote:|\sSyn:|\([A-Z][a-z]+\.\))", re.DOTALL
    )
    found: dict[str, str] = {}
    for match in marked.finditer(text):
        words = " ".join(re.sub(r"[{}]|^\([a-z]\)\s", "", match[2]).split())
        if len(words) >= SHORTEST:
            found.setdefault(words, FIELDS[match[1]])
    return [(field, words) for words, field in found.items()]


def _task(
    found: Sequence[tuple[str, str]],
    more: Sequence[str],
    classes: tuple[str, ...],
    label: str,
    about: str,
    examples: tuple[int, int],
) -> Task:
    """Pretraining on `more` and the training part of `found`, which are (label, text); passages of both parts.

    `examples` are the passages of each class, at most, in the training and the test part.
    """
    config: Any = presets.text_tiny()
    block = config.inputs.block_size
    hidden = [held_out(text.encode()[:BEGINNING], TEST_SHARE) for _, text in found]
    corpus = [*more, *(text for (_, text), held in zip(found, hidden, strict=True) if not held)]
    tokenizer = vocabulary.train(corpus, VOCABULARY)
    special = vocabulary.specials(tokenizer)

    def encoded(texts: Sequence[str]) -> list[np.ndarray]:
        rows = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(row.ids, dtype=np.int64) for row in rows]

    seen: set[bytes] = set()  # texts that differ can begin in the same way

    def part(held: bool, count: int) -> Labelled:
        chosen = [pair for pair, its in zip(found, hidden, strict=True) if its is held]
        passages, labels = [], []
        for number, name in enumerate(classes):
            new = []
            for ids in encoded([text for its, text in chosen if its == name]):
                passage = np.concatenate([[special.begin], ids[: PASSAGE - 1]])
                if len(passage) == PASSAGE and passage.tobytes() not in seen:
                    seen.add(passage.tobytes())
                    new.append(passage)
            places = np.linspace(0, len(new) - 1, min(count, len(new))).astype(int)
            passages += [new[i] for i in places]
            labels += [number] * len(places)
        bags = np.stack([np.bincount(passage, minlength=vocabulary.size(tokenizer)) for passage in passages])
        return Labelled(passages, np.array(labels, dtype=np.int64), np.log1p(bags).astype(np.float32))

    stream = np.concatenate([row for ids in encoded(corpus) for row in (ids, [special.end])])
    return Task(
        preset="text-tiny",
        source=TextBlocks(stream, tokenizer, block, f"{content_hash(stream.tobytes()):016x}"),
        train=part(False, examples[0]),
        test=part(True, examples[1]),
        classes=classes,
        label=label,
        floor="counts of word pieces",
        about=f"{len(found)} {about}, a third of them held out",
    )
