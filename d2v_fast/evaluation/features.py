"""Features of samples: an encoder's output or layers, averaged over the positions or at one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_fast import registry
from d2v_fast.data import DataSource, InputsConfig
from d2v_fast.evaluation.layers import Layers, chosen, token_features
from d2v_fast.models import Encoder
from d2v_fast.models.grouping import grouped


@torch.no_grad()
def extract(
    encoder: Encoder,
    samples: DataSource | Sequence[Any],
    inputs: InputsConfig | None = None,
    *,
    batch_size: int = 64,
    positions: Sequence[int] | np.ndarray | None = None,
    layers: Layers = "last",
    deviation: bool = False,
) -> np.ndarray:
    """The mean over the positions of the encoder's output, for each sample, or its output at one position.

    A linear probe gains from more than the mean of the last layer: that of other layers, and the deviation, which says
    whether a channel is the same everywhere.

    Nothing is masked, cropped at random, flipped or jittered. Samples are read when they are needed, a few batches at a
    time. The encoder is put into eval mode for the time.

    Args:
        encoder: On any device.
        samples: A source, or its samples as a source reads them: pictures uint8, arrays [H, W] or [H, W, channels] or
            tensors [channels, H, W]; clips [samples] at `inputs.sample_rate`; token ids [T]; or paths of files, or
            texts, see `Encoder.features`.
        inputs: How samples become inputs; by default as the encoder's run did, which `d2v_fast.load` knows.
        batch_size: Samples in a batch. Only samples of one shape are batched together, nothing is padded.
        positions: [N], the position of each sample whose feature is wanted; None for the mean over all.
        layers: See `evaluation.layers`; the features of several stand one after the other.
        deviation: Beside the mean over the positions also the standard deviation: all means, then all deviations.

    Returns:
        float32 [N, C], in the order of the samples; C times the layers, and twice that with the deviation.

    Raises:
        ConfigError: There is no such layer.
        ValueError: There are no samples, `batch_size` is not positive, there is not one position for each sample, a
            deviation is asked for at single positions, or nothing says how samples become inputs.
        SampleError: A sample cannot be used.
    """
    count = len(samples)
    if count == 0 or batch_size < 1:
        raise ValueError(f"extract needs samples and a positive batch_size, got {count} samples and {batch_size}")
    if positions is not None and len(positions) != count:
        raise ValueError(f"extract needs one position for each of {count} samples, got {len(positions)}")
    if positions is not None and deviation:
        raise ValueError("there is no deviation at a single position: give either positions or deviation=True")
    numbers = chosen(layers, len(encoder.blocks))
    inputs = encoder.inputs if inputs is None else inputs
    if inputs is None:
        raise ValueError("extract needs `inputs`, as this encoder is from no run: give the configuration's section")
    device = next(encoder.parameters()).device
    training = encoder.training
    features: np.ndarray | None = None
    encoder.eval()
    try:
        prepare = _Preparation(encoder, inputs, samples)
        for rows, batch in grouped(((i, prepare(i)) for i in _order(samples)), batch_size):
            output = token_features(encoder, batch.to(device), numbers).flatten(2)
            if positions is None:
                wanted = output.mean(1)
                if deviation:
                    wanted = torch.cat([wanted, output.std(1, correction=0)], dim=1)
            else:
                places = torch.tensor([int(positions[i]) for i in rows], device="cpu")
                if int(places.min()) < 0 or int(places.max()) >= output.shape[1]:
                    raise ValueError(
                        f"positions {places.tolist()} were asked for of samples {rows}, which have {output.shape[1]}"
                    )
                wanted = output[torch.arange(len(rows), device="cpu"), places]
            if features is None:
                features = np.empty((count, wanted.shape[1]), dtype=np.float32)
            features[rows] = wanted.cpu().numpy()
    finally:
        encoder.train(training)
    assert features is not None
    return features


class _Preparation:
    """Reads one sample of those given, and makes the encoder's input of it."""

    def __init__(self, encoder: Encoder, inputs: InputsConfig, samples: DataSource | Sequence[Any]) -> None:
        self._modality: Any = registry.get(inputs.modality)
        self._embedding, self._inputs, self._samples = encoder.config, inputs, samples

    def __call__(self, i: int) -> Tensor:
        if isinstance(self._samples, DataSource):
            sample, name = self._samples.read(i), self._samples.name(i)
        else:
            name = f"sample {i}"
            sample = self._modality.read(self._samples[i], self._inputs, self._embedding, name=name)
        prepared: Tensor = self._modality.prepare(sample, self._inputs, self._embedding, name=name)
        return prepared


def _order(samples: DataSource | Sequence[Any]) -> Sequence[int]:
    """Samples of equal length after each other, as far as that is known without reading."""
    if isinstance(samples, DataSource):
        sizes = np.asarray(samples.sizes)
        lengths = sizes if sizes.ndim == 1 else None
    else:
        known = isinstance(samples, (list, tuple)) and not any(isinstance(one, Path) for one in samples)
        lengths = np.array([len(sample) for sample in samples]) if known else None
    if lengths is None:
        return range(len(samples))
    order: list[int] = np.argsort(lengths, kind="stable").tolist()
    return order
