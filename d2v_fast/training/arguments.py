"""The arguments of `d2v-fast pretrain PRESET`: the run's own, and every field of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from d2v_fast.config import Config


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """What is not a part of the configuration."""

    data: str
    """A folder of images, of audio or of texts, a manifest, tar shards, saved datasets, ...: see docs/data.md."""

    out: str
    """The run's folder."""

    init_from: str | None = None
    """A run whose student weights a new run starts from."""

    dry_run: bool = False
    """Print parameters, memory, steps per epoch and the first batch's shapes, and write nothing."""


@dataclass(frozen=True, kw_only=True)
class PretrainArguments:
    """Pretrain on your own files. The same command again continues the run; its --steps may grow."""

    run: Annotated[RunArguments, tyro.conf.arg(name="")]
    """What is not a part of the configuration."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    """The preset, each field of which can be changed."""
