"""What the speech encoder says of clips that are too short."""

import pytest
import torch

from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.models import build_encoder
from d2v_fast.models.config import ModelConfig, TargetConfig, TransformerConfig


def test_a_clip_that_is_too_short_is_named_by_its_own_length():
    embedding = SpeechEmbedding()
    network, target = TransformerConfig(dim=16, depth=1, heads=2), TargetConfig(top_k=1)
    encoder = build_encoder(ModelConfig(embedding=embedding, transformer=network, target=target))
    clip = torch.zeros(100)
    with pytest.raises(ValueError, match="clips of 100 samples are too short: one frame needs 400"):
        encoder(clip[: embedding.seen(len(clip))][None])


@pytest.mark.parametrize(("samples", "seen"), [(399, 399), (400, 400), (719, 400), (720, 720), (16000, 15760)])
def test_the_samples_that_the_frames_look_at(samples, seen):
    embedding = SpeechEmbedding()
    assert embedding.seen(samples) == seen
    assert embedding.frames(seen) == embedding.frames(samples) or samples < 400
