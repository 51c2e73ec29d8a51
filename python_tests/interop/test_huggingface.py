"""Our encoders and transformers' data2vec models compute the same with the same weights, and the names go both ways."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from d2v_fast.interop import huggingface
from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models import build_encoder
from d2v_fast.models.config import EmbeddingConfig, ModelConfig, TargetConfig, TransformerConfig
from d2v_fast.ops.linear import torch_products

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Of ours against theirs in float64: in float32 their convolutions alone are off by 1.1e-5 on some processors."""

SHORT = ((24, 10, 5), (24, 3, 2), (32, 2, 2))  # 20 samples a frame
STEEP = ((16, 10, 5), (16, 8, 8), (24, 8, 8))  # 320 samples a frame


def model(embedding: EmbeddingConfig, transformer: dict[str, Any]) -> ModelConfig:
    """A pair whose transformer has few blocks; the targets do not matter here."""
    network = TransformerConfig(**transformer)
    return ModelConfig(embedding=embedding, transformer=network, target=TargetConfig(top_k=1))


def speech(transformer: dict[str, Any], **embedding: Any) -> ModelConfig:
    return model(SpeechEmbedding(**embedding), transformer)


def text(transformer: dict[str, Any], **embedding: Any) -> ModelConfig:
    return model(TextEmbedding(**embedding), transformer)


def vision(transformer: dict[str, Any], **embedding: Any) -> ModelConfig:
    return model(VisionEmbedding(**embedding), {"norm_first": True, "key_bias": False} | transformer)


SPEECH = {
    "short convolutions": speech(
        {"dim": 48, "depth": 3, "heads": 4, "ffn_dim": 96},
        conv_layers=SHORT,
        position_depth=2,
        position_kernel=19,
        position_groups=4,
    ),
    "even position kernel": speech(
        {"dim": 32, "depth": 2, "heads": 2, "ffn_dim": 48},
        conv_layers=STEEP,
        position_depth=3,
        position_kernel=6,
        position_groups=8,
    ),
    "the recipe's convolutions": speech(
        {"dim": 96, "depth": 2, "heads": 12, "ffn_dim": 384}, conv_layers=SpeechEmbedding().conv_layers
    ),
}
TEXT = {
    "small": text({"dim": 48, "depth": 3, "heads": 4, "ffn_dim": 96}, vocab_size=101, max_length=37),
    "pad 0, eps 1e-12": text(
        {"dim": 32, "depth": 2, "heads": 8, "ffn_dim": 64, "norm_eps": 1e-12}, vocab_size=50, max_length=64, pad_id=0
    ),
    "pad 3, one head": text(
        {"dim": 24, "depth": 4, "heads": 1, "ffn_dim": 100}, vocab_size=64, max_length=40, pad_id=3
    ),
}
VISION = {
    "layer scale": vision(
        {"dim": 48, "depth": 3, "heads": 4, "ffn_dim": 96, "norm_eps": 1e-6, "layer_scale": 0.3},
        image_size=32,
        patch_size=8,
    ),
    "no layer scale": vision(
        {"dim": 32, "depth": 2, "heads": 2, "ffn_dim": 128, "norm_eps": 1e-12}, image_size=40, patch_size=8
    ),
    "grey, odd grid, eps 1e-5": vision(
        {"dim": 64, "depth": 4, "heads": 8, "ffn_dim": 64, "norm_eps": 1e-5, "layer_scale": 1.0},
        image_size=21,
        patch_size=3,
        channels=1,
    ),
}
ALL = SPEECH | TEXT | VISION


def their_model(config: ModelConfig) -> nn.Module:
    """Their model with random weights; every tensor is away from its initial zeros and ones."""
    torch.manual_seed(0)
    their_config = huggingface.config_for(config)
    if config.modality == "speech":
        model = transformers.Data2VecAudioModel(their_config)
    else:
        name = f"Data2Vec{config.modality.capitalize()}Model"
        model = getattr(transformers, name)(their_config, add_pooling_layer=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def our_encoder(config: ModelConfig, state: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    encoder = build_encoder(config).to(dtype)
    encoder.load_state_dict(huggingface.to_ours(state, config), strict=True)
    return encoder.eval()


def pair(config: ModelConfig, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Their model in float64, and ours in `dtype` with the same weights."""
    theirs = their_model(config)
    return theirs.double(), our_encoder(config, theirs.state_dict(), dtype)


def worst(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    assert b.abs().max() > 0.1  # not a comparison of zeros
    return float((a - b).detach().abs().max())


def hooked(modules: list[nn.Module]) -> list[Tensor]:
    """A list that the outputs of `modules` are appended to."""
    outputs: list[Tensor] = []
    for module in modules:
        module.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    return outputs


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", SPEECH)
@pytest.mark.parametrize("samples", [4000, 6173])
def test_speech_agrees(name, samples, dtype):
    config = SPEECH[name]
    theirs, ours = pair(config, dtype)
    waveforms = torch.randn(2, samples, generator=torch.Generator().manual_seed(2)).to(dtype)
    ffn = hooked([layer.feed_forward for layer in theirs.encoder.layers])
    with torch.no_grad():
        found = ours(waveforms)
    with torch.no_grad(), torch_products():
        expected = theirs(waveforms.double(), output_hidden_states=True)
        longer = 2 if dtype == torch.float32 else 1  # oneDNN's sums, where it serves: 1.02e-5; float64 is torch's
        assert worst(found, expected.last_hidden_state) < longer * TOLERANCE[dtype]
        assert worst(ours(waveforms), expected.last_hidden_state) < TOLERANCE[dtype]
        depth = config.transformer.depth
        for feature, wanted in (("ffn", ffn), ("block", expected.hidden_states[1:])):
            layers = ours.forward_layers(ours.embed(waveforms), last=depth, feature=feature).features
            assert len(layers) == depth == len(wanted)
            assert max(worst(a, b) for a, b in zip(layers, wanted, strict=True)) < TOLERANCE[dtype]


def test_speech_frame_counts_are_even_and_odd():
    lengths = {build_encoder(c).token_lengths(torch.tensor([4000, 6173])).tolist()[1] % 2 for c in SPEECH.values()}
    assert lengths == {0, 1}  # so the tests above see both


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", SPEECH)
def test_speech_with_padding_agrees_on_the_valid_frames(name, dtype):
    config = SPEECH[name]
    theirs, ours = pair(config, dtype)
    lengths = torch.tensor([5200, 4001, 2900])
    waveforms = torch.randn(3, 5200, generator=torch.Generator().manual_seed(3)).to(dtype)
    attended = (torch.arange(5200) < lengths[:, None]).long()
    waveforms = waveforms * attended
    frames = ours.token_lengths(lengths)
    with torch.no_grad():
        expected = theirs(waveforms.double(), attention_mask=attended).last_hidden_state
        actual = ours(waveforms, lengths)
        without = ours(waveforms)
    for row, length in enumerate(frames.tolist()):
        assert worst(actual[row, :length], expected[row, :length]) < TOLERANCE[dtype]
    short = int(frames[2])
    assert worst(without[2, :short], expected[2, :short]) > 1e-3  # the mask matters


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("length", [1, 17, 36])
def test_text_agrees(name, length, dtype):
    config = TEXT[name]
    pad = config.embedding.pad_id
    theirs, ours = pair(config, dtype)
    tokens = torch.randint(
        pad + 1, config.embedding.vocab_size, (3, length), generator=torch.Generator().manual_seed(4)
    )
    lengths = torch.tensor([length, max(1, length // 2), max(1, length - 3)])
    padded = torch.where(torch.arange(length) < lengths[:, None], tokens, pad)
    ffn = hooked([layer.output.dense for layer in theirs.encoder.layer])
    with torch.no_grad():
        assert worst(ours(tokens), theirs(tokens).last_hidden_state) < TOLERANCE[dtype]
        depth = config.transformer.depth
        layers = ours.forward_layers(ours.embed(tokens), last=depth, feature="ffn").features
        assert max(worst(a, b) for a, b in zip(layers, ffn[:depth], strict=True)) < TOLERANCE[dtype]
        expected = theirs(padded, attention_mask=(padded != pad).long()).last_hidden_state
        actual = ours(padded, lengths)
    for row, valid in enumerate(lengths.tolist()):
        assert worst(actual[row, :valid], expected[row, :valid]) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", VISION)
def test_vision_agrees(name, dtype):
    config = VISION[name]
    embedding = config.embedding
    theirs, ours = pair(config, dtype)
    size = (3, embedding.channels, embedding.image_size, embedding.image_size)
    images = torch.randn(size, generator=torch.Generator().manual_seed(5)).to(dtype)
    patches = (embedding.image_size // embedding.patch_size) ** 2
    ffn = hooked([layer.output for layer in theirs.encoder.layer])
    mask = torch.zeros(3, patches, dtype=torch.bool)
    mask[0, :5] = mask[1, 3:8] = True
    with torch.no_grad():
        expected = theirs(images.double(), output_hidden_states=True)
        assert worst(ours(images), expected.last_hidden_state[:, 1:]) < TOLERANCE[dtype]
        depth = config.transformer.depth
        blocks = ours.forward_layers(ours.embed(images), last=depth, feature="block").features
        # With their final norm, the last of their hidden states is still the last block's output.
        hidden = [state[:, 1:] for state in expected.hidden_states[1:]]
        assert max(worst(a, b) for a, b in zip(blocks, hidden, strict=True)) < TOLERANCE[dtype]
        branches = ours.forward_layers(ours.embed(images), last=depth, feature="ffn").features
        scales = [1.0 if layer.lambda_2 is None else layer.lambda_2 for layer in theirs.encoder.layer]
        wanted = [scale * output[:, 1:] for scale, output in zip(scales, ffn, strict=True)]
        assert max(worst(a, b) for a, b in zip(branches, wanted, strict=True)) < TOLERANCE[dtype]
        masked = theirs(images.double(), bool_masked_pos=mask).last_hidden_state[:, 1:]
        assert worst(ours.forward_layers(ours.embed(images), mask=mask).output, masked) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", ALL)
def test_names_go_both_ways_exactly(name):
    config = ALL[name]
    ours = build_encoder(config).state_dict()
    theirs = huggingface.from_ours(ours, config)
    assert theirs.keys() == their_model(config).state_dict().keys()
    back = huggingface.to_ours(theirs, config)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)


@pytest.mark.parametrize("name", ["short convolutions", "small", "layer scale"])
def test_saves_and_loads_as_their_model(name, tmp_path):
    config = ALL[name]
    torch.manual_seed(3)
    encoder = build_encoder(config).eval()
    model = their_model(config)
    model.load_state_dict(huggingface.from_ours(encoder.state_dict(), config), strict=True)
    model.save_pretrained(tmp_path)
    extra = {} if config.modality == "speech" else {"add_pooling_layer": False}
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True, **extra)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = huggingface.to_ours(loaded.state_dict(), config)
    assert all(torch.equal(state[key], value) for key, value in encoder.state_dict().items())
    # The translated tensors share no memory, so safetensors takes them as they are.
    save_file(huggingface.from_ours(encoder.state_dict(), config), tmp_path / "direct.safetensors")
    assert load_file(tmp_path / "direct.safetensors").keys() == loaded.state_dict().keys()


def test_a_head_is_left_out():
    config = SPEECH["short convolutions"]
    torch.manual_seed(0)
    model = transformers.Data2VecAudioForCTC(huggingface.config_for(config))
    ours = huggingface.to_ours(model.state_dict(), config)
    assert ours.keys() == build_encoder(config).state_dict().keys()
    assert torch.equal(ours["embedding.mask_token"], model.data2vec_audio.masked_spec_embed)


def test_a_pooler_is_left_out():
    config = TEXT["small"]
    model = transformers.Data2VecTextModel(huggingface.config_for(config))
    assert any(name.startswith("pooler.") for name in model.state_dict())
    assert huggingface.to_ours(model.state_dict(), config).keys() == build_encoder(config).state_dict().keys()


def test_errors_name_the_tensors():
    config = VISION["layer scale"]
    state = huggingface.from_ours(build_encoder(config).state_dict(), config)
    state["surprise"] = state.pop("layernorm.bias")
    with pytest.raises(ValueError, match=r"missing: layernorm\.bias; unexpected: surprise"):
        huggingface.to_ours(state, config)
    deeper = replace(config, transformer=replace(config.transformer, depth=5))
    state = huggingface.from_ours(build_encoder(config).state_dict(), config)
    with pytest.raises(ValueError, match=r"missing: encoder\.layer\.3\.attention.* and \d+ more"):
        huggingface.to_ours(state, deeper)
    with pytest.raises(ValueError, match=r"our encoder's state_dict .* unexpected: head\.layers\.0\.bias"):
        huggingface.from_ours(build_encoder(config).state_dict() | {"head.layers.0.bias": torch.zeros(3)}, config)


def test_two_token_types_are_refused():
    config = TEXT["small"]
    state = huggingface.from_ours(build_encoder(config).state_dict(), config)
    state["embeddings.token_type_embeddings.weight"] = torch.zeros(2, config.transformer.dim)
    with pytest.raises(ValueError, match=r"has 2 rows.*type_vocab_size=1"):
        huggingface.to_ours(state, config)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (SPEECH["short convolutions"], {"norm_first": True}, "speech model has norm_first=False and no other"),
        (SPEECH["short convolutions"], {"norm_eps": 1e-6}, "speech model has norm_eps=1e-05 and no other"),
        (TEXT["small"], {"layer_scale": 0.1}, "text model has layer_scale=None and no other"),
        (TEXT["small"], {"key_bias": False}, "text model has key_bias=True and no other"),
        (VISION["layer scale"], {"key_bias": True}, "vision model has key_bias=False and no other"),
    ],
)
def test_what_they_lack_is_refused(config, change, message):
    changed = replace(config, transformer=replace(config.transformer, **change))
    for call in (huggingface.config_for, lambda c: huggingface.from_ours({}, c), lambda c: huggingface.to_ours({}, c)):
        with pytest.raises(ValueError, match=message):
            call(changed)


def test_fixed_positions_are_refused():
    config = VISION["layer scale"]
    with pytest.raises(ValueError, match="positions is 'sincos'"):
        huggingface.config_for(replace(config, embedding=replace(config.embedding, positions="sincos")))


def test_convolutions_over_tokens_are_refused():
    config = TEXT["small"]
    with pytest.raises(ValueError, match=r"no convolutions; embedding\.position_depth must be 0"):
        huggingface.config_for(replace(config, embedding=replace(config.embedding, position_depth=1)))


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r"d2v_fast\[export\]"):
        huggingface.config_for(TEXT["small"])
