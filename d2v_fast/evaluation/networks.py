"""The networks of a run, their features layer by layer, and what these say without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2v_fast.config import Config
from d2v_fast.errors import ConfigError
from d2v_fast.evaluation import label_free
from d2v_fast.evaluation.given import reading_threads
from d2v_fast.evaluation.layers import Layers, chosen
from d2v_fast.evaluation.masked_views import lidar_of_layers
from d2v_fast.evaluation.spool import Spool
from d2v_fast.evaluation.windows import Windows
from d2v_fast.interop import foreign
from d2v_fast.log import tell
from d2v_fast.models import Encoder
from d2v_fast.run.reader import Run
from d2v_fast.run.weights import Network, load

_ROWS = 5000
"""Samples that the numbers without labels are taken of at most."""


class Networks:
    """The networks and layers of a run that are asked for; the random start is the last one, where there is one.

    Attributes:
        networks: Names.
        encoder: The first of them, on the CPU.
        layers: Their numbers.
        threads: That read samples.
        windows: Of samples that are longer than those of the training.
    """

    def __init__(
        self,
        run: str | Path,
        networks: Sequence[Network],
        layers: Layers,
        batch_size: int,
        device: str | torch.device | None,
    ) -> None:
        """See `probing.probe`.

        Raises:
            ConfigError: An argument has a value that cannot be used.
            RunError: The run cannot be read.
        """
        if not networks or not set(networks) <= {"student", "teacher"} or batch_size < 1:
            raise ConfigError(
                f"networks are student, teacher or both, and batch_size at least 1, got {networks} and {batch_size}"
            )
        self.networks: list[Network] = [*networks, "initial"]
        if foreign.place(run) is not None:
            tell(f"{run} is one network of another library: there is no teacher beside it, and no random start")
            self.networks = ["student"]
        elif not isinstance(Run(run).config, Config) and {"student", "teacher"} <= set(networks):
            tell(f"{run} is a fine-tuning, which has no teacher: its student and its random start are measured")
            self.networks = ["student", "initial"]
        self._run, self._batch_size = run, batch_size
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder: Encoder = load(run, self.networks[0])
        self.layers = chosen(layers, len(self.encoder.blocks))
        self.threads = reading_threads()
        self.windows = Windows(self.encoder)

    def lidar(self, source: Any) -> dict[tuple[str, int], dict[str, float]]:
        """LiDAR over the run's masks, for each network and layer; empty if it has no masks, as a fine-tuning."""
        config = None if foreign.place(self._run) is not None else Run(self._run).config
        if not isinstance(config, Config):
            return {}
        found: dict[tuple[str, int], dict[str, float]] = {}
        for network in self.networks:
            encoder = load(self._run, network).to(self._device)
            each = lidar_of_layers(encoder, config, source, self.layers, batch_size=self._batch_size)
            found |= {(network, layer): {"lidar": value} for layer, value in each.items()}
        return found

    def spool(self, folder: Path, sources: dict[str, Any]) -> dict[tuple[str, str], Spool]:
        """The features of each network and source, in files of a folder."""
        found: dict[tuple[str, str], Spool] = {}
        for network in self.networks:
            encoder = load(self._run, network).to(self._device)
            for part, source in sources.items():
                found[network, part] = Spool(
                    folder / f"{network}-{part}.npy",
                    encoder,
                    source,
                    self.layers,
                    batch_size=self._batch_size,
                    threads=self.threads,
                    windows=self.windows,
                    what=f"{network}, {part}",
                )
        return found


def without_labels(features: np.ndarray) -> dict[str, float]:
    """RankMe, alpha-ReQ and uniformity of the first 5000 samples; nan where one cannot be computed of these features.

    Args:
        features: [N, C].
    """
    some = features[:_ROWS]
    wanted: dict[str, Callable[[Any], float]] = {
        "rankme": label_free.rankme,
        "alpha": label_free.alpha_req,
        "uniformity": label_free.uniformity,
    }
    found = {}
    for name, number in wanted.items():
        try:
            found[name] = number(some)
        except ValueError:  # all alike, or too few directions: there is no such number
            found[name] = float("nan")
    return found
