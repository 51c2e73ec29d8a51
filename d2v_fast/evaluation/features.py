"""Features of samples: an encoder's output, averaged over the positions or at one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data import DataSource, InputsConfig
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.speech.encoder import SpeechEncoder, seen_samples
from d2v_fast.modalities.speech.transforms import clip_into
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.encoder import VisionEncoder
from d2v_fast.modalities.vision.transforms import picture_into
from d2v_fast.models import Encoder


@torch.no_grad()
def extract(
    encoder: Encoder,
    samples: DataSource | Sequence[np.ndarray],
    inputs: InputsConfig,
    *,
    batch_size: int = 64,
    positions: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """The mean over the positions of the encoder's output, for each sample, or its output at one position.

    Nothing is masked, cropped at random, flipped or jittered. The encoder is put into eval mode for the time.

    Args:
        encoder: On any device.
        samples: A source, or its samples: pictures uint8 [H, W] or [H, W, channels], clips [samples] at
            `inputs.sample_rate`, or token ids [T].
        inputs: How the encoder's run made inputs of samples.
        batch_size: Samples in a batch. Only samples of one length are batched together, nothing is padded.
        positions: [N], the position of each sample whose feature is wanted; None for the mean over all.

    Returns:
        float32 [N, C], in the order of the samples.

    Raises:
        ValueError: There are no samples, `batch_size` is not positive, or there is not one position for each sample.
        SampleError: A sample cannot be used.
    """
    count = len(samples)
    if count == 0 or batch_size < 1:
        raise ValueError(f"extract needs samples and a positive batch_size, got {count} samples and {batch_size}")
    if positions is not None and len(positions) != count:
        raise ValueError(f"extract needs one position for each of {count} samples, got {len(positions)}")
    read = samples.read if isinstance(samples, DataSource) else samples.__getitem__
    side = encoder.config.image_size if isinstance(encoder, VisionEncoder) else 0
    prepared = [prepare(torch.as_tensor(read(i)), inputs, side, name=f"sample {i}") for i in range(count)]
    if isinstance(encoder, SpeechEncoder):
        prepared = [clip[: seen_samples(encoder.config, len(clip))] for clip in prepared]
    device = next(encoder.parameters()).device
    training = encoder.training
    encoder.eval()
    features = np.empty((count, 0), dtype=np.float32)
    for chosen in _alike(prepared, batch_size):
        batch = torch.stack([prepared[i] for i in chosen]).to(device)
        output = encoder(batch).float()
        if positions is None:
            wanted = output.mean(1)
        else:
            wanted = output[torch.arange(len(chosen)), torch.as_tensor([int(positions[i]) for i in chosen])]
        if not features.size:
            features = np.empty((count, wanted.shape[1]), dtype=np.float32)
        features[chosen] = wanted.cpu().numpy()
    encoder.train(training)
    return features


def _alike(samples: Sequence[Tensor], batch_size: int) -> Iterator[list[int]]:
    """Batches of samples of one shape.

    Nothing is padded: the released position convolutions let padding leak into the frames before it, so with padding
    a clip's features would depend on its neighbours in the batch.
    """
    shapes: dict[torch.Size, list[int]] = {}
    for i, sample in enumerate(samples):
        shapes.setdefault(sample.shape, []).append(i)
    for members in shapes.values():
        for start in range(0, len(members), batch_size):
            yield members[start : start + batch_size]


def prepare(sample: Tensor, inputs: InputsConfig, image_size: int = 0, *, name: str = "sample") -> Tensor:
    """A whole sample as the encoder wants it, without any randomness.

    Args:
        sample: As a `DataSource` reads it.
        inputs: How samples become inputs.
        image_size: Pictures: height and width of the model's input; the whole picture is resized to it.
        name: For messages.

    Returns:
        Picture float32 [channels, S, S], clip float32 [samples], or tokens int64 [T].

    Raises:
        SampleError: The sample has another shape or number format.
    """
    if isinstance(inputs, VisionInputs):
        out = torch.empty(len(inputs.mean), image_size, image_size)
        height, width = sample.shape[:2]
        box = np.array([0, 0, height, width])
        picture_into(out, sample.numpy(), box, False, np.ones(3, np.float32), np.array([height, width]), inputs, name)
        return out
    if isinstance(inputs, SpeechInputs):
        out = torch.empty(len(sample))
        clip_into(out, sample, 0, len(sample), normalize=inputs.normalize, name=name)
        return out
    return sample.to(torch.int64)
