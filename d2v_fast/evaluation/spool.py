"""Features of many layers on the disk, so that one layer at a time is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d2v_fast.data import DataSource
from d2v_fast.data.scan import Progress
from d2v_fast.errors import DataError
from d2v_fast.evaluation.embed import WINDOW
from d2v_fast.evaluation.maker import Maker
from d2v_fast.evaluation.windows import Windows
from d2v_fast.models import Encoder


class Spool:
    """The pooled features of a source, of several layers of one network.

    Args:
        path: The file for them; deleted by whoever gave it.
        encoder: In eval mode, of a run.
        source: The samples.
        layers: Numbers of layers.
        batch_size: Samples in a batch at most.
        threads: That read.
        windows: How long samples are cut.
        what: For the progress bar.

    Raises:
        DataError: No sample can be read.
    """

    def __init__(
        self,
        path: Path,
        encoder: Encoder,
        source: DataSource,
        layers: Sequence[int],
        *,
        batch_size: int,
        threads: int,
        windows: Windows,
        what: str,
    ) -> None:
        self._layers = list(layers)
        self.good = np.zeros(len(source), dtype=bool)
        """[N], whether a sample could be read."""
        values: np.memmap | None = None
        maker = Maker(encoder, source, layers, "mean", batch_size, threads, windows)
        with Progress(what, len(source)) as progress:
            for start in range(0, len(source), WINDOW):
                numbers = range(start, min(start + WINDOW, len(source)))
                part = maker.of(numbers, progress.advance)
                if not len(part):
                    continue
                if values is None:
                    shape = (len(layers), len(source), part.features.shape[2])
                    values = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
                values[:, part.ids] = part.features.swapaxes(0, 1)
                self.good[part.ids] = True
        if values is None:
            raise DataError(f"none of the {len(source)} samples can be read")
        self._values = values

    def layer(self, number: int) -> np.ndarray:
        """float32 [good samples, C]."""
        layer: np.ndarray = np.asarray(self._values[self._layers.index(number)])
        return layer if self.good.all() else layer[self.good]
