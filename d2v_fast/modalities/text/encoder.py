"""Text: tokens, positions, context network (paper, section 4.3); convolutions over the tokens are ours."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.text.embedding import TokenEmbedding
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.encoder import Encoder
from d2v_fast.modules.positions import PositionConvolutions


class TextEncoder(Encoder):
    """Tokens int64 [B, T] to [B, T, C]: embeddings, convolutions if asked for, context network."""

    def __init__(self, config: ModelConfig) -> None:
        assert isinstance(config.embedding, TextEmbedding)
        embedding, network = config.embedding, config.transformer
        # The released data2vec 2.0 has norm_eps in the blocks only.
        eps = 1e-5 if config.encodes_kept else network.norm_eps
        tokens = TokenEmbedding(embedding.vocab_size, embedding.max_length, embedding.pad_id, network.dim, eps)
        # Post-norm: the embedding's norm is the only one before the blocks.
        super().__init__(config, tokens, norm=network.norm_first)
        self.config = embedding
        depth, kernel, groups = embedding.position_depth, embedding.position_kernel, embedding.position_groups
        self.positions = PositionConvolutions(network.dim, depth, kernel, groups) if depth else None
        initialise_text(self)
        if self.positions is not None:  # ours, see `_initialise_convolved`
            self._initialise_convolved(network.dim)

    def _initialise_convolved(self, dim: int) -> None:
        """Learned positions begin at zero: convolutions see the order, and targets should not be full of positions.

        Weights of any width begin with the sums that 0.02 gives at the published one, 768; in a narrow network, whose
        targets those of its beginning are, a block would add next to nothing.
        """
        nn.init.zeros_(self.embedding.get_submodule("positions").get_parameter("weight"))
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02 * math.sqrt(768 / dim))

    def embed(self, inputs: Tensor) -> Tensor:
        """Tokens to vectors, positions included; see `Encoder.embed`."""
        if inputs.dim() != 2 or inputs.dtype != torch.int64:
            raise ValueError(f"inputs must be int64 tokens [B, T], got {inputs.dtype} {list(inputs.shape)}")
        if inputs.shape[1] > self.config.max_length:
            raise ValueError(
                f"sequences of {inputs.shape[1]} tokens are longer than embedding.max_length {self.config.max_length}"
            )
        self._check_ids(inputs)
        features: Tensor = self.embedding(inputs)
        return features

    def _check_ids(self, tokens: Tensor) -> None:
        """Refuse ids that have no row; on the CPU only, as a GPU would have to be waited for."""
        if not tokens.is_cpu or not tokens.numel() or torch.compiler.is_compiling():
            return
        size = self.config.vocab_size
        lowest, highest = (int(bound) for bound in tokens.aminmax())
        if lowest < 0 or highest >= size:
            raise ValueError(
                f"token id {lowest if lowest < 0 else highest} is outside of the model's vocabulary of {size} ids "
                "(embedding.vocab_size): tokenise with the tokenizer of the run"
            )

    def place(self, x: Tensor, valid: Tensor | None) -> tuple[Tensor, None]:
        """Convolutions, if there are any; the padding is zeroed before them, but not in data2vec 2.0, as released."""
        x = x if valid is None or self.encodes_kept else torch.where(valid.unsqueeze(2), x, 0.0)
        return x if self.positions is None else x + self.positions(x), None


def initialise_text(module: nn.Module) -> None:
    """Normal(0, 0.02) for every linear map and embedding, the head's too; padding rows and biases are zero."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            with torch.no_grad():
                part.weight[part.padding_idx].zero_()
