"""What the text encoder says of ids that it has no row for, and its convolutions over the tokens."""

import pytest
import torch
import torch.nn.functional as F

from d2v_fast import presets
from d2v_fast.config_json import with_overrides
from d2v_fast.errors import ConfigError
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.models import build_encoder
from d2v_fast.models.config import ModelConfig, TargetConfig, TransformerConfig


def built(**embedding):
    embedding = TextEmbedding(vocab_size=30, max_length=8, **embedding)
    network, target = TransformerConfig(dim=8, depth=1, heads=2), TargetConfig(top_k=1)
    return build_encoder(ModelConfig(embedding=embedding, transformer=network, target=target)).eval()


@pytest.fixture
def encoder():
    return built()


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


def test_convolutions_are_added_to_the_tokens():
    encoder = built(position_depth=2, position_kernel=4, position_groups=2).double()
    tokens = torch.tensor([[0, 7, 9, 29, 5]])
    x = embedded = encoder.embed(tokens)
    for layer in encoder.positions.convolutions:
        assert layer.weight.shape == (8, 4, 4)
        x = F.conv1d(x.transpose(1, 2), layer.weight, layer.bias, padding=2, groups=2)[..., :5].transpose(1, 2)
        x = F.gelu((x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt())
    assert not encoder.embedding.positions.weight.any()
    placed, bias = encoder.place(embedded, None)
    assert bias is None
    assert torch.allclose(placed, embedded + x, rtol=0, atol=1e-12)
    assert torch.allclose(encoder(tokens), encoder.run(embedded + x).output, rtol=0, atol=1e-12)


def test_padding_changes_nothing_with_a_convolution():
    encoder = built(position_depth=1, position_kernel=3).double()
    alone = encoder(torch.tensor([[0, 7, 9]]))
    beside = encoder(torch.tensor([[0, 7, 9, 1, 1], [0, 4, 5, 6, 2]]), torch.tensor([3, 5]))
    assert torch.allclose(beside[:1, :3], alone, rtol=0, atol=1e-12)


def test_convolutions_that_do_not_fit_are_refused():
    given = {"model.embedding.position_depth": 1, "model.embedding.position_groups": 5}
    with pytest.raises(
        ConfigError, match=r"position_groups is 5, but it must divide model\.transformer\.dim, which is 96"
    ):
        with_overrides(presets.text_tiny(), given)
    with pytest.raises(ConfigError, match=r"position_depth is 1, but model\.head is a DecoderConfig"):
        with_overrides(presets.text2_tiny(), {"model.embedding.position_depth": 1})
