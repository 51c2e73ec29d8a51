from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from d2v_fast.batch import Batch
from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models.config import LossConfig, ModelConfig, TargetConfig, TeacherConfig, TransformerConfig

QUIET = {"dropout": 0.0, "attention_dropout": 0.0}
SMALL = {"dim": 16, "depth": 3, "heads": 2, "ffn_dim": 24}
MASK_ID = 3

CONFIGS = {
    "speech": ModelConfig(
        embedding=SpeechEmbedding(
            conv_layers=((8, 4, 2), (8, 3, 2), (8, 2, 2)), position_depth=2, position_kernel=5, position_groups=4
        ),
        transformer=TransformerConfig(**SMALL, **QUIET),
        target=TargetConfig(top_k=2),
    ),
    "vision": ModelConfig(
        embedding=VisionEmbedding(image_size=12, patch_size=3, channels=2),
        transformer=TransformerConfig(
            **SMALL, **QUIET, norm_first=True, norm_eps=1e-6, key_bias=False, layer_scale=0.1
        ),
        target=TargetConfig(top_k=2, feature="block", layer_norm=("layer",), final_norm=("layer",)),
        loss=LossConfig(beta=2.0),
        teacher=TeacherConfig(averages="all"),
    ),
    "text": ModelConfig(
        embedding=TextEmbedding(vocab_size=30, max_length=12),
        transformer=TransformerConfig(**SMALL, **QUIET),
        target=TargetConfig(top_k=2, layer_norm=("layer",)),
        loss=LossConfig(beta=4.0, scale=1.0),
    ),
}
TOKENS = {"speech": 12, "vision": 16, "text": 10}


@pytest.fixture
def small():
    """The small configurations, their token counts, and functions that make batches and disturb weights."""
    return SimpleNamespace(configs=CONFIGS, tokens=TOKENS, make_batch=make_batch, perturb=perturb)


@pytest.fixture(params=list(CONFIGS))
def modality(request):
    return request.param


@pytest.fixture
def config(modality):
    return CONFIGS[modality]


def make_batch(modality, samples=3, views=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    length = TOKENS[modality]
    if modality == "speech":
        inputs = torch.randn(samples, 104, generator=generator)
    elif modality == "vision":
        inputs = torch.randn(samples, 2, 12, 12, generator=generator)
    else:
        inputs = torch.randint(4, 30, (samples, length), generator=generator)
    mask = torch.rand(samples * views, length, generator=generator) < 0.4
    mask[:, 2] = True
    batch = Batch(
        inputs=inputs,
        mask=mask,
        rows=mask.flatten().nonzero().flatten(),
        views=views,
        sample_ids=torch.arange(samples),
    )
    if modality == "text":
        masked = torch.where(mask, MASK_ID, inputs.repeat_interleave(views, 0))
        batch = replace(batch, masked_inputs=masked)
    return batch


@pytest.fixture
def batch(modality):
    return make_batch(modality)


def perturb(model, std=0.05, seed=1):
    """No weight at its trivial first value, and a teacher that differs from its student."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += std * torch.randn(parameter.shape, generator=generator)
    return model
