"""The student: an encoder, and what predicts the teacher's features from its output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from d2v_fast.batch import Batch
from d2v_fast.models.batches import kept_of, masks_of
from d2v_fast.models.config import DecoderConfig, ModelConfig
from d2v_fast.models.protocol import build_encoder, initialise_decoder, initialise_head
from d2v_fast.modules.decoder import Decoder
from d2v_fast.modules.head import RegressionHead
from d2v_fast.ops.packing import to_device


class Predictions(NamedTuple):
    """What the student makes of a batch."""

    rows: Tensor
    """[M, C], in the order of the batch's rows."""

    classes: Tensor | None = None
    """[B * V, C], one for each view: the mean over the extra tokens; None where there are none."""


class Student(nn.Module):
    """An encoder with a regression head (data2vec 1.0: `head`) or with a decoder (data2vec 2.0: `decoder`)."""

    def __init__(self, config: ModelConfig) -> None:
        """New weights from torch's global generator."""
        super().__init__()
        self.encoder = build_encoder(config)
        dim, head = config.transformer.dim, config.head
        if not isinstance(head, DecoderConfig):
            self.head = RegressionHead(dim, head.layers)
            initialise_head(self.head, config)
            return
        self.decoder = Decoder(
            dim,
            axes=len(self.encoder.shape(1)),
            width=head.dim,
            layers=head.layers,
            kernel=head.kernel,
            groups=head.groups,
            residual=head.residual,
            hidden=[head.hidden] * (head.projection_layers - 1),
            input_dropout=head.input_dropout,
            noise=head.noise,
        )
        initialise_decoder(self.decoder, config)

    def predict_masked(
        self, batch: Batch, seen: Tensor, lengths: Tensor | None, skipped: Sequence[bool] | Tensor | None
    ) -> Predictions:
        """data2vec 1.0: everything is encoded, what is masked as the mask token or as other inputs.

        Args:
            batch: with rows and mask.
            seen: [B * V, T, C], local features of what the student sees.
            lengths: int64 [B], valid tokens.
            skipped: see `Data2Vec.forward`.
        """
        mask, rows = masks_of(batch)
        layers = self.encoder.forward_layers(
            seen,
            None if lengths is None else lengths.repeat_interleave(batch.views),
            mask=mask if batch.masked_inputs is None else None,
            rows=rows,
            skipped=skipped,
        )
        return Predictions(self.head(layers.output))

    def predict_hidden(
        self,
        batch: Batch,
        local: Tensor,
        lengths: Tensor | None,
        skipped: Sequence[bool] | Tensor | None,
        noise: Tensor | None = None,
    ) -> Predictions:
        """data2vec 2.0: what is kept is encoded, and what is hidden is predicted by the decoder.

        Args:
            batch: with rows, mask and kept.
            local: [B, T, C], local features, the same for all views.
            lengths: int64 [B], valid tokens.
            skipped: see `Data2Vec.forward`.
            noise: see `Decoder.forward`.

        Raises:
            ValueError: the encoder's tokens are no grid.
        """
        mask, rows = masks_of(batch)
        kept = kept_of(batch)
        shape = self.encoder.shape(local.shape[1])
        if math.prod(shape) != local.shape[1]:
            places = " x ".join(map(str, shape))
            raise ValueError(
                f"{local.shape[1]} tokens are no grid of {places}: give inputs of whole rows of patches, or an encoder "
                "whose `shape` fits its tokens"
            )
        layers = self.encoder.encode_kept(local, lengths, mask=mask, kept=kept, skipped=skipped)
        prediction = self.decoder(
            layers.output,
            to_device(kept, local.device),
            shape,
            rows,
            noise,
            samples=len(mask),
        )
        return Predictions(prediction, None if layers.extra is None else layers.extra.mean(1))
