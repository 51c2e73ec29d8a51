"""A small language model of words from sentences, written in ARPA format: Witten and Bell's interpolation.

For real work take KenLM or SRILM; what they write is read likewise.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

Gram = tuple[str, ...]


def write_arpa(path: Path, sentences: Sequence[str], order: int = 3) -> Path:
    """p(w | h) = (n(h w) + t(h) p(w | shorter h)) / (n(h) + t(h)), where t(h) is how many different words follow h.

    Below one word stands 1 / (words + 1), so `<unk>` has a probability too.
    """
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    followers: dict[Gram, Counter[str]] = defaultdict(Counter)
    for sentence in sentences:
        words = ["<s>", *sentence.split(), "</s>"]
        for end in range(1, len(words)):
            for size in range(1, min(order, end + 1) + 1):
                gram = tuple(words[end + 1 - size : end + 1])
                counts[size - 1][gram] += 1
                followers[gram[:-1]][gram[-1]] += 1
    floor = 1 / (len(counts[0]) + 1)

    def left(history: Gram) -> float:
        """The share that shorter histories have: the backoff weight."""
        seen = followers[history]
        return len(seen) / (sum(seen.values()) + len(seen))

    def probability(gram: Gram) -> float:
        if not gram:
            return floor
        seen, history = followers[gram[:-1]], gram[:-1]
        shorter = probability(gram[1:])
        return seen[gram[-1]] / (sum(seen.values()) + len(seen)) + left(history) * shorter

    def line(gram: Gram) -> str:
        weight = f"\t{math.log10(left(gram)):.6f}" if len(gram) < order and gram in followers else ""
        return f"{math.log10(probability(gram)):.6f}\t{' '.join(gram)}{weight}\n"

    sections = [[line(gram) for gram in sorted(some)] for some in counts]
    begin = f"\t{math.log10(left(('<s>',))):.6f}" if order > 1 else ""
    sections[0] += [f"-99\t<s>{begin}\n", f"{math.log10(left(()) * floor):.6f}\t<unk>\n"]
    head = "".join(f"ngram {i}={len(lines)}\n" for i, lines in enumerate(sections, 1))
    body = "".join(f"\n\\{i}-grams:\n" + "".join(lines) for i, lines in enumerate(sections, 1))
    part = path.with_suffix(f".{os.getpid()}")  # another process may be reading the file
    part.write_text(f"\\data\\\n{head}{body}\n\\end\\\n")
    return part.replace(path)
