"""The restatement that the compiled masks are compared with gives the published code's own masks, bit for bit."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "masks.npz")


@pytest.mark.parametrize("case", ["0", "2", "4"])
@pytest.mark.parametrize("seed", [1, 7])
def test_spans(restatement, case, seed):
    args = json.loads(str(GOLDEN[f"audio/{case}_args"]))
    rows, width = args["shape"]
    mask = restatement.span_masks(
        [width] * rows,
        width,
        args["mask_prob"],
        args["mask_length"],
        args["min_masks"],
        seed=seed,
        epoch=args["epoch"],
        ids=args["indices"],
        equalise=args.get("require_same_masks", True),
    )
    np.testing.assert_array_equal(mask, GOLDEN[f"audio/{case}_seed{seed}"])


def test_spans_of_padded_sequences(restatement):
    sizes = (~GOLDEN["audio_pad/padding_mask"]).sum(1)
    mask = restatement.span_masks(sizes, 200, 0.65, 10, seed=1, epoch=3, ids=[0, 1, 2], equalise=True)
    np.testing.assert_array_equal(mask, GOLDEN["audio_pad/seed1"])


@pytest.mark.parametrize("case", ["8x8_30", "14x14_120", "14x14_75_default"])
@pytest.mark.parametrize("seed", [0, 3])
def test_blocks(restatement, case, seed):
    args = json.loads(str(GOLDEN[f"beit/{case}/args"]))
    rng = random.Random(seed)
    for expected in GOLDEN[f"beit/{case}/seed{seed}"]:
        mask = restatement.blocks_mask(
            rng, *args["input_size"], args["num_masking_patches"], args["min_num_patches"], 0.3
        )
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_inverse_blocks(restatement, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mask = restatement.inverse_block_masks(8, 14, 0.8, 3, 0.07)
    np.testing.assert_array_equal(mask, GOLDEN[f"v2_image_block/seed{seed}"])


def test_tokens(restatement):
    selected = GOLDEN["text/tgt"] != 1  # the labels are padding where nothing is selected
    for row, tokens in enumerate(GOLDEN["text/tokens"]):
        rng = restatement.row_generator(5, 1, row)
        ours, masked = restatement.token_mask(rng, tokens, 0.35, 4, 0.0, 0.0, 999, np.arange(4, 999))
        np.testing.assert_array_equal(ours, selected[row])
        np.testing.assert_array_equal(masked, GOLDEN["text/src"][row])
