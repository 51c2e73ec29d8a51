"""Long samples in overlapping windows: where these lie, and their inputs in batches. Memory holds a few windows.

Each window stands for its middle: a border between two windows lies in the middle of what they share, so what a network
makes of the ends of a window, where it cannot see on, is not used. A window is prepared with the scale of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from d2v_fast import registry
from d2v_fast.data import DataSource
from d2v_fast.errors import ConfigError, DataError, SampleError, failed
from d2v_fast.evaluation.ahead import ahead
from d2v_fast.log import tell
from d2v_fast.models import Encoder
from d2v_fast.models.grouping import grouped

_SHARE = 5
"""The overlap is a window divided by this, if nobody says how long it is."""


@dataclass(frozen=True)
class Window:
    """A window of a long sample, in steps; see `d2v_fast.modalities.long.Timing`."""

    first: int
    """Its first step."""

    begin: int
    """The first step that it stands for."""

    end: int
    """The step behind the last one that it stands for."""


def plan(steps: int, count: int, overlap: int) -> list[Window]:
    """Windows of `count` steps that cover `steps` of them; what they stand for follows each other without a gap.

    The last window ends with the sample and may overlap more.

    Args:
        steps: Of the sample, more than `count`.
        count: Of a window.
        overlap: Of two windows, below `count`.
    """
    hop = count - overlap
    firsts = [*range(0, steps - count, hop), steps - count]
    borders = [0, *((a + count + b + 1) // 2 for a, b in pairwise(firsts)), steps]
    return [Window(first, *edges) for first, edges in zip(firsts, pairwise(borders), strict=True)]


@dataclass(frozen=True)
class Part:
    """One window of one sample, on its way through a network."""

    sample: int
    window: Window
    last: bool
    """Whether it is the last one of its sample."""


class Windows:
    """How the long samples of an encoder are cut.

    Args:
        encoder: Of a run.
        window: Seconds of a window, of text tokens; None: the longest input that training has; 0: all is used whole.
        overlap: Of two windows, likewise; None: a fifth of a window.
        told: Whether a person knows already that long samples are cut.

    Attributes:
        count: Steps of a window; 0 where all samples are used whole.
        seconds: From one step to the next, in seconds; 1 where steps are no time, as in text.
        tokens: Of a step.

    Raises:
        ConfigError: They cannot be used.
    """

    def __init__(
        self, encoder: Encoder, window: float | None = None, overlap: float | None = None, *, told: bool = False
    ) -> None:
        self._inputs, self._embedding = encoder.inputs, encoder.config
        self._modality: Any = registry.get(encoder.config.modality)
        timing = None if self._inputs is None else self._modality.timing(self._inputs, self._embedding)
        self.count = self.overlap = 0
        self.seconds, self.tokens, self._told, self._unit = 1.0, 1, told, "tokens"
        for name, value in (("window", window), ("overlap", overlap)):
            if value is not None and not (np.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} is {value}: seconds (of text: tokens), 0 or more")
        if timing is None:
            if window or overlap:
                raise ConfigError(f"window: samples of {self._modality.name} are used whole: leave it out")
            return
        self.tokens = timing.tokens
        if timing.seconds is not None:
            self.seconds, self._unit = timing.seconds, "s"
        if window == 0:
            return
        self.count = timing.longest if window is None else round(window / self.seconds)
        if timing.most is not None and self.count > timing.most:
            raise ConfigError(
                f"window is {window:g}, but the model takes {timing.most * self.seconds:g} {self._unit} at most"
            )
        least = timing.overlap
        self.overlap = max(least, self.count // _SHARE) if overlap is None else round(overlap / self.seconds)
        if not least <= self.overlap < self.count:
            raise ConfigError(
                f"overlap is {self.overlap * self.seconds:g} {self._unit}: at least {least * self.seconds:g}, and less "
                f"than the window of {self.count * self.seconds:g} {self._unit}"
            )

    def long(self, source: DataSource, index: int) -> Any | None:
        """The sample as a `Long`, if it is longer than a window; None if it is used whole.

        The first one is said.
        """
        if not self.count:
            return None
        name = source.name(index)
        try:
            while hasattr(type(source), "origin"):
                wrapped: Any = source
                source, index = wrapped.origin(index)
            found = self._modality.long(source, index, self._inputs, self._embedding)
        except (DataError, SampleError, OSError, ValueError):  # whoever reads it whole says what is wrong with it
            return None
        if found is None or found.steps <= self.count:
            return None
        if not self._told:
            self._told = True
            tell(
                f"samples longer than {self._shown(self.count)} are taken in windows of that length, which overlap by "
                f"{self._shown(self.overlap)} (the first is {name}; window, overlap)"
            )
        return found

    @property
    def step(self) -> tuple[float, int] | None:
        """Seconds from one step to the next, and tokens of a step; None where there is no time."""
        return (self.seconds, self.tokens) if self._unit == "s" else None

    def _shown(self, steps: int) -> str:
        return f"{steps * self.seconds:.4g} {self._unit}"

    def plan(self, steps: int) -> list[Window]:
        """The windows of a sample of so many steps."""
        return plan(steps, self.count, self.overlap)

    def batches(
        self,
        samples: Iterable[tuple[int, Any]],
        batch_size: int,
        threads: int,
        broken: Callable[[int, SampleError], None],
        name: Callable[[int], str],
    ) -> Iterator[tuple[Sequence[Part], Tensor]]:
        """(windows, inputs [B, ...]) of long samples, those of a sample in their order, sample after sample.

        Args:
            samples: (number, `Long`).
            batch_size: Windows in a batch at most.
            threads: That read.
            broken: Told the number of a sample of which a window cannot be read, once, and why. Windows of it may have
                come before; no other comes behind it.
            name: Of a sample, for messages.
        """
        bad: set[int] = set()

        def tasks() -> Iterator[tuple[Part, Any]]:
            for number, long in samples:
                for window in (windows := self.plan(long.steps)):
                    if number in bad:
                        break
                    yield Part(number, window, window is windows[-1]), long

        def read(task: tuple[Part, Any]) -> tuple[Part, Tensor | SampleError]:
            part, long = task
            try:
                return part, long.read(part.window.first, self.count)
            except Exception as error:  # whatever it is, it is this sample that cannot be read
                return part, failed(name(part.sample), error)

        parts: dict[int, Part] = {}

        def good() -> Iterator[tuple[int, Tensor]]:
            for i, (part, made) in enumerate(ahead(read, tasks(), threads)):
                if part.sample in bad:
                    continue
                if isinstance(made, SampleError):
                    bad.add(part.sample)
                    broken(part.sample, made)
                    continue
                parts[i] = part
                yield i, made

        for numbers, inputs in grouped(good(), batch_size):
            yield [parts.pop(i) for i in numbers], inputs

    def middle(self, part: Part, tokens: Tensor) -> Tensor:
        """What a window stands for, of the tokens [T, ...] that were made of it."""
        first = (part.window.begin - part.window.first) * self.tokens
        return tokens[first : first + (part.window.end - part.window.begin) * self.tokens]
