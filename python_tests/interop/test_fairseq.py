"""The released names, listed here a second time, against the translation tables."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from d2v_fast.interop import fairseq
from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models import Data2Vec
from d2v_fast.models.config import HeadConfig, ModelConfig, TargetConfig, TeacherConfig, TransformerConfig

C, FFN = 8, 12
POST = TransformerConfig(dim=C, depth=2, heads=2, ffn_dim=FFN)
PRE = TransformerConfig(dim=C, depth=2, heads=2, ffn_dim=FFN, norm_first=True, key_bias=False, layer_scale=0.1)
TARGET = TargetConfig(top_k=1)
SPEECH = ModelConfig(
    embedding=SpeechEmbedding(
        conv_layers=((6, 10, 5), (6, 3, 2)), position_depth=2, position_kernel=5, position_groups=4
    ),
    transformer=POST,
    target=TARGET,
)
TEXT = ModelConfig(
    embedding=TextEmbedding(vocab_size=20, max_length=9),
    transformer=POST,
    target=TARGET,
    head=HeadConfig(layers=2),
)
VISION = ModelConfig(
    embedding=VisionEmbedding(image_size=6, patch_size=2),
    transformer=PRE,
    target=TARGET,
    teacher=TeacherConfig(averages="all"),
)


def layer(*names: str) -> list[str]:
    return [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]


def fairseq_layers(root: str) -> list[str]:
    parts = ("k_proj", "v_proj", "q_proj", "out_proj")
    return [
        name
        for i in range(2)
        for name in layer(
            *(f"{root}layers.{i}.self_attn.{part}" for part in parts),
            *(f"{root}layers.{i}.{part}" for part in ("self_attn_layer_norm", "fc1", "fc2", "final_layer_norm")),
        )
    ]


def vision_blocks(root: str, mlp: tuple[str, str]) -> list[str]:
    return [
        f"{root}blocks.{i}.{name}"
        for i in range(2)
        for name in (
            *("gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias", "attn.qkv.weight"),
            *layer("norm1", "norm2", "attn.proj", f"mlp.{mlp[0]}", f"mlp.{mlp[1]}"),
        )
    ]


SPEECH_ENCODER = [
    *layer("pos_conv.0.0", "pos_conv.1.0", "layer_norm"),
    *fairseq_layers(""),
]
SPEECH_NAMES = [
    "mask_emb",
    *("feature_extractor.conv_layers.0.0.weight", "feature_extractor.conv_layers.1.0.weight"),
    *layer("feature_extractor.conv_layers.0.2.1", "feature_extractor.conv_layers.1.2.1"),
    *layer("layer_norm", "post_extract_proj", "final_proj"),
    *(f"encoder.{name}" for name in SPEECH_ENCODER),
]
TEXT_ENCODER = ["embed_tokens.weight", "embed_positions.weight", *layer("layernorm_embedding"), *fairseq_layers("")]
TEXT_NAMES = [
    *(f"encoder.sentence_encoder.{name}" for name in TEXT_ENCODER),
    *layer("encoder.regression_head.0", "encoder.regression_head.2"),
]
BEIT_NAMES = [
    *("cls_token", "mask_token", "rel_pos_bias.relative_position_bias_table"),
    *layer("patch_embed.proj", "norm", "lm_head"),
    *vision_blocks("", ("fc1", "fc2")),
]
FAIRSEQ_VISION_NAMES = [
    *("cls_emb", "mask_emb", "encoder.rel_pos_bias.relative_position_bias_table"),
    *layer("patch_embed.conv", "encoder.norm", "final_proj"),
    *vision_blocks("encoder.", ("0", "2")),
]
CASES = {
    "speech": (SPEECH, "beit", SPEECH_NAMES),
    "text": (TEXT, "beit", TEXT_NAMES),
    "beit": (VISION, "beit", BEIT_NAMES),
    "fairseq vision": (VISION, "fairseq", FAIRSEQ_VISION_NAMES),
}


def student_state(config: ModelConfig) -> dict[str, Tensor]:
    """Our student's weights, no two of them alike."""
    generator = torch.Generator().manual_seed(0)
    state = Data2Vec(config).student.state_dict()
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}


@pytest.mark.parametrize("case", CASES)
def test_names_and_round_trip(case):
    config, vision, names = CASES[case]
    ours = student_state(config)
    theirs = fairseq.from_ours(ours, config, vision=vision)
    assert sorted(theirs) == sorted(names)
    back = fairseq.to_ours(theirs, config)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)
    Data2Vec(config).student.load_state_dict(back, strict=True)


@pytest.mark.parametrize("case", CASES)
def test_encoder_alone(case):
    config, vision, names = CASES[case]
    student = student_state(config)
    encoder = {name[8:]: tensor for name, tensor in student.items() if name.startswith("encoder.")}
    theirs = fairseq.from_ours(encoder, config, part="encoder", vision=vision)
    heads = ("final_proj.", "lm_head.", "encoder.regression_head.")
    assert sorted(theirs) == sorted(name for name in names if not name.startswith(heads))
    # The whole model's state serves too: the head is left out.
    whole = fairseq.to_ours(fairseq.from_ours(student, config, vision=vision), config, part="encoder")
    assert whole.keys() == encoder.keys()
    assert all(torch.equal(whole[name], encoder[name]) for name in encoder)


def test_projections_are_fused_in_the_order_query_key_value():
    ours = student_state(SPEECH)
    theirs = fairseq.from_ours(ours, SPEECH)
    fused = ours["encoder.blocks.1.attention.qkv.weight"]
    for i, name in enumerate("qkv"):
        part = theirs[f"encoder.layers.1.self_attn.{name}_proj.weight"]
        assert torch.equal(part, fused[i * C : (i + 1) * C])
        assert part.data_ptr() != fused.data_ptr()


def test_shapes_there():
    theirs = fairseq.from_ours(student_state(VISION), VISION)
    assert theirs["cls_token"].shape == theirs["mask_token"].shape == (1, 1, C)
    assert theirs["rel_pos_bias.relative_position_bias_table"].shape == (5 * 5 + 3, 2)
    assert theirs["blocks.0.attn.qkv.weight"].shape == (3 * C, C)
    assert theirs["patch_embed.proj.weight"].shape == (C, 3, 2, 2)
    assert fairseq.from_ours(student_state(SPEECH), SPEECH)["encoder.pos_conv.1.0.weight"].shape == (C, C // 4, 5)
    assert fairseq.from_ours(student_state(TEXT), TEXT)["encoder.regression_head.0.weight"].shape == (2 * C, C)


@pytest.mark.parametrize("case", ["speech", "text", "fairseq vision"])
def test_states_relative_to_the_averaged_module(case):
    """The teacher that fairseq stores: its names lack the module's prefix, and the shared tensors are not there."""
    config, vision, _ = CASES[case]
    prefix = "encoder.sentence_encoder." if case == "text" else "encoder."
    student = student_state(config)
    whole = fairseq.from_ours(student, config, vision=vision)
    teacher = {name[len(prefix) :]: tensor for name, tensor in whole.items() if name.startswith(prefix)}
    ours = fairseq.to_ours(teacher | {"version": torch.zeros(3)}, config, part="encoder")
    assert all(torch.equal(tensor, student[f"encoder.{name}"]) for name, tensor in ours.items())
    absent = {name for name in student if name.startswith("encoder.")} - {f"encoder.{name}" for name in ours}
    shared = {"text": (), "speech": ("encoder.embedding.",), "fairseq vision": ("encoder.embedding.",)}[case]
    assert all(name.startswith(shared) for name in absent)
    if case == "speech":
        # There are two of this name: the features' norm in the model, the context network's in the teacher.
        assert torch.equal(ours["norm.weight"], whole["encoder.layer_norm.weight"])
        assert len(absent) == 1 + 2 + 4 + 4


def test_pre_norm():
    transformer = replace(POST, norm_first=True)
    for config, name in ((SPEECH, "encoder.layer_norm"), (TEXT, "encoder.sentence_encoder.layer_norm")):
        changed = replace(config, transformer=transformer)
        theirs = fairseq.from_ours(student_state(changed), changed)
        assert {f"{name}.weight", f"{name}.bias"} <= theirs.keys()
    # Post-norm text has no such norm.
    assert "encoder.sentence_encoder.layer_norm.weight" not in fairseq.from_ours(student_state(TEXT), TEXT)


def test_older_names():
    ours = student_state(SPEECH)
    theirs = fairseq.from_ours(ours, SPEECH)
    old = {name.replace("final_proj.", "final_proj.0."): tensor for name, tensor in theirs.items()}
    assert torch.equal(fairseq.to_ours(old, SPEECH)["head.layers.0.weight"], ours["head.layers.0.weight"])
    ours = student_state(TEXT)
    theirs = fairseq.from_ours(ours, TEXT)
    old = {name.replace("layernorm_embedding", "emb_layer_norm"): tensor for name, tensor in theirs.items()}
    assert old.keys() != theirs.keys()
    assert torch.equal(fairseq.to_ours(old, TEXT)["encoder.embedding.norm.bias"], ours["encoder.embedding.norm.bias"])


def test_what_is_left_out_silently():
    nested = {"pos_conv.0.0.bias": torch.zeros(1)}
    theirs: dict = fairseq.from_ours(student_state(SPEECH), SPEECH) | {"_ema": nested}
    assert fairseq.to_ours(theirs, SPEECH).keys() == student_state(SPEECH).keys()
    theirs = fairseq.from_ours(student_state(TEXT), TEXT)
    theirs |= {"encoder.sentence_encoder.version": torch.tensor([3.0]), "encoder._ema": nested}
    assert fairseq.to_ours(theirs, TEXT).keys() == student_state(TEXT).keys()
    theirs = fairseq.from_ours(student_state(VISION), VISION)
    theirs["rel_pos_bias.relative_position_index"] = torch.zeros(10, 10, dtype=torch.int64)
    assert fairseq.to_ours(theirs, VISION).keys() == student_state(VISION).keys()


def test_a_released_text_model_without_regression_head_gives_its_encoder():
    theirs = fairseq.from_ours(student_state(TEXT), TEXT)
    released = {name: tensor for name, tensor in theirs.items() if "regression_head" not in name}
    released["encoder.lm_head.dense.weight"] = torch.zeros(C, C)
    encoder = Data2Vec(TEXT).teacher
    encoder.load_state_dict(fairseq.to_ours(released, TEXT, part="encoder"), strict=True)
    with pytest.raises(ValueError, match=r"missing: encoder\.regression_head\.0.*unexpected: encoder\.lm_head\.dense"):
        fairseq.to_ours(released, TEXT)


def test_errors_name_the_tensors():
    theirs = fairseq.from_ours(student_state(SPEECH), SPEECH)
    theirs["odd"] = theirs.pop("mask_emb")
    with pytest.raises(ValueError, match=r"the fairseq speech state does not fit.* missing: mask_emb; unexpected: odd"):
        fairseq.to_ours(theirs, SPEECH)
    theirs = fairseq.from_ours(student_state(VISION), VISION)
    del theirs["blocks.1.gamma_2"]
    with pytest.raises(ValueError, match=r"the BEiT vision state .* missing: blocks\.1\.gamma_2\."):
        fairseq.to_ours(theirs, VISION)
    ours = student_state(TEXT)
    del ours["head.layers.1.bias"]
    with pytest.raises(ValueError, match=r"our student state_dict .* missing: head\.layers\.1\.bias"):
        fairseq.from_ours(ours, TEXT)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(SPEECH, transformer=replace(POST, layer_scale=0.1)), "no layer scale.*layer_scale=0.1"),
        (replace(TEXT, transformer=replace(POST, key_bias=False)), "key_bias=False"),
        (replace(VISION, transformer=replace(PRE, norm_first=False)), "pre-norm.*norm_first=False"),
        (replace(SPEECH, head=HeadConfig(layers=2)), "linear head; head.layers is 2"),
        (replace(VISION, embedding=replace(VISION.embedding, positions="sincos")), "positions is 'sincos'"),
        (replace(TEXT, embedding=replace(TEXT.embedding, position_depth=1)), "position_depth must be 0"),
    ],
)
def test_what_the_released_code_lacks_is_refused(config, message):
    for translate in (fairseq.to_ours, fairseq.from_ours):
        with pytest.raises(ValueError, match=message):
            translate({}, config)
