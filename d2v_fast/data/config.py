"""How samples become batches; how files become inputs is described by the modalities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

MICRO_BATCHES_AHEAD = 8
"""Micro-batches that a process prepares at most, unless one step has more."""


@dataclass(frozen=True, kw_only=True)
class InputsConfig:
    """How a sample of a file becomes an input of the model. Each modality has a subclass of its own."""

    modality: ClassVar[str]
    """Name of the modality."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Batches and their making."""

    batch_size: int = 64
    """Samples in a micro-batch, at most."""

    batch_seconds: float | None = None
    """Speech: a micro-batch holds clips of about equal length, at most this much sound; None: any clips, by number."""

    batch_tokens: int | None = None
    """Text: a micro-batch holds sequences of about equal length, at most this many tokens, padding included."""

    pad: bool = False
    """Speech: fill the clips of a batch up with silence to the longest, instead of cropping them to the shortest."""

    accumulation: int = 1
    """Micro-batches in an optimizer step, on all processes together."""

    engine: Literal["auto", "dali", "native"] = "auto"
    """What decodes: NVIDIA DALI, or threads of our own; auto is DALI on a GPU if it is installed."""

    threads: int = 2
    """Decoding threads; they change no bit."""

    prefetch: int = 2
    """Optimizer steps that are prepared ahead, fewer where steps are large: see `steps_ahead`."""

    max_skipped: float = 0.01
    """Share of unreadable samples beyond which the run stops (a few are always let pass; 0: none)."""

    holdout: float = 0.0
    """Share of the samples kept for the validation loss."""

    allow_roots: tuple[str, ...] = ()
    """Folders, besides its own, from which a manifest may name files."""

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
