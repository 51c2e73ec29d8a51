"""What the text encoder says of ids that it has no row for."""

import pytest
import torch

from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.models import build_encoder
from d2v_fast.models.config import ModelConfig, TargetConfig, TransformerConfig


@pytest.fixture
def encoder():
    embedding = TextEmbedding(vocab_size=30, max_length=8)
    network, target = TransformerConfig(dim=8, depth=1, heads=2), TargetConfig(top_k=1)
    return build_encoder(ModelConfig(embedding=embedding, transformer=network, target=target))


@pytest.mark.parametrize("wrong", [30, 70_000, -1])
def test_an_id_beyond_the_vocabulary_is_named_with_its_size(encoder, wrong):
    tokens = torch.tensor([[4, 5, 29], [6, wrong, 7]])
    with pytest.raises(ValueError, match=rf"token id {wrong} is outside of the model's vocabulary of 30 ids"):
        encoder(tokens)


def test_ids_of_the_vocabulary_and_none_at_all_are_fine(encoder):
    assert encoder(torch.tensor([[0, 29]])).isfinite().all()
    assert encoder(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3, 8)


def test_ids_on_a_device_are_not_looked_at(encoder):
    """A GPU would have to be waited for."""
    assert encoder.to("meta")(torch.zeros(2, 3, dtype=torch.int64, device="meta")).shape == (2, 3, 8)
