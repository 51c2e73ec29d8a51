"""Parameter counts of the presets' models, summed from the shapes by hand; built without memory, on the meta device."""

import pytest
import torch

from d2v_fast import presets
from d2v_fast.models import Data2Vec


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def block(dim: int, ffn: int) -> int:
    """Fused projection, output projection, two linear maps, two norms."""
    return linear(dim, 3 * dim) + linear(dim, dim) + linear(dim, ffn) + linear(ffn, dim) + 4 * dim


def speech(dim: int, ffn: int, depth: int) -> int:
    convolutions = 512 * 10 + 4 * 512 * 512 * 3 + 2 * 512 * 512 * 2 + 7 * 2 * 512
    positions = 5 * (dim * (dim // 16) * 19 + dim)
    embedding = convolutions + 2 * 512 + linear(512, dim) + dim  # the last is the mask token
    return embedding + positions + 2 * dim + depth * block(dim, ffn) + linear(dim, dim)


def text(dim: int, ffn: int, depth: int) -> int:
    embedding = 50265 * dim + 514 * dim + 2 * dim
    return embedding + depth * block(dim, ffn) + linear(dim, 2 * dim) + linear(2 * dim, dim)


def vision(dim: int, ffn: int, depth: int, heads: int) -> int:
    embedding = linear(3 * 16 * 16, dim) + 2 * dim  # class and mask token
    # No bias for the keys; two layer scales in each block.
    return embedding + 732 * heads + depth * (block(dim, ffn) - dim + 2 * dim) + 2 * dim + linear(dim, dim)


def decoder(dim: int, width: int, layers: int, kernel: int, groups: int) -> int:
    """Grouped convolutions of `kernel` positions; the projection is not in it."""
    first, others = dim * width * kernel // groups + width, width * width * kernel // groups + width
    return first + (layers - 1) * others


def speech2(dim: int, ffn: int, depth: int, heads: int, width: int) -> int:
    """As `speech`, without mask token and head, with a factor for each head, and the decoder."""
    encoder = speech(dim, ffn, depth) - dim - linear(dim, dim) + heads
    return encoder + decoder(dim, width, 4, 7, 16) + linear(width, dim)


def vision2(dim: int, ffn: int, depth: int, patch: int, convolutions: int) -> int:
    return linear(3 * patch**2, dim) + dim + 2 * dim + depth * block(dim, ffn) + convolutions


def text2(dim: int, ffn: int, depth: int) -> int:
    projection = linear(768, 2 * 768) + linear(2 * 768, dim)
    return 50265 * dim + 514 * dim + 2 * dim + depth * block(dim, ffn) + decoder(dim, 768, 5, 9, 1) + projection


def small(embedding: int, kernel: int) -> int:
    """Of the student of a small preset with a decoder, and a linear map from patches of so many values."""
    encoder = linear(embedding, 192) + 192 + 2 * 192 + 6 * block(192, 768)  # with the class token
    return encoder + decoder(192, 96, 2, kernel, 6) + linear(96, 192)


SIZES = {
    "speech-small": small(2 * 80, 7),
    "vision-small": small(3 * 8 * 8, 3 * 3),
    "text-small": (1024 + 98) * 96
    + 4 * 96
    + linear(5 * 96, 96)
    + 3 * block(96, 384)
    + linear(96, 2 * 96)
    + linear(2 * 96, 96),
    "speech2-base": 93_783_308,  # of the released classes, as are the two other bases
    "speech2-large": speech2(1024, 4096, 24, 16, 768),
    "text2-base": 152_961_792,
    "text2-large": text2(1024, 4096, 24),
    "vision2-base": 88_383_744 - 150_528,  # without the fixed positions, which are none of our parameters
    "vision2-large": vision2(1024, 4096, 24, 16, decoder(1024, 1024, 3, 25, 16) + linear(1024, 1024)),
    "vision2-huge16": vision2(1280, 5120, 32, 16, decoder(1280, 1024, 3, 25, 16) + linear(1024, 1280)),
    "vision2-huge14": vision2(1280, 5120, 32, 14, decoder(1280, 1024, 3, 25, 16) + linear(1024, 1280)),
    "spectrogram2-base": 88_383_744 - 150_528 - 2 * 16 * 16 * 768,  # of one channel
    "speech-base": 93_754_880,  # published
    "speech-large": speech(1024, 4096, 24),
    "text-base": text(768, 3072, 12),
    "text-large": text(1024, 4096, 24),
    "vision-base": vision(768, 3072, 12, 12),
    "vision-large": vision(1024, 4096, 24, 16),
}


def test_the_hand_counts_of_base_models_are_the_published_ones():
    assert speech(768, 3072, 12) == 93_754_880
    assert speech2(768, 3072, 12, 12, 384) == SIZES["speech2-base"]
    assert text2(768, 3072, 12) == SIZES["text2-base"]
    decoded = decoder(768, 768, 6, 9, 16) + linear(768, 768)
    assert vision2(768, 3072, 12, 16, decoded) == SIZES["vision2-base"]
    assert decoded == 2_585_856


@pytest.mark.parametrize("name", SIZES)
def test_parameters_of_the_student(name):
    with torch.device("meta"):
        student = Data2Vec(presets.NAMES[name]().model).student
    assert sum(parameter.numel() for parameter in student.parameters()) == SIZES[name]


@pytest.mark.parametrize("two", ["", "2"])
@pytest.mark.parametrize(
    ("modality", "most"), [("series", 1e6), ("spectrogram", 1e6), ("speech", 2e6), ("text", 3e6), ("vision", 1e6)]
)
def test_tiny_models_are_tiny(modality, two, most):
    with torch.device("meta"):
        student = Data2Vec(presets.preset(f"{modality}{two}-tiny").model).student
    assert 1e5 < sum(parameter.numel() for parameter in student.parameters()) < most
