"""From samples of any kind to features: preprocessing that comes along with an encoder of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from d2v_fast import registry
from d2v_fast.models.grouping import grouped


class SampleFeatures(nn.Module):
    """What an encoder does with whole samples; `Encoder` has the network.

    Attributes:
        config: the embedding's configuration.
        inputs: how the run that the weights are from made inputs of samples; None if they are from no run.
    """

    config: Any
    inputs: Any

    def prepare(self, sample: Any, *, name: str = "sample") -> Tensor:
        """A whole sample as this encoder takes it, prepared as the run did, without a batch dimension.

        Args:
            sample: As a `DataSource` reads it: a clip, a picture, token ids; or the path of a file, or a text.
            name: For messages.

        Raises:
            SampleError: It cannot be used; the message says why.
            ValueError: The encoder is from no run.
        """
        if self.inputs is None:
            raise ValueError(
                "this encoder does not know how samples become inputs: take one from d2v_fast.load, or set its `inputs`"
            )
        modality: Any = registry.get(self.config.modality)
        read = modality.read(sample, self.inputs, self.config, name=name)
        prepared: Tensor = modality.prepare(read, self.inputs, self.config, name=name)
        return prepared

    @torch.no_grad()
    def features(self, samples: Any, *, pooled: bool = True, batch_size: int = 32) -> Any:
        """Features of a sample, or of a list of them, whatever they are: preprocessing is that of the run.

        Nothing is masked, cropped at random or padded; the encoder is in eval mode for the time.

        Example:
            >>> encoder = d2v_fast.load("runs/texts")
            >>> encoder.features(["a text", "another one"]).shape
            torch.Size([2, 768])

        Args:
            samples: A path of a file, an array or a tensor as a `DataSource` reads it, or, where the run has a
                tokenizer, a text as a `str`; or a list or tuple of these.
            pooled: The mean over the tokens; False: the features of each token.
            batch_size: Samples in a batch at most; only samples of one shape are batched together.

        Returns:
            float32 on the CPU: [C] of a sample and [N, C] of a list, if they are pooled; otherwise [T, C] of a sample,
            and a list of such tensors of a list.

        Raises:
            SampleError: A sample cannot be used; the message says why.
            ValueError: The encoder is from no run, or there are no samples.
        """
        many = isinstance(samples, (list, tuple))
        given = list(samples) if many else [samples]
        if not given:
            raise ValueError("features needs at least one sample")
        device, training = next(self.parameters()).device, self.training
        found: dict[int, Tensor] = {}
        self.eval()
        try:
            inputs = ((i, self.prepare(one, name=f"sample {i}")) for i, one in enumerate(given))
            for numbers, batch in grouped(inputs, batch_size):
                output = self(batch.to(device)).float()
                found.update(zip(numbers, (output.mean(1) if pooled else output).cpu(), strict=True))
        finally:
            self.train(training)
        if not many:
            return found[0]
        ordered = [found[i] for i in range(len(given))]
        return torch.stack(ordered) if pooled else ordered
