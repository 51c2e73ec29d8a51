"""CPython's own documentation: docstrings of the standard library and pydoc's topics, from the Python that runs."""

from __future__ import annotations

import ast
import os
import string
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from d2v_fast import presets
from d2v_fast.demo.task import DemoError, Labelled, Task, content_hash, held_out, require
from d2v_fast.modalities.text import tokenizer as vocabulary
from d2v_fast.modalities.text.blocks import TextBlocks
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs

TEST_SHARE = 1 / 3
"""Of the docstrings, by a hash of their words: the second third, since `text-tiny` was set with a look at the first."""

LEAST_WORDS = 5
"""Shorter docstrings are left out."""

LETTERS = 16
"""Classes: the most frequent letters of the training part."""

WINDOW = 40
"""Bytes around a hidden letter, itself included."""

EXAMPLES = (250, 60)
"""Windows of each class for the probes' training and test part."""

_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3", "distutils"}


def task() -> Task:
    """The letter that is hidden in a line of text; a third of the docstrings is held out.

    What a bag of letters says about the hidden one is little: it takes the order of the letters around it. So this asks
    for what only a context network can learn, where the subject of a text, say, is told by its words alone.

    Raises:
        DemoError: scikit-learn is not installed, or this Python comes without the sources of its library.
    """
    require("sklearn")
    found = docstrings(Path(sysconfig.get_path("stdlib")))
    if len(found) < 1000:
        raise DemoError(
            f"this Python has only {len(found)} docstrings in {sysconfig.get_path('stdlib')}: use a full one"
        )
    hidden = {i for i, (_, text) in enumerate(found) if held_out(_words(text), TEST_SHARE, TEST_SHARE)}

    config = presets.text_tiny()
    assert isinstance(config.inputs, TextInputs)
    assert isinstance(config.model.embedding, TextEmbedding)
    train = [text for i, (_, text) in enumerate(found) if i not in hidden]
    corpus = [*topics(), *train]
    tokenizer = vocabulary.train(corpus, config.model.embedding.vocab_size)
    special = vocabulary.specials(tokenizer)

    def documents(texts: Sequence[str]) -> list[np.ndarray]:
        encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(e.ids, dtype=np.int64) for e in encoded]

    stream = np.concatenate([part for ids in documents(corpus) for part in (ids, [special.end])])
    source = TextBlocks(stream, tokenizer, config.inputs.block_size, f"{content_hash(stream.tobytes()):016x}")

    alphabet = {token: int(tokenizer.token_to_id(token) or 0) for token in string.ascii_lowercase}
    counts = np.bincount(stream, minlength=config.model.embedding.vocab_size)
    classes = tuple(sorted(sorted(alphabet, key=lambda letter: -counts[alphabet[letter]])[:LETTERS]))
    letters = [alphabet[letter] for letter in classes]

    seen: set[bytes] = set()  # docstrings that differ can share a window

    def part(texts: Sequence[str], count: int) -> Labelled:
        windows, places, labels = _windows(documents(texts), letters, count, special.begin, special.mask)
        new = []
        for i, window in enumerate(windows):
            if window.tobytes() not in seen:
                seen.add(window.tobytes())
                new.append(i)
        windows, places, labels = [windows[i] for i in new], places[new], labels[new]
        bags = np.stack([np.bincount(window, minlength=len(counts)) for window in windows])
        return Labelled(windows, labels, np.log1p(bags).astype(np.float32), positions=places)

    return Task(
        preset="text-tiny",
        source=source,
        train=part(train, EXAMPLES[0]),
        test=part([found[i][1] for i in sorted(hidden)], EXAMPLES[1]),
        classes=classes,
        label="hidden letter",
        floor="letter counts",
        about=(
            f"{len(found)} docstrings of this Python's standard library and its {len(topics())} help topics, as bytes; "
            f"a third of the docstrings held out by content hash; the task: which of the {LETTERS} most frequent "
            f"letters is hidden in {WINDOW} bytes, equally many of each"
        ),
    )


def _windows(
    documents: Sequence[np.ndarray], letters: Sequence[int], count: int, begin: int, mask: int
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """`count` windows for each letter, from occurrences evenly spread over the documents, with the letter masked.

    Returns:
        Windows int64 [1 + WINDOW] with the begin token first, the position of the mask in each, and the labels.
    """
    middle = WINDOW // 2
    long = [ids for ids in documents if len(ids) >= WINDOW]
    owner = np.concatenate([np.full(len(ids) - WINDOW + 1, i) for i, ids in enumerate(long)])
    start = np.concatenate([np.arange(len(ids) - WINDOW + 1) for ids in long])
    centre = np.concatenate([ids[middle : len(ids) - WINDOW + 1 + middle] for ids in long])
    windows, labels = [], []
    for label, letter in enumerate(letters):
        places = np.flatnonzero(centre == letter)
        for i in places[np.linspace(0, len(places) - 1, min(count, len(places))).astype(int)]:
            window = long[owner[i]][start[i] : start[i] + WINDOW].copy()
            window[middle] = mask
            windows.append(np.concatenate([[begin], window]))
            labels.append(label)
    return windows, np.full(len(windows), 1 + middle), np.array(labels, dtype=np.int64)


def topics() -> list[str]:
    """The texts behind `help("topics")`."""
    from pydoc_data.topics import topics as texts

    return [texts[name] for name in sorted(texts)]


def docstrings(library: Path) -> list[tuple[str, str]]:
    """(top-level module, docstring) of everything documented in a folder of sources, read without importing anything.

    Docstrings that differ in white space only count once; short ones do not count. In the order of paths and lines.
    """
    seen: set[bytes] = set()
    found = []
    for path in _sources(library):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of the sources, not of ours
            tree = ast.parse(path.read_bytes())
        module = path.relative_to(library).parts[0].removesuffix(".py")
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node) or ""
                words = _words(text)
                if words.count(b" ") + 1 >= LEAST_WORDS and words not in seen:
                    seen.add(words)
                    found.append((module, text))
    return found


def _sources(library: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(library):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("config-"))
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _words(text: str) -> bytes:
    """The text with all white space made equal."""
    return " ".join(text.split()).encode()
