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


SIZES = {
    "speech-base": 93_754_880,  # published
    "speech-large": speech(1024, 4096, 24),
    "text-base": text(768, 3072, 12),
    "text-large": text(1024, 4096, 24),
    "vision-base": vision(768, 3072, 12, 12),
    "vision-large": vision(1024, 4096, 24, 16),
}


def test_the_hand_count_of_speech_base_is_the_published_one():
    assert speech(768, 3072, 12) == 93_754_880


@pytest.mark.parametrize("name", SIZES)
def test_parameters_of_the_student(name):
    with torch.device("meta"):
        student = Data2Vec(presets.NAMES[name]().model).student
    assert sum(parameter.numel() for parameter in student.parameters()) == SIZES[name]


@pytest.mark.parametrize(
    ("name", "most"),
    [("series-tiny", 1e6), ("spectrogram-tiny", 1e6), ("speech-tiny", 2e6), ("text-tiny", 3e6), ("vision-tiny", 1e6)],
)
def test_tiny_models_are_tiny(name, most):
    with torch.device("meta"):
        student = Data2Vec(presets.NAMES[name]().model).student
    assert 1e5 < sum(parameter.numel() for parameter in student.parameters()) < most
