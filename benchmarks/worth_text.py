"""The texts of worth.py: definitions of a dictionary, novels of Jane Austen, and docstrings of Python's library."""

from __future__ import annotations

import gzip
import re
import sysconfig
import zlib
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import quality_text
from worth_parts import Part, Question, Worth, check, few, part, share

from d2v_fast.demo.text import docstrings, topics

AUSTEN = Path("/usr/lib/R/site-library/janeaustenr/data")
BOOKS = {
    "northangerabbey": "Northanger Abbey",
    "persuasion": "Persuasion",
    "prideprejudice": "Pride and Prejudice",
    "sensesensibility": "Sense and Sensibility",
    "emma": "Emma",
    "mansfieldpark": "Mansfield Park",
}
UNREAD = ("emma", "persuasion")
"""Novels that neither the corpus nor a probe has seen."""

LEAST, MOST = 8, 40
"""Words of a sentence that may be put out of order."""


def texts(folder: Path, quick: bool) -> Worth:
    """Pretraining on all three, but for what is held out; docstrings are for choices, the others held out."""
    library = Path(sysconfig.get_path("stdlib"))
    found = docstrings(library / "asyncio" if quick else library)
    topic = quality_text.definitions(_dictionary())
    novels = {name: _sentences(lines) for name, lines in read_novels(AUSTEN).items()}
    code = [(text, module, module) for module, text in found]
    packages = [name for name, _ in Counter(module for _, module, _ in code).most_common(10)]
    named = [(_one_line(text), module, "") for text, module, _ in code if module in packages]
    named = list({text[:400]: (text[:400], module, "") for text, module, _ in named}.values())
    fields = [(text, field, "") for field, text in topic][:: 1 + len(topic) // 8000]
    read = [(text, name) for name, those in novels.items() for text in those]
    learned = [(text, name) for text, name in read if name not in UNREAD]
    unread = [(text, name) for text, name in read if name in UNREAD]
    halves = _halves(named)
    questions = (
        Question("packages", "which of ten packages of Python's library a docstring is of", *halves),
        Question(
            "order of docstrings",
            "whether two neighbouring words of a sentence of a docstring have changed places",
            *_apart(*(part(_shifted(_sentences_of(half)), grouped=False) for half in halves)),
        ),
        Question(
            "fields",
            "which of twelve fields a definition of a dictionary (GCIDE) belongs to",
            *_halves(fields),
            chosen_on="packages",
        ),
        Question(
            "order of words",
            "whether two neighbouring words of a sentence have changed places ('bigram shift', Conneau et al., 2018); "
            "novels of Jane Austen, two of which only the test has",
            *_apart(
                part(_shifted(learned[:: max(1, len(learned) // 4000)]), grouped=True),
                part(_shifted(unread[:: max(1, len(unread) // 2000)]), grouped=True),
            ),
            chosen_on="order of docstrings",
        ),
    )
    hidden = {text for question in questions for text in question.judge.inputs}
    whole = [_one_line(text) for text, _, _ in code if _one_line(text)[:400] not in hidden]
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    written = {
        "definitions": [text for text, _, _ in fields if text not in hidden],
        "docstrings": [*topics(), *whole],
        "novels": [" ".join(those) for name, those in novels.items() if name not in UNREAD],
    }
    for name, those in written.items():
        (corpus / f"{name}.txt").write_text("\n\n".join(those[: 40 if quick else None]), encoding="utf-8")
    if quick:
        questions = tuple(few(one, 60) for one in questions)
    floors = {
        "TF-IDF of words": lambda fit, judge: _tf_idf(fit, judge, "word", (1, 2)),
        "TF-IDF of character n-grams": lambda fit, judge: _tf_idf(fit, judge, "char", (1, 4)),
    }
    changes = {"model.embedding.vocab_size": 400} if quick else {}
    made = Worth("text-small", changes, corpus, questions[:2], questions[2:], floors)
    check(made, str.encode)
    return made


def _halves(found: Sequence[tuple[str, str, str]]) -> tuple[Part, Part]:
    """A fifth to be judged by, by the content."""
    ways = [share(f"judge {text}") < 0.2 for text, _, _ in found]
    fit, judge = (
        part([one for one, held in zip(found, ways, strict=True) if held is asked], grouped=False)
        for asked in (False, True)
    )
    return fit, judge


def _apart(fit: Part, judge: Part) -> tuple[Part, Part]:
    """Without what both have, in the part to learn from."""
    known = set(judge.inputs)
    return fit.take([i for i, text in enumerate(fit.inputs) if text not in known]), judge


def _sentences_of(docstrings_: Part) -> list[tuple[str, str]]:
    return [(one, "docstrings") for text in docstrings_.inputs for one in _sentences([text])]


def _shifted(sentences: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """(sentence, "as written" or "changed", group): a half of them with two neighbours swapped.

    The group is a stretch of 50 sentences of one book.
    """
    made = []
    for number, (text, book) in enumerate(dict.fromkeys(sentences)):
        words = text.split()
        changed = share(f"swap {text}") < 0.5
        if changed:
            places = [i for i in range(1, len(words) - 2) if words[i].lower() != words[i + 1].lower()]
            if not places:
                continue
            i = places[int(share(f"where {text}") * len(places))]
            words[i : i + 2] = words[i + 1], words[i]
        made.append((" ".join(words), "changed" if changed else "as written", f"{book} {number // 50}"))
    return made


def _sentences(lines: Sequence[str]) -> list[str]:
    """Sentences of LEAST to MOST words."""
    text = " ".join(" ".join(lines).split())
    found = re.findall(r"[A-Z][^.!?]+[.!?]", text)
    return [one for one in dict.fromkeys(found) if LEAST <= len(one.split()) <= MOST]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _tf_idf(fit: Part, judge: Part, kind: str, lengths: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Of the 4,000 most frequent terms."""
    text: Any = import_module("sklearn.feature_extraction.text")
    counter = text.TfidfVectorizer(analyzer=kind, ngram_range=lengths, sublinear_tf=True, max_features=4000)
    first = counter.fit_transform(fit.inputs).toarray().astype(np.float32)
    return first, counter.transform(judge.inputs).toarray().astype(np.float32)


def _dictionary() -> str:
    if not quality_text.DICTIONARY.is_file():
        raise SystemExit(f"there is no {quality_text.DICTIONARY}: apt-get install dict-gcide")
    return gzip.decompress(quality_text.DICTIONARY.read_bytes()).decode("utf-8", "replace")


def read_novels(folder: Path) -> dict[str, list[str]]:
    """The lines of each novel, from R's "lazy-load" files: an index of (place, length), and compressed objects."""
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there: apt-get download r-cran-janeaustenr && dpkg -x *.deb / (no R needed)")
    rdata: Any = import_module("rdata")

    def decoded(packed: bytes) -> Any:
        return rdata.conversion.convert(rdata.parser.parse_data(packed))

    index = decoded(gzip.decompress((folder / "Rdata.rdx").read_bytes()))["variables"]
    packed = (folder / "Rdata.rdb").read_bytes()
    novels = {}
    for name in BOOKS:
        place, length = (int(value) for value in index[name])
        object_ = zlib.decompress(packed[place + 4 : place + length])  # before it stands its size
        novels[name] = [str(line) for line in decoded(object_)]
    return novels
