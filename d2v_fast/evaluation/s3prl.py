"""A run as an upstream of s3prl, the toolkit of SUPERB-like tasks, by the contract of its version 0.4.

s3prl itself is not needed here. Its `run_downstream.py` finds an upstream by a function in a `hubconf.py`, which
returns an `UpstreamExpert`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from d2v_fast.errors import ConfigError
from d2v_fast.evaluation.layers import token_features
from d2v_fast.models.grouping import grouped
from d2v_fast.run.weights import Network, load

SAMPLE_RATE = 16000
"""Hz of the waveforms that s3prl gives."""


class UpstreamExpert(nn.Module):
    """Waveforms in, the features of every layer out.

    Attributes:
        encoder: Of the run.
    """

    def __init__(
        self, ckpt: str | Path, model_config: str | None = None, *, network: Network = "student", **_: Any
    ) -> None:
        """Load the encoder.

        Args:
            ckpt: What `d2v_fast.load` takes: a run's folder, or that of one checkpoint.
            model_config: Not used; s3prl passes it to every upstream.
            network: Student or teacher.
            **_: What else s3prl passes.

        Raises:
            ConfigError: The model does not make frames of waveforms at 16 kHz.
            RunError: The run cannot be read.
        """
        super().__init__()
        self.encoder = load(ckpt, network)
        config, rate = self.encoder.config, getattr(self.encoder.inputs, "sample_rate", None)
        convolutions = getattr(config, "conv_layers", ())
        if rate != SAMPLE_RATE or not convolutions or hasattr(config, "channels"):
            raise ConfigError(f"{ckpt} is no model of waveforms at {SAMPLE_RATE} Hz, which s3prl's tasks have")
        self._stride = math.prod(stride for _, _, stride in convolutions)

    def get_downsample_rates(self, key: str) -> int:
        """Samples from one frame to the next, the same in all layers.

        Args:
            key: "hidden_states" or "last_hidden_state".
        """
        return self._stride

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Features of all layers; gradients reach the encoder where s3prl trains it.

        Waveforms are normalised as in the run. Only those of one length are computed together, so that padding leaks
        into no frame.

        Args:
            wavs: float [samples] each, at 16 kHz.

        Returns:
            "hidden_states": a list of [B, T, C], layer 0 (what the embedding gives) first, zero behind the frames of a
            shorter waveform; "last_hidden_state": the last of them.

        Raises:
            SampleError: A waveform is shorter than a frame, or has values that are not finite.
        """
        device, layers = next(self.encoder.parameters()).device, range(len(self.encoder.blocks) + 1)
        given = ((i, self.encoder.prepare(wav.detach().float().cpu())) for i, wav in enumerate(wavs))
        found: dict[int, Tensor] = {}
        for numbers, batch in grouped(given, len(wavs)):
            found.update(zip(numbers, token_features(self.encoder, batch.to(device), layers), strict=True))
        padded = pad_sequence([found[i] for i in range(len(wavs))], batch_first=True)
        hidden = list(padded.unbind(2))
        return {"hidden_states": hidden, "last_hidden_state": hidden[-1]}
