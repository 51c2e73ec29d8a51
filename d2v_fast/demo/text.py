"""CPython's own documentation: docstrings of the standard library and pydoc's topics, from the Python that runs."""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from d2v_fast import presets
from d2v_fast.data import tokenizer as vocabulary
from d2v_fast.data.config import TextInputs
from d2v_fast.data.text import TextBlocks
from d2v_fast.demo.task import DemoError, Labelled, Task, content_hash, held_out, require
from d2v_fast.models.config import TextEmbedding

TEST_SHARE = 1 / 3
"""Of the docstrings, by a hash of their words."""

LEAST_WORDS = 5
"""Shorter docstrings are left out: they say nothing about where they are from."""

LEAST_DOCSTRINGS = 60
"""A module or package is a class if it has as many."""

_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3", "distutils"}


def task() -> Task:
    """The module or package that a docstring comes from; a third of the docstrings is held out.

    Raises:
        DemoError: scikit-learn is not installed, or this Python comes without the sources of its library.
    """
    features = require("sklearn.feature_extraction.text")
    found = docstrings(Path(sysconfig.get_path("stdlib")))
    if len(found) < 1000:
        raise DemoError(
            f"this Python has only {len(found)} docstrings in {sysconfig.get_path('stdlib')}: use a full one"
        )
    counts = Counter(module for module, _ in found)
    classes = tuple(sorted(m for m, n in counts.items() if n >= LEAST_DOCSTRINGS and not m.startswith("_")))
    test = [i for i, (_, text) in enumerate(found) if held_out(_words(text), TEST_SHARE)]
    hidden = set(test)
    train = [i for i in range(len(found)) if i not in hidden]

    config = presets.text_tiny()
    assert isinstance(config.inputs, TextInputs)
    assert isinstance(config.model.embedding, TextEmbedding)
    corpus = [*topics(), *(found[i][1] for i in train)]
    tokenizer = vocabulary.train(corpus, config.model.embedding.vocab_size)
    special = vocabulary.specials(tokenizer)
    ids = [e.ids for e in tokenizer.encode_batch(corpus, add_special_tokens=False)]
    stream = np.array([i for document in ids for i in (*document, special.end)], dtype=np.int64)
    source = TextBlocks(stream, tokenizer, config.inputs.block_size, f"{content_hash(stream.tobytes()):016x}")

    chosen = {name: [i for i in part if found[i][0] in classes] for name, part in (("train", train), ("test", test))}
    tfidf = features.TfidfVectorizer(sublinear_tf=True, max_features=2048)
    tfidf.fit(found[i][1] for i in chosen["train"])

    def part(indices: list[int]) -> Labelled:
        texts = [found[i][1] for i in indices]
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        longest = config.inputs.block_size - 1
        inputs = [np.array([special.begin, *e.ids[:longest]], dtype=np.int64) for e in encoded]
        labels = np.array([classes.index(found[i][0]) for i in indices], dtype=np.int64)
        return Labelled(inputs, labels, tfidf.transform(texts).toarray().astype(np.float32))

    return Task(
        preset="text-tiny",
        source=source,
        train=part(chosen["train"]),
        test=part(chosen["test"]),
        classes=classes,
        label="module of a docstring",
        floor="TF-IDF",
        about=(
            f"{len(found)} docstrings of this Python's standard library and its {len(topics())} help topics; "
            f"a third of the docstrings held out by content hash; classes: modules with {LEAST_DOCSTRINGS} "
            "docstrings or more"
        ),
    )


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
