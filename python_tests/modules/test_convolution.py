import pytest
import torch
import torch.nn.functional as F

from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modules.convolution import PositionConvolutions, SpeechFrames, strided_convolution


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "length"),
    [
        (1, 10, 5, 43),
        (4, 3, 2, 17),
        (4, 3, 2, 18),
        (5, 2, 2, 9),
        (3, 4, 1, 11),
        (2, 7, 3, 31),
        (2, 2, 3, 12),
        (3, 5, 5, 5),
    ],
)
def test_agrees_with_conv1d_forward_and_backward(channels, kernel, stride, length):
    torch.manual_seed(0)
    x = torch.randn(2, length, channels, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, channels, kernel, dtype=torch.float64, requires_grad=True)
    ours = strided_convolution(x, weight, stride)
    theirs = F.conv1d(x.transpose(1, 2), weight, stride=stride).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    grad = torch.randn_like(theirs)
    for a, b in zip(
        torch.autograd.grad(ours, (x, weight), grad), torch.autograd.grad(theirs, (x, weight), grad), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_is_a_well_behaved_operator():
    x = torch.randn(2, 17, 4, requires_grad=True)
    weight = torch.randn(6, 4, 3, requires_grad=True)
    torch.library.opcheck(torch.ops.d2v_fast.strided_convolution.default, (x, weight, 2))


def test_takes_a_view_that_is_not_contiguous():
    wide = torch.randn(2, 20, 8)
    weight = torch.randn(6, 4, 3)
    x = wide[:, 1::2, :4]
    expected = F.conv1d(x.transpose(1, 2), weight, stride=2).transpose(1, 2)
    torch.testing.assert_close(strided_convolution(x, weight, 2), expected)


def test_autocast_computes_in_bfloat16():
    x, weight = torch.randn(1, 9, 4), torch.randn(6, 4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert strided_convolution(x, weight, 2).dtype == torch.bfloat16


@pytest.mark.parametrize("kernel", [5, 4])
def test_positions_keep_the_length_and_agree_with_torch(kernel):
    torch.manual_seed(0)
    stack = PositionConvolutions(8, depth=2, kernel=kernel, groups=2)
    x = torch.randn(2, 13, 8)
    expected = x.transpose(1, 2)
    for conv in stack.convolutions:
        expected = F.conv1d(
            F.pad(expected, (kernel // 2, kernel // 2 - (kernel % 2 == 0))), conv.weight, conv.bias, groups=2
        )
        mean, var = expected.mean(1, keepdim=True), expected.var(1, unbiased=False, keepdim=True)
        expected = F.gelu((expected - mean) / (var + 1e-5).sqrt())
    torch.testing.assert_close(stack(x), expected.transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_receptive_field_of_the_published_encoder_is_400_samples():
    layers = ((8, 10, 5), *((8, 3, 2),) * 4, *((8, 2, 2),) * 2)
    frames = SpeechFrames(layers, 4, 1.0)
    embedding = SpeechEmbedding(conv_layers=layers)
    assert embedding.receptive_field == 400
    assert [embedding.frames(samples) for samples in (399, 400, 719, 720)] == [0, 1, 1, 2]
    assert frames(torch.randn(1, 400)).shape == (1, 1, 4)
    assert frames(torch.randn(1, 719)).shape == (1, 1, 4)
    assert frames(torch.randn(1, 720)).shape == (1, 2, 4)


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_gradient_scale_reaches_the_convolutions_only(scale):
    torch.manual_seed(0)
    layers = ((6, 4, 2), (6, 2, 2))
    plain, scaled = SpeechFrames(layers, 4, 1.0), SpeechFrames(layers, 4, scale)
    scaled.load_state_dict(plain.state_dict())
    wave = torch.randn(2, 40)
    plain(wave).square().sum().backward()
    scaled(wave).square().sum().backward()
    torch.testing.assert_close(scaled.projection.weight.grad, plain.projection.weight.grad)
    grad, expected = scaled.convolutions[0].weight.grad, plain.convolutions[0].weight.grad
    if scale == 0:
        assert grad is None
    else:
        torch.testing.assert_close(grad, expected * scale)
