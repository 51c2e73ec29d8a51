import pytest
import torch

from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modules.convolution import Frames


def test_receptive_field_of_the_published_encoder_is_400_samples():
    layers = ((8, 10, 5), *((8, 3, 2),) * 4, *((8, 2, 2),) * 2)
    frames = Frames(1, layers, 4, 1.0)
    embedding = SpeechEmbedding(conv_layers=layers)
    assert embedding.receptive_field == 400
    assert [embedding.frames(samples) for samples in (399, 400, 719, 720)] == [0, 1, 1, 2]
    assert frames(torch.randn(1, 400, 1)).shape == (1, 1, 4)
    assert frames(torch.randn(1, 719, 1)).shape == (1, 1, 4)
    assert frames(torch.randn(1, 720, 1)).shape == (1, 2, 4)


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_gradient_scale_reaches_the_convolutions_only(scale):
    torch.manual_seed(0)
    layers = ((6, 4, 2), (6, 2, 2))
    plain, scaled = Frames(1, layers, 4, 1.0), Frames(1, layers, 4, scale)
    scaled.load_state_dict(plain.state_dict())
    wave = torch.randn(2, 40, 1)
    plain(wave).square().sum().backward()
    scaled(wave).square().sum().backward()
    torch.testing.assert_close(scaled.projection.weight.grad, plain.projection.weight.grad)
    grad, expected = scaled.convolutions[0].weight.grad, plain.convolutions[0].weight.grad
    if scale == 0:
        assert grad is None
    else:
        torch.testing.assert_close(grad, expected * scale)
