"""Token ids as the encoder wants them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from d2v_fast.errors import SampleError
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs


def prepare(tokens: np.ndarray | Tensor, inputs: TextInputs, embedding: TextEmbedding, name: str) -> Tensor:
    """Checks the ids of a sequence.

    Args:
        tokens: Integers [T], the begin token first, as a run's blocks have them.
        inputs: Not used.
        embedding: Says which ids there are, and how many of them a sequence may have.
        name: For messages.

    Returns:
        int64 [T].

    Raises:
        SampleError: They are no ids of this vocabulary, or more than the model has positions for.
    """
    if isinstance(tokens, str):
        raise SampleError(
            name, "is a string; give token ids, the begin token first (the run's tokenizer.json has them)"
        )
    ids = tokens.cpu().numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or len(ids) == 0:
        raise SampleError(name, f"is {ids.dtype} {list(ids.shape)}; token ids are integers [T]")
    if len(ids) > embedding.max_length:
        raise SampleError(name, f"has {len(ids)} tokens, the model has positions for {embedding.max_length}: cut it")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= embedding.vocab_size:
        raise SampleError(
            name, f"has ids from {low} to {high}; the model's vocabulary has 0 to {embedding.vocab_size - 1}"
        )
    return torch.from_numpy(ids.astype(np.int64))
