"""How samples become batches; how files become inputs is described by the modalities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from d2v_fast import launch
from d2v_fast.checks import MAY_CHANGE, Check, Section

MOST_MICRO_BATCHES = 1_000_000
"""Micro-batches of one optimizer step, at most: beyond that it is a slip, and the plan of a step would fill memory."""

MICRO_BATCHES_AHEAD = 8
"""Micro-batches that a process prepares at most, unless one step has more."""


@dataclass(frozen=True, kw_only=True)
class InputsConfig(Section):
    """How a sample of a file becomes an input of the model. Each modality has a subclass of its own."""

    section: ClassVar[str] = "inputs"

    modality: ClassVar[str]
    """Name of the modality."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig(Section):
    """Batches and their making."""

    section: ClassVar[str] = "loader"

    batch_size: int = 64
    """Samples in a micro-batch, at most."""

    batch_seconds: float | None = None
    """Speech and other signals: a micro-batch holds clips of about equal length, at most so many seconds of them; None:
    any clips, by number."""

    batch_tokens: int | None = None
    """Text: a micro-batch holds sequences of about equal length, at most this many tokens, padding included."""

    pad: bool = False
    """Speech and other signals: fill batches up with silence to the longest clip; False crops to the shortest."""

    accumulation: int = 1
    """Micro-batches in an optimizer step, on all processes together."""

    engine: Literal["auto", "dali", "native"] = "auto"
    """What decodes: NVIDIA DALI, or threads of our own; auto is DALI on a GPU if it is installed."""

    threads: int | None = field(default=None, metadata=MAY_CHANGE)
    """Threads that decode; None: 2, and with a GPU one less than there are cores, up to 16. May change."""

    prefetch: int = field(default=2, metadata=MAY_CHANGE)
    """Optimizer steps that are prepared ahead, fewer where steps are large: see `steps_ahead`. May change."""

    max_skipped: float = field(default=0.01, metadata=MAY_CHANGE)
    """Share of unreadable samples beyond which the run stops (a few are always let pass; 0: none). May change."""

    holdout: float = 0.0
    """Share of the samples kept for the validation loss."""

    allow_roots: tuple[str, ...] = field(default=(), metadata=MAY_CHANGE)
    """Folders, besides its own, from which a manifest may name files. May change."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(1, "batch_size", "batch_tokens", "accumulation", "threads", "prefetch")
        few = self.accumulation <= MOST_MICRO_BATCHES
        check.require(few, "accumulation", f"at most {MOST_MICRO_BATCHES:,}: a step holds a plan for each of them")
        check.above_zero("batch_seconds")
        check.share("max_skipped")
        check.below_one("holdout")
        check.require(all(self.allow_roots), "allow_roots", "a list of folders; an empty name is none")

    def thread_count(self, *, gpu: bool) -> int:
        """Threads that decode: `threads`, or what this process's cores allow. Their number changes no bit.

        Args:
            gpu: Whether the batches are for a GPU, which takes them faster than two threads can decode; on a CPU the
                model needs the cores itself.
        """
        if self.threads is not None:
            return self.threads
        return max(2, min(16, launch.cores() - 1)) if gpu else 2

    def steps_ahead(self, world: int = 1) -> int:
        """Optimizer steps that a process prepares while it works on one.

        No more than `prefetch`, and no more than `MICRO_BATCHES_AHEAD` micro-batches, but one step at least. On a GPU
        all of them lie in page-locked memory, which the rest of the machine cannot use: a micro-batch of vision-base
        is 154 MB, and a step has 8. The time that a batch takes to make is hidden by some micro-batches, however many
        steps they are.

        Args:
            world: Number of processes that share the micro-batches of a step.
        """
        return max(1, min(self.prefetch, MICRO_BATCHES_AHEAD * world // self.accumulation))
