"""The DALI engine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import torch

from d2v_fast.data.config import InputsConfig
from d2v_fast.data.engine import Made, MaskMaker
from d2v_fast.data.errors import DataError
from d2v_fast.data.plan import BatchPlan
from d2v_fast.data.source import DataSource


class DaliEngine:
    """Not there yet."""

    def __init__(
        self,
        source: DataSource,
        inputs: InputsConfig,
        masks: MaskMaker,
        image_size: int | None,
        threads: int,
        device: torch.device,
    ) -> None:
        raise DataError("loader.engine is dali, which this version does not have yet: use native")

    def begin(self, plan: Callable[[], BatchPlan]) -> Future[Made]:
        """See `Engine`."""
        raise NotImplementedError

    def close(self) -> None:
        """See `Engine`."""
