"""Features of whole samples: an encoder's output, averaged over the valid positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data import DataSource, InputsConfig, SpeechInputs, VisionInputs
from d2v_fast.data.transforms import clip_into, picture_into
from d2v_fast.models import Encoder
from d2v_fast.models.vision import VisionEncoder


@torch.no_grad()
def extract(
    encoder: Encoder,
    samples: DataSource | Sequence[np.ndarray],
    inputs: InputsConfig,
    *,
    batch_size: int = 64,
) -> np.ndarray:
    """The mean over the valid positions of the encoder's output, for each sample.

    Nothing is masked, cropped at random, flipped or jittered. The encoder is put into eval mode for the time.

    Args:
        encoder: On any device.
        samples: A source, or its samples: pictures uint8 [H, W] or [H, W, channels], clips [samples] at
            `inputs.sample_rate`, or token ids [T].
        inputs: How the encoder's run made inputs of samples.
        batch_size: Samples in a batch; samples of about equal length are batched together.

    Returns:
        float32 [N, C], in the order of the samples.

    Raises:
        ValueError: There are no samples, or `batch_size` is not positive.
        SampleError: A sample cannot be used.
    """
    count = len(samples)
    if count == 0 or batch_size < 1:
        raise ValueError(f"extract needs samples and a positive batch_size, got {count} samples and {batch_size}")
    read = samples.read if isinstance(samples, DataSource) else samples.__getitem__
    side = encoder.config.image_size if isinstance(encoder, VisionEncoder) else 0
    prepared = [prepare(torch.as_tensor(read(i)), inputs, side, name=f"sample {i}") for i in range(count)]
    device = next(encoder.parameters()).device
    training = encoder.training
    encoder.eval()
    features = np.empty((count, 0), dtype=np.float32)
    order = sorted(range(count), key=lambda i: prepared[i].shape)  # little padding; pictures are all alike
    for start in range(0, count, batch_size):
        chosen = order[start : start + batch_size]
        batch, lengths = _batch([prepared[i] for i in chosen])
        output = encoder(batch.to(device), None if lengths is None else lengths.to(device)).float()
        pooled = _mean(output, None if lengths is None else encoder.token_lengths(lengths)).cpu().numpy()
        if start == 0:
            features = np.empty((count, pooled.shape[1]), dtype=np.float32)
        features[chosen] = pooled
    encoder.train(training)
    return features


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


def _batch(samples: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Samples side by side, with their lengths if those differ; behind a shorter one is 0, which nothing looks at."""
    lengths = [sample.shape[-1] for sample in samples]
    if len(set(lengths)) == 1:
        return torch.stack(samples), None
    return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True), torch.tensor(lengths)


def _mean(output: Tensor, lengths: Tensor | None) -> Tensor:
    """[B, T, C] and the valid positions of each row to [B, C]."""
    if lengths is None:
        return output.mean(1)
    lengths = lengths.to(output.device)
    valid = torch.arange(output.shape[1], device=output.device) < lengths[:, None]
    return torch.where(valid[:, :, None], output, 0).sum(1) / lengths.clamp(min=1)[:, None]
