import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models import Data2Vec, build_encoder, token_count
from d2v_fast.models.config import HeadConfig, ModelConfig, TargetConfig, TransformerConfig

VISION = TransformerConfig(norm_first=True, norm_eps=1e-6, key_bias=False, layer_scale=1e-4)


@pytest.mark.parametrize(
    ("config", "student", "teacher"),
    [
        # the released size; the teacher owns 12 blocks of 7,087,872 and the norm before them
        (ModelConfig(embedding=SpeechEmbedding()), 93_754_880, 12 * 7_087_872 + 1536),
        # 85.7 M in the encoder and a linear head of 590,592
        (
            ModelConfig(embedding=VisionEmbedding(), transformer=VISION),
            85_666_128 + 590_592,
            12 * 7_088_640 + 1536,
        ),
        # 124.1 M in the encoder and two linear maps of the head
        (
            ModelConfig(embedding=TextEmbedding(), head=HeadConfig(layers=2)),
            12 * 7_087_872 + (50_265 + 514 + 2) * 768 + 2 * 768 * 1536 + 1536 + 768,
            12 * 7_087_872,
        ),
    ],
    ids=["speech", "vision", "text"],
)
def test_published_sizes(config, student, teacher):
    with torch.device("meta"):
        model = Data2Vec(config)
    owned = sum(value.numel() for value in model.teacher.parameters() if not value.requires_grad)
    assert (sum(value.numel() for value in model.student.parameters()), owned) == (student, teacher)


def test_frames_of_published_lengths():
    config = ModelConfig(embedding=SpeechEmbedding())
    samples = [16000, 32000, 160000, 250000, 320000, 400, 399]
    frames = [49, 99, 499, 781, 999, 1, 0]
    assert [token_count(config, size) for size in samples] == frames
    assert token_count(config, np.array(samples)).tolist() == frames
    assert token_count(config, torch.tensor(samples)).tolist() == frames
    assert token_count(ModelConfig(embedding=VisionEmbedding()), None) == (14, 14)
    assert token_count(ModelConfig(embedding=TextEmbedding()), 17) == 17


def test_features_of_whole_inputs(small, modality, config, batch):
    encoder = build_encoder(config).eval()
    features = encoder(batch.inputs)
    assert features.shape == (3, small.tokens[modality], 16)
    assert torch.equal(features, encoder.forward_layers(encoder.embed(batch.inputs)).output)


@pytest.mark.parametrize("norm_first", [False, True])
def test_rows_pick_from_the_whole_output(small, modality, config, batch, norm_first):
    config = replace(config, transformer=replace(config.transformer, norm_first=norm_first))
    encoder = small.perturb(build_encoder(config)).eval().double()
    local = encoder.embed(batch.inputs.double() if modality != "text" else batch.inputs)
    whole = encoder.forward_layers(local).output
    for rows in (batch.rows, torch.tensor([], dtype=torch.int64), torch.arange(3 * whole.shape[1])):
        some = encoder.forward_layers(local, rows=rows).output
        torch.testing.assert_close(some, whole.flatten(0, 1)[rows], rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm_first", [False, True])
def test_norms_are_where_the_released_code_has_them(small, modality, config, batch, norm_first):
    config = replace(config, transformer=replace(config.transformer, norm_first=norm_first))
    encoder = small.perturb(build_encoder(config)).eval()
    seen = []
    encoder.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    layers = encoder.forward_layers(encoder.embed(batch.inputs), last=3)
    last = layers.features[-1]
    if norm_first:  # a norm follows the blocks
        torch.testing.assert_close(layers.output, encoder.norm(last))
        return
    torch.testing.assert_close(layers.output, last)
    first = encoder.norm if modality != "text" else encoder.embedding.norm
    unnormed = (seen[0] - first.bias) / first.weight
    torch.testing.assert_close(unnormed.mean(2), torch.zeros_like(unnormed[..., 0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(unnormed.std(2, correction=0), torch.ones_like(unnormed[..., 0]), rtol=0, atol=1e-2)


def test_kept_features_are_the_last_layers(modality, config, batch):
    encoder = build_encoder(config).eval()
    outputs = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    local = encoder.embed(batch.inputs)
    ffn = encoder.forward_layers(local, last=2, feature="ffn").features
    skip = 1 if modality == "vision" else 0
    assert [torch.equal(a, b.ffn[:, skip:]) for a, b in zip(ffn, outputs[1:3], strict=True)] == [True, True]
    block = encoder.forward_layers(local, last=1, feature="block").features
    assert len(block) == 1
    assert torch.equal(block[0], outputs[5].output[:, skip:])
    with pytest.raises(ValueError, match="not both"):
        encoder.forward_layers(local, last=1, rows=batch.rows)


def test_text_padding_changes_nothing(small):
    encoder = small.perturb(build_encoder(small.configs["text"])).eval()
    tokens = small.make_batch("text").inputs
    padded = torch.cat([tokens[:, :6], torch.full((3, 4), 1)], 1)
    alone = encoder(tokens[:, :6])
    torch.testing.assert_close(encoder(padded, torch.tensor([6, 6, 6]))[:, :6], alone, rtol=1e-5, atol=1e-5)
    assert (encoder(padded)[:, :6] - alone).abs().max() > 1e-3  # without the lengths it is attended to


def test_speech_padding_reaches_neighbours_through_the_position_stack_only(small):
    """As released: frames are zeroed before the stack, not between its layers."""
    encoder = small.perturb(build_encoder(small.configs["speech"])).eval()
    waves = small.make_batch("speech").inputs
    lengths = torch.tensor([104, 72, 104])  # 12, 8, 12 frames
    noisy = waves.clone()
    noisy[1, 72:] = 100 * torch.randn(32)
    a, b = encoder(waves, lengths), encoder(noisy, lengths)
    torch.testing.assert_close(a[:, :8], b[:, :8], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a[0], encoder(waves[:1])[0], rtol=1e-4, atol=1e-5)
    cut = encoder(waves[1:2, :72])
    difference = (cut[0] - a[1, :8]).abs().amax(1)
    assert difference.max() > 1e-3
    # With attention switched off, a stack of two kernels of five reaches two frames beyond the first layer's.
    for block in encoder.blocks:
        torch.nn.init.zeros_(block.attention.out.weight)
    difference = (encoder(waves[1:2, :72])[0] - encoder(waves, lengths)[1, :8]).abs().amax(1)
    assert (difference[:6] < 1e-5).all()
    assert (difference[6:] > 1e-4).all()


def test_images_have_no_padding(small):
    encoder = build_encoder(small.configs["vision"])
    with pytest.raises(ValueError, match="no padding"):
        encoder(torch.randn(2, 2, 12, 12), torch.tensor([16, 16]))


def test_activation_checkpoints_change_memory_and_no_number(small, config, batch):
    config = replace(config, transformer=replace(config.transformer, dropout=0.2, drop_path=0.2))
    model = small.perturb(Data2Vec(config))
    gradients = []
    for checkpoints in (False, True):
        model.student.encoder.checkpoint_activations = checkpoints
        model.zero_grad()
        torch.manual_seed(0)
        model(batch).loss.backward()
        gradients.append([value.grad.clone() for value in model.student.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_an_encoder_skips_the_blocks_that_it_is_told(small, modality, config, batch):
    encoder = small.perturb(build_encoder(config))
    ran = []
    for number, block in enumerate(encoder.blocks):
        block.register_forward_hook(lambda module, inputs, output, number=number: ran.append(number))
    local = encoder.embed(batch.inputs)
    rows = torch.tensor([1, 5])
    assert encoder.forward_layers(local, rows=rows, skipped=(True, False, True)).output.shape == (2, 16)
    assert ran == [1]
    ran.clear()
    encoder.forward_layers(local)
    assert ran == [0, 1, 2]


def test_drop_path_rises_linearly(small):
    config = small.configs["vision"]
    encoder = build_encoder(replace(config, transformer=replace(config.transformer, depth=5, drop_path=0.2)))
    assert [block.drop_path for block in encoder.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def wide(small, modality):
    config = small.configs[modality]
    torch.manual_seed(0)
    return Data2Vec(replace(config, transformer=replace(config.transformer, dim=64, ffn_dim=256))).student


def test_speech_starts_as_bert_in_the_context_network_only(small):
    student = wide(small, "speech")
    for block in student.encoder.blocks:
        for linear in (block.attention.qkv, block.attention.out, block.ffn.up, block.ffn.down):
            assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert linear.bias.eq(0).all()
    bound = 1 / math.sqrt(64)  # torch's own: uniform in +- 1 / sqrt(inputs)
    assert 0.97 * bound < student.head.layers[0].weight.abs().max() <= bound
    assert student.encoder.embedding.projection.bias.ne(0).any()
    mask = student.encoder.embedding.mask_token
    assert 0 <= mask.min() < 0.1
    assert 0.9 < mask.max() <= 1
    kernel = student.encoder.embedding.convolutions[1].weight  # 8 channels, 3 frames: Kaiming normal
    assert kernel.std().item() == pytest.approx(math.sqrt(2 / 24), rel=0.15)


def test_vision_starts_truncated_and_rescaled(small):
    student = wide(small, "vision")
    encoder = student.encoder
    for weight in (
        encoder.blocks[0].attention.qkv.weight,
        encoder.blocks[2].ffn.up.weight,
        student.head.layers[0].weight,
    ):
        assert 0.0199 < weight.abs().max() <= 0.02
        assert weight.std().item() == pytest.approx(0.02 * 0.5396, rel=0.05)  # a normal cut at one deviation
    for number, block in enumerate(encoder.blocks, 1):
        for weight in (block.attention.out.weight, block.ffn.down.weight):
            assert weight.abs().max().item() == pytest.approx(0.02 / math.sqrt(2 * number), rel=0.01)
        assert block.ffn_scale.eq(0.1).all()
        assert block.attention.q_bias.eq(0).all()
    for token in (encoder.embedding.class_token, encoder.embedding.mask_token):
        assert 0.01 < token.abs().max() <= 0.02
    assert 0.0199 < encoder.embedding.patches.weight.abs().max() <= 0.02
    assert encoder.positions.table.eq(0).all()


def test_text_starts_normal_with_the_head(small):
    student = wide(small, "text")
    embedding = student.encoder.embedding
    for weight in (student.head.layers[0].weight, embedding.tokens.weight, student.encoder.blocks[1].ffn.up.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert weight.abs().max() > 0.04
    assert student.head.layers[0].bias.eq(0).all()
    assert embedding.tokens.weight[1].eq(0).all()
    assert embedding.positions.weight[1].eq(0).all()
    assert embedding.positions.weight.shape == (14, 64)


def test_the_seed_decides_the_weights(config):
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(Data2Vec(config).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_vision_with_fixed_positions_tells_patches_apart():
    torch.manual_seed(0)
    embedding = VisionEmbedding(image_size=8, patch_size=4, channels=1, positions="sincos")
    network = TransformerConfig(dim=16, depth=2, heads=2, ffn_dim=32, norm_first=True, key_bias=False)
    encoder = build_encoder(ModelConfig(embedding=embedding, transformer=network, target=TargetConfig(top_k=2))).eval()
    features = encoder(torch.full((1, 1, 8, 8), 0.5))[0].detach()
    assert min(float((features[i] - features[j]).abs().max()) for i in range(4) for j in range(i)) > 0.1
    assert not any("positions" in name for name in encoder.state_dict())
