"""The written contract of s3prl's upstreams: names, hidden states, downsample rates, lengths."""

from __future__ import annotations

import pytest
import torch

import d2v_fast
from d2v_fast.errors import ConfigError, SampleError
from d2v_fast.evaluation.s3prl import UpstreamExpert


@pytest.fixture(scope="module")
def waves():
    torch.manual_seed(0)
    return [torch.randn(n) for n in (9000, 5000, 9000, 7777)]


def test_the_contract(make_config, train, tmp_path, waves):
    run = train(make_config("speech", steps=1, model={"embedding": {"position_depth": 3}}), tmp_path / "run")
    upstream = UpstreamExpert(str(run), None, refresh=False)
    upstream.eval()
    found = upstream(waves)
    assert set(found) == {"hidden_states", "last_hidden_state"}
    rate = upstream.get_downsample_rates("hidden_states")
    assert rate == 320
    hidden = found["hidden_states"]
    assert len(hidden) == 3
    assert found["last_hidden_state"] is hidden[-1]
    for layer in hidden:
        assert layer.dtype == torch.float32
        assert layer.shape[0] == 4
        assert layer.shape[2] == 32
        assert abs(layer.shape[1] - round(9000 / rate)) <= 5  # s3prl's tolerance
    encoder = d2v_fast.load(run)
    for i, wave in enumerate(waves):
        own = encoder.features(wave, pooled=False)
        torch.testing.assert_close(hidden[-1][i, : len(own)], own)
        assert not hidden[-1][i, len(own) :].any()
        alone = upstream([wave])["hidden_states"]
        for layer, one in zip(hidden, alone, strict=True):
            torch.testing.assert_close(layer[i, : len(own)], one[0])


def test_gradients_reach_the_encoder(make_config, train, tmp_path, waves):
    upstream = UpstreamExpert(train(make_config("speech", steps=1), tmp_path / "run"), network="teacher")
    sum(layer.square().mean() for layer in upstream(waves)["hidden_states"]).backward()
    without = [name for name, p in upstream.encoder.named_parameters() if p.grad is None and "mask_token" not in name]
    assert without == []


def test_what_is_no_upstream(make_config, train, tmp_path, waves):
    for modality in ("vision", "series"):
        with pytest.raises(ConfigError, match="is no model of waveforms at 16000 Hz"):
            UpstreamExpert(train(make_config(modality, steps=1), tmp_path / modality))
    upstream = UpstreamExpert(train(make_config("speech", steps=1), tmp_path / "speech"))
    with pytest.raises(SampleError, match="has 20 samples"):
        upstream([waves[0], waves[0][:20]])
