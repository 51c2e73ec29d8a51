"""From the features of tokens to the outputs for a sample, and the network that has both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v_fast.finetuning.config import OutputConfig
from d2v_fast.models import Encoder
from d2v_fast.modules.positions import Alibi, RelativePositionBias
from d2v_fast.ops.packing import to_device


class OutputHead(nn.Module):
    """Pools the tokens of each sample and maps the result to the outputs (`lin_softmax`: maps, then pools).

    With `hidden` it is the released text head: dropout, linear, tanh, dropout, linear.
    """

    def __init__(self, config: OutputConfig, dim: int, depth: int, outputs: int) -> None:
        """New weights from torch's global generator.

        Args:
            config: What the head looks like.
            dim: Width C of the features.
            depth: Number of the encoder's blocks.
            outputs: Numbers for each sample.
        """
        super().__init__()
        self.config, self._depth = config, depth
        weighted = config.layers == "weighted"
        self.layer_weights = nn.Parameter(torch.zeros(depth, dtype=torch.float32)) if weighted else None
        self.norm = nn.LayerNorm(dim, 1e-6, dtype=torch.float32) if config.norm else None
        self.hidden = nn.Linear(dim, dim, dtype=torch.float32) if config.hidden else None
        self.output = nn.Linear(dim, outputs, dtype=torch.float32)
        for layer in (self.hidden, self.output):
            if layer is not None:
                nn.init.trunc_normal_(layer.weight, std=config.init_std if layer is self.output else 0.02)
                nn.init.zeros_(layer.bias)

    @property
    def wants_layers(self) -> int:
        """Of how many last blocks it needs the features."""
        return {"last": 0, "block": 1, "weighted": self._depth}[self.config.layers]

    def pool(self, tokens: Tensor, lengths: Tensor | None) -> Tensor:
        """[B, T, C] to float32 (of float64: float64) [B, C]; `lengths`, int64 [B], are the valid tokens of each row."""
        tokens = _wide(tokens)
        if self.config.pooling == "lin_softmax":
            return tokens  # it is the outputs that are pooled
        if self.config.pooling == "first":
            return tokens[:, 0]
        if lengths is None:
            return tokens.mean(1)
        count = to_device(lengths, tokens.device)
        valid = torch.arange(tokens.shape[1], device=tokens.device) < count[:, None]
        return torch.where(valid[:, :, None], tokens, 0.0).sum(1) / count[:, None]

    def forward(self, output: Tensor, layers: Sequence[Tensor], lengths: Tensor | None) -> Tensor:
        """The outputs of each sample.

        Args:
            output: [B, T, C], of the encoder.
            layers: [B, T, C] of each of the last `wants_layers` blocks.
            lengths: int64 [B], valid tokens of each row; None: all.

        Returns:
            float32 [B, outputs].
        """
        if self.layer_weights is not None:
            shares = self.layer_weights.softmax(0)
            x = sum((share * self.pool(layer, lengths) for share, layer in zip(shares, layers, strict=True)), 0)
        else:
            x = self.pool(layers[-1] if self.config.layers == "block" else output, lengths)
        assert isinstance(x, Tensor)
        if self.norm is not None:
            x = self.norm(x)
        if self.hidden is not None:
            x = torch.tanh(self.hidden(F.dropout(x, self.config.dropout, self.training)))
        x = _wide(self.output(F.dropout(x, self.config.dropout, self.training)))
        return lin_softmax(x, lengths) if self.config.pooling == "lin_softmax" else x


def lin_softmax(outputs: Tensor, lengths: Tensor | None) -> Tensor:
    """From yes and no for each token to yes and no for the sample: float32 [B, T, K] to [B, K], all before a sigmoid.

    With p the probabilities of the tokens, that of the sample is sum(p ** 2) / sum(p); as its complement is
    sum(p * (1 - p)) / sum(p), nothing is subtracted that is almost equal.

    Args:
        outputs: Of each token.
        lengths: int64 [B], valid tokens of each row; None: all.
    """
    yes, no = F.logsigmoid(outputs), F.logsigmoid(-outputs)
    if lengths is not None:
        count = to_device(lengths, outputs.device)
        padding = torch.arange(outputs.shape[1], device=outputs.device) >= count[:, None]
        yes = yes.masked_fill(padding[:, :, None], -torch.inf)
        no = no.masked_fill(padding[:, :, None], 0.0)
    return torch.logsumexp(2 * yes, dim=1) - torch.logsumexp(yes + no, dim=1)


class FrameHead(OutputHead):
    """The outputs of each frame, float32 [B, T, outputs]: nothing is pooled."""

    def pool(self, tokens: Tensor, lengths: Tensor | None) -> Tensor:
        """The tokens as they are, in float32 (of float64: float64)."""
        return _wide(tokens)


def _wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class FinetunedNetwork(nn.Module):
    """An encoder and a head on it; its state has the names `encoder.*` and `head.*`, as a student's has."""

    def __init__(self, encoder: Encoder, head: OutputHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        if head.config.layers == "block" and encoder.norm is not None and encoder.norm_first:
            encoder.norm.requires_grad_(False)  # nothing behind it is used

    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor | None = None,
        *,
        skipped: Sequence[bool] | None = None,
        frozen: bool = False,
        frozen_embedding: bool = False,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The outputs of each sample.

        Args:
            inputs: [B, ...], as the encoder takes them.
            lengths: int64 [B], valid entries of each row, on the CPU; None: all.
            skipped: True for each block that is skipped (layer drop).
            frozen: Compute no gradients of the encoder.
            frozen_embedding: Compute none of its embedding.
            change: What is done to the local features [B, T, C], such as masks.

        Returns:
            What the head gives: float32 [B, outputs], or [B, T, outputs] of a `FrameHead`.
        """
        encoder = self.encoder
        gradients = torch.is_grad_enabled()
        with torch.set_grad_enabled(gradients and not frozen):
            with torch.set_grad_enabled(gradients and not frozen and not frozen_embedding):
                local = encoder.embed(inputs)
            if change is not None:
                local = change(local)
            tokens = encoder.token_lengths(lengths)
            last = self.head.wants_layers
            result = encoder.forward_layers(local, tokens, last=last, feature="block", skipped=skipped)
        output: Tensor = self.head(result.output, result.features, tokens)
        return output


def layer_rates(encoder: Encoder, decay: float) -> Mapping[str, float]:
    """The factor on the learning rate of each of the encoder's parameters that is not 1 (BEiT's rule).

    With L blocks, block i, from 0, has decay ** (L - i); what is computed before the blocks decay ** (L + 1). What
    acts on all blocks, such as a shared bias on their attention, or after them has 1, as the head.

    Args:
        encoder: Whose parameters.
        decay: In (0, 1].
    """
    if decay == 1:
        return {}
    depth, rates = len(encoder.blocks), {}
    shared = {
        id(p)
        for module in encoder.modules()
        if isinstance(module, (Alibi, RelativePositionBias))
        for p in module.parameters()
    }
    for name, parameter in encoder.named_parameters():
        room, *rest = name.split(".")
        if not parameter.requires_grad or id(parameter) in shared:
            continue
        if room == "blocks":
            rates[name] = decay ** (depth - int(rest[0]))
        elif room != "norm" or not encoder.norm_first:  # a post-norm encoder's own norm precedes the blocks
            rates[name] = decay ** (depth + 1)
    return rates
