"""An export to timm computes what our encoder computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import d2v_fast
from d2v_fast.errors import RunError

timm = pytest.importorskip("timm", reason="timm is not installed (extra export)")


def pictures():
    random = np.random.default_rng(5)
    return [random.integers(0, 256, (30, 40, 3), dtype=np.uint8) for _ in range(3)]


@pytest.mark.parametrize("layer_scale", [0.1, None])
@pytest.mark.parametrize("network", ["student", "teacher"])
def test_timm_computes_the_same(network, layer_scale, finished, tmp_path):
    run = finished("vision", **{"model.transformer.layer_scale": layer_scale})
    out = d2v_fast.export(run, "timm", tmp_path / "model", network=network)
    encoder = d2v_fast.load(run, network)
    batch = torch.stack([encoder.prepare(picture) for picture in pictures()])
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    found = {}
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad():
            theirs = model.to(dtype).forward_features(batch.to(dtype))[:, 1:]
            found[dtype] = [encoder.to(dtype)(batch.to(dtype)).double(), theirs.double()]
    ours, exact = found[torch.float64]
    assert exact.abs().max() > 0.1
    assert (ours - exact).abs().max() <= 1e-10 * exact.abs().max()
    ours32, theirs32 = found[torch.float32]
    assert (ours32 - exact).abs().max() <= 2 * (theirs32 - exact).abs().max()


def test_its_names_are_all_of_timms(finished, tmp_path):
    from safetensors.torch import load_file

    out = d2v_fast.export(finished("vision"), "timm", tmp_path / "model")
    model = timm.create_model(f"local-dir:{out}", pretrained=False)
    model.load_state_dict(load_file(out / "model.safetensors"), strict=True)
    with_head = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=7)
    assert torch.equal(with_head.cls_token, model.cls_token)
    assert with_head.head.weight.shape == (7, 32)


def test_it_prepares_pictures_as_the_run_did(finished, tmp_path):
    run = finished("vision")
    out = d2v_fast.export(run, "timm", tmp_path / "model")
    model = timm.create_model(f"local-dir:{out}", pretrained=True)
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    encoder = d2v_fast.load(run)
    one_grey_level = 1 / 255 / 0.224
    for picture in pictures():
        found = prepare(Image.fromarray(picture))
        assert (found - encoder.prepare(picture)).abs().max() <= 1.1 * one_grey_level


@pytest.mark.parametrize(
    ("modality", "overrides", "reason"),
    [
        ("speech", {}, "timm has models of images; this one is of the modality speech"),
        ("vision", {"model.embedding.positions": "sincos"}, "positions is 'sincos'"),
        ("vision", {"model.transformer.norm_eps": 1e-5}, "eps 1e-06 and no other"),
        ("vision", {"model.transformer.key_bias": True}, "without a key bias"),
    ],
)
def test_what_timm_has_no_room_for_is_refused(modality, overrides, reason, finished, tmp_path):
    with pytest.raises(RunError, match=f"cannot be exported to timm: .*{reason}"):
        d2v_fast.export(finished(modality, **overrides), "timm", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
