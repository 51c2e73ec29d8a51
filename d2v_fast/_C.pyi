"""Types of the compiled module (csrc/bind.cpp). Addresses and enumerations are integers; nothing is checked there."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_Integers = npt.NDArray[np.int64]

compiler: str
cuda: str
instruction_sets: str

def isa() -> str: ...
def rng_text(text: str, /) -> int: ...
def rng_key(words: Sequence[int], /) -> int: ...
def rng_uniform(key: int, ids: _Integers, count: int, out: int, /) -> None: ...
def rng_permutation(key: int, n: int, out: int, /) -> None: ...
def span_masks(
    seed: int,
    epoch: int,
    ids: _Integers,
    views: int,
    lengths: _Integers,
    width: int,
    probability: float,
    span: int,
    min_spans: int,
    mask: int,
    /,
) -> int: ...
def block_masks(
    seed: int,
    epoch: int,
    ids: _Integers,
    views: int,
    height: int,
    width: int,
    count: int,
    min_area: int,
    min_aspect: float,
    mask: int,
    /,
) -> int: ...
def inverse_block_masks(
    seed: int,
    epoch: int,
    ids: _Integers,
    views: int,
    height: int,
    width: int,
    kept: int,
    centres: int,
    block: int,
    mask: int,
    /,
) -> int: ...
def fixed_span_masks(
    seed: int,
    epoch: int,
    ids: _Integers,
    views: int,
    lengths: _Integers,
    width: int,
    ratio: float,
    per_position: float,
    block: int,
    mask: int,
    /,
) -> int: ...
def random_masks(
    seed: int,
    epoch: int,
    ids: _Integers,
    views: int,
    lengths: _Integers,
    width: int,
    kept_share: float,
    mask: int,
    /,
) -> int: ...
def token_masks(
    seed: int,
    epoch: int,
    ids: _Integers,
    views: int,
    tokens: int,
    lengths: _Integers,
    width: int,
    probability: float,
    span: int,
    keep: float,
    random: float,
    mask_id: int,
    vocab_size: int,
    excluded: Sequence[int],
    mask: int,
    masked_tokens: int,
    /,
) -> int: ...
def flat_rows(mask: int, masked: int, rows: int, /) -> None: ...
def flat_kept(mask: int, lengths: _Integers, views: int, width: int, kept: int, /) -> int: ...
def ema(table: int, count: int, decay: float, threads: int, /) -> None: ...
def adamw_ema(
    table: int,
    rates: int,
    count: int,
    beta1: float,
    beta2: float,
    eps: float,
    gradient_scale: float,
    decay: float,
    threads: int,
    /,
) -> None: ...
def smooth_l1_forward(
    pred: int,
    target: int,
    rows: int,
    gradient: int,
    loss: int,
    count: int,
    positions: int,
    channels: int,
    pred_dtype: int,
    target_dtype: int,
    reduction: int,
    beta: float,
    scale: float,
    gradient_factor: float,
    threads: int,
    /,
) -> None: ...
def smooth_l1_backward(
    gradient: int,
    incoming: int,
    rows: int,
    out: int,
    count: int,
    positions: int,
    channels: int,
    dtype: int,
    incoming_dtype: int,
    incoming_per_row: bool,
    factor: float,
    threads: int,
    /,
) -> None: ...
def first_bad_row(rows: int, count: int, limit: int, /) -> int: ...
def streaming_copy(dst: int, src: int, bytes: int, threads: int, /) -> None: ...
def layer_targets(
    layers: Sequence[int],
    strides: Sequence[int],
    rows: int,
    lengths: int,
    out: int,
    batch: int,
    frames: int,
    channels: int,
    count: int,
    dtype: int,
    layer_norm: int,
    final_norm: int,
    eps: float,
    threads: int,
    views: int = 1,
    /,
) -> None: ...
def restore(
    tokens: int, kept: int, noise: int, out: int, count: int, places: int, row_bytes: int, threads: int, /
) -> None: ...
def decoder_layer(
    backward: bool, tensors: Sequence[int], sizes: Sequence[int], eps: float, threads: int, /
) -> None: ...
def norm_gelu(backward: bool, tensors: Sequence[int], sizes: Sequence[int], eps: float, threads: int, /) -> None: ...
def front_layer(backward: bool, tensors: Sequence[int], sizes: Sequence[int], eps: float, threads: int, /) -> None: ...
def attention(
    backward: bool,
    tensors: Sequence[int],
    strides: Sequence[int],
    sizes: Sequence[int],
    pairs: bool,
    seed: int,
    dropout: float,
    threads: int,
    /,
) -> None: ...

class NGram:
    def __init__(self, order: int, /) -> None: ...
    def add(
        self, words: npt.NDArray[np.int32], probabilities: npt.NDArray[np.float32], backoffs: npt.NDArray[np.float32], /
    ) -> None: ...
    def score_words(self, begin: int, words: Sequence[int], /) -> list[float]: ...

class Lexicon:
    def __init__(self) -> None: ...
    def add(self, tokens: Sequence[int], word: int, /) -> None: ...

def ctc_beam_search(
    log_probs: int,
    frames: int,
    symbols: int,
    blank: int,
    beam: int,
    ngram: NGram | None,
    lexicon: Lexicon | None,
    words: Sequence[int],
    delimiter: int,
    begin: int,
    end: int,
    unknown: int,
    unknown_score: float,
    lm_weight: float,
    word_score: float,
    /,
) -> list[tuple[list[int], float, float]]: ...
def ctc_align(
    log_probs: int,
    frames: int,
    symbols: int,
    blank: int,
    tokens: Sequence[int],
    first: int,
    behind: int,
    /,
) -> float: ...
