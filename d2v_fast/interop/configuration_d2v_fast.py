"""The settings of a data2vec encoder that was trained with d2v_fast, and of the outputs on it.

This file travels with the weights, beside `modeling_d2v_fast.py`, and imports transformers alone.
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class D2vFastConfig(PretrainedConfig):
    """`kind` is "signal" (sound, series), "patches" (pictures, spectrograms) or "tokens" (text).

    `second` is data2vec 2.0: no mask token, and padding is not zeroed. `extra_tokens` stand before each sequence, after
    a class token where there is one. `alibi`: attention falls off with distance.

    Of a fine-tuned model, `pooling` is "mean", "first" (token) or "lin_softmax" (of the outputs), and `pooled_layers`
    says of what: "last" (the encoder's output), "block" (the last one's, before the encoder's norm) or "weighted" (a
    sum over all blocks). `vocab_size` counts token ids, or the symbols of a recogniser.
    """

    model_type = "d2v_fast"

    def __init__(
        self,
        kind: str = "tokens",
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        norm_first: bool = False,
        layer_norm_eps: float = 1e-5,
        key_bias: bool = True,
        layer_scale: bool = False,
        second: bool = False,
        extra_tokens: int = 0,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        channels: int = 1,
        conv_layers: Any = (),
        alibi: bool = False,
        position_depth: int = 0,
        position_kernel: int = 1,
        position_groups: int = 1,
        size: Any = (224, 224),
        patch: Any = (16, 16),
        positions: str = "sincos",
        free_length: bool = False,
        vocab_size: int = 1,
        longest: int = 1,
        pad_token_id: int = 1,
        pooling: str = "mean",
        pooled_layers: str = "last",
        pooled_norm: bool = False,
        pooled_hidden: bool = False,
        classifier_dropout: float = 0.0,
        modality: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pad_token_id = pad_token_id
        self.kind = kind
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.norm_first = norm_first
        self.layer_norm_eps = layer_norm_eps
        self.key_bias = key_bias
        self.layer_scale = layer_scale
        self.second = second
        self.extra_tokens = extra_tokens
        self.input_dropout = input_dropout
        self.alibi = alibi
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.channels = channels
        self.conv_layers = conv_layers
        self.position_depth = position_depth
        self.position_kernel = position_kernel
        self.position_groups = position_groups
        self.size = size
        self.patch = patch
        self.positions = positions
        self.free_length = free_length
        self.vocab_size = vocab_size
        self.longest = longest
        self.pooling = pooling
        self.pooled_layers = pooled_layers
        self.pooled_norm = pooled_norm
        self.pooled_hidden = pooled_hidden
        self.classifier_dropout = classifier_dropout
        self.modality = modality
