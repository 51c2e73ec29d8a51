"""Weights in and out: the names of fairseq, of the BEiT-based vision code and of Hugging Face transformers.

`fairseq` and `huggingface` translate state dictionaries, tensors to tensors. Neither needs the other library to be
installed; only `huggingface.config_for` imports transformers (extra `hf`).
"""

from __future__ import annotations

from d2v_fast.interop import fairseq, huggingface

__all__ = ["fairseq", "huggingface"]
