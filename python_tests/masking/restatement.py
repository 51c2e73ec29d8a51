"""The published mask algorithms once more, in plain Python, numpy and torch: what the compiled masks are compared with.

Written from the description of the algorithms, with the random calls in the order of the published code, so that it
gives the reference's own masks bit for bit (test_golden.py); the compiled masks draw from another generator and agree
in distribution (test_distribution.py). benchmarks/test_masks.py times it: the published code is per-row Python too.
"""

import math
import random
from collections.abc import Sequence

import numpy as np
import torch


def row_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    return np.random.default_rng(int(hash((seed, epoch, index)) % 1e6))


def span_positions(rng: np.random.Generator, size: int, probability: float, length: int, min_spans: int) -> np.ndarray:
    """The masked positions of one sequence, ascending."""
    spans = max(min_spans, int(probability * size / float(length) + rng.random()))
    margin = length
    if size - margin <= spans:
        margin = size - spans - 1
    starts = rng.choice(size - margin, spans, replace=False)
    positions = np.unique(np.asarray([start + offset for start in starts for offset in range(length)]))
    return positions[positions < size]


def span_masks(
    sizes: Sequence[int],
    width: int,
    probability: float,
    length: int,
    min_spans: int = 1,
    *,
    seed: int,
    epoch: int,
    ids: Sequence[int],
    equalise: bool = False,
) -> np.ndarray:
    """bool [B, width]; `equalise` drops random positions until every row has as many as the shortest, as published."""
    mask = np.zeros((len(sizes), width), dtype=bool)
    rows = []
    for size, index in zip(sizes, ids, strict=True):
        rng = row_generator(seed, epoch, index)
        rows.append(span_positions(rng, size, probability, length, min_spans))
    fewest = min(len(row) for row in rows)
    for b, row in enumerate(rows):
        if equalise and len(row) > fewest:
            row = rng.choice(row, fewest, replace=False)
        mask[b, row] = True
    return mask


def blocks_mask(
    rng: random.Random, height: int, width: int, count: int, min_area: int, min_aspect: float
) -> np.ndarray:
    """int [height, width], 1 where masked, of one image."""
    mask = np.zeros((height, width), dtype=int)
    log_aspect = (math.log(min_aspect), math.log(1 / min_aspect))
    masked = 0
    while masked < count:
        room = count - masked
        added = 0
        for _ in range(10):
            area = rng.uniform(min_area, room)
            aspect = math.exp(rng.uniform(*log_aspect))
            h = round(math.sqrt(area * aspect))
            w = round(math.sqrt(area / aspect))
            if w >= width or h >= height:
                continue
            top = rng.randint(0, height - h)
            left = rng.randint(0, width - w)
            already = mask[top : top + h, left : left + w].sum()
            if not 0 < h * w - already <= room:
                continue
            for y in range(top, top + h):
                for x in range(left, left + w):
                    if mask[y, x] == 0:
                        mask[y, x] = 1
                        added += 1
            break
        if added == 0:
            break
        masked += added
    return mask


def inverse_block_masks(
    batch: int, side: int, ratio: float, block: int, adjust: float, correct: bool = True
) -> torch.Tensor:
    """float32 [batch, side * side], 1 where masked; draws from torch's global generator.

    `correct` brings every row to the exact number.
    """
    patches = side * side
    keep = 1 - ratio
    kept = torch.zeros(batch, side, side)
    centres = torch.randint(0, patches, size=(batch, int(patches * ((keep + adjust) / block**2))))
    rows = torch.arange(batch)[:, None]
    for dy in range(block):
        for dx in range(block):
            y = (centres // side + dy - block // 2).clamp(0, side - 1)
            x = (centres % side + dx - block // 2).clamp(0, side - 1)
            kept[rows, y, x] = 1
    kept = kept.view(batch, patches)
    return 1 - (exact(kept, int(patches * keep)) if correct else kept)


def fixed_span_masks(
    batch: int, length: int, ratio: float, span: int, adjust: float, correct: bool = True
) -> torch.Tensor:
    """float32 [batch, length], 1 where masked; see `inverse_block_masks`."""
    mask = torch.zeros(batch, length)
    centres = torch.randint(0, length, size=(batch, int(length * ((ratio + adjust) / span))))
    for offset in range(span):
        mask[torch.arange(batch)[:, None], (centres + offset - span // 2).clamp(0, length - 1)] = 1
    return exact(mask, int(length * ratio)) if correct else mask


def exact(cells: torch.Tensor, wanted: int) -> torch.Tensor:
    """Sets random cells of each row to 0, or to 1, until `wanted` are 1."""
    for row in cells:
        excess = int(row.sum()) - wanted
        if excess > 0:
            row[torch.multinomial(row, excess, replacement=False)] = 0
        elif excess < 0:
            row[torch.multinomial(1 - row, -excess, replacement=False)] = 1
    return cells


def token_mask(
    rng: np.random.Generator,
    tokens: np.ndarray,
    probability: float,
    length: int,
    keep: float,
    replace: float,
    mask_id: int,
    candidates: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(selected bool [T], tokens after masking [T]) of one sequence."""
    size = len(tokens)
    selected = np.zeros(size, dtype=bool)
    starts = rng.choice(size, int(probability * size / float(length) + rng.random()), replace=False)
    positions = np.asarray([start + offset for start in starts for offset in range(length)], dtype=np.int64)
    selected[positions[positions < size]] = True
    masked = tokens.copy()
    rerouted = selected & (rng.random(size) < keep + replace) if keep + replace > 0 else np.zeros(size, dtype=bool)
    stays = rerouted & (rng.random(size) < keep / (keep + replace)) if rerouted.any() else rerouted
    masked[selected & ~rerouted] = mask_id
    random_ids = rerouted & ~stays
    masked[random_ids] = rng.choice(candidates, int(random_ids.sum()))
    return selected, masked
