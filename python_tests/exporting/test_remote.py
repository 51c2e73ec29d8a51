"""What transformers' classes have no room for runs by its own modelling file, where d2v_fast is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import d2v_fast
from d2v_fast.errors import RunError
from d2v_fast.interop import programs, remote

pytest.importorskip("transformers", reason="transformers is not installed (extra export)")

RUN_ALONE = """
import sys
import numpy, torch
sys.modules["d2v_fast"] = None  # it cannot be imported
from transformers import AutoModel
for place in sys.argv[1:]:
    given = dict(numpy.load(place + "/in.npz"))
    found = {}
    for dtype in ("float32", "float64"):
        model, info = AutoModel.from_pretrained(
            place + "/model", trust_remote_code=True, dtype=getattr(torch, dtype), output_loading_info=True
        )
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        values = {name: torch.from_numpy(value) for name, value in given.items()}
        inputs = values[model.main_input_name]
        if inputs.is_floating_point():
            values[model.main_input_name] = inputs.to(getattr(torch, dtype))
        with torch.no_grad():
            result = model.eval()(**values, output_hidden_states=True)
        assert len(result.hidden_states) == model.config.num_hidden_layers
        found[dtype] = result.last_hidden_state.numpy()
    numpy.savez(place + "/out.npz", **found)
    model.save_pretrained(place + "/again")
"""

CASES = {
    "sincos pictures": ("vision", {"model.embedding.positions": "sincos"}, "pixel_values"),
    "pictures with a key bias": ("vision", {"model.transformer.key_bias": True}, "pixel_values"),
    "pre-norm text": ("text", {"model.transformer.norm_first": True}, "input_ids"),
    "text with convolutions": ("text", {"model.embedding.position_depth": 2}, "input_ids"),
    "pre-norm sound": ("speech", {"model.transformer.norm_first": True}, "input_values"),
    "layer scale": ("speech", {"model.transformer.layer_scale": 0.1}, "input_values"),
    "series": ("series", {}, "input_values"),
    "spectrograms": ("spectrogram", {}, "pixel_values"),
}


@pytest.fixture(scope="module")
def alone(finished, tmp_path_factory):
    """A folder for each case: what was exported, a batch, and what came out of it in one process without d2v_fast."""
    places = {}
    for case, (modality, overrides, name) in CASES.items():
        place = places[case] = tmp_path_factory.mktemp("case")
        run = finished(modality, **overrides)
        d2v_fast.export(run, "hf", place / "model", network="teacher")
        batch = batch_of(run)
        given = {name: batch[0].numpy()}
        if len(batch) == 2:
            given["attention_mask"] = valid_entries(batch[1], batch[0].shape[1]).long().numpy()
        np.savez(place / "in.npz", **given)
    empty = tmp_path_factory.mktemp("alone")
    subprocess.run(
        [sys.executable, "-c", RUN_ALONE, *map(str, places.values())],
        check=True,
        cwd=empty,
        env={**os.environ, "PYTHONPATH": "", "HF_HOME": str(empty / "home"), "HF_HUB_OFFLINE": "1"},
    )
    return places


def batch_of(run):
    """Inputs, and lengths where there is padding."""
    config = d2v_fast.Run(run).config.model
    shape = programs.shape_of(config.embedding)
    return programs.example(d2v_fast.load(run), shape, 3, shape.sizes[1])


def valid_entries(lengths, width):
    return torch.arange(width) < lengths[:, None]


@pytest.mark.parametrize("case", CASES)
def test_it_computes_the_same_without_d2v_fast(case, finished, alone):
    modality, overrides, _ = CASES[case]
    run, place = finished(modality, **overrides), alone[case]
    assert "trust_remote_code=True" in (place / "model" / "README.md").read_text()
    encoder, batch = d2v_fast.load(run, "teacher"), batch_of(run)
    found = np.load(place / "out.npz")
    with torch.no_grad():
        ours32 = encoder(*batch).double()
        ours = encoder.double()(*(part.double() if part.is_floating_point() else part for part in batch))
    valid = torch.ones(ours.shape[:2], dtype=torch.bool)
    if len(batch) == 2:
        valid = valid_entries(encoder.token_lengths(batch[1]), ours.shape[1])
    theirs, theirs32 = (torch.from_numpy(found[dtype]).double() for dtype in ("float64", "float32"))
    largest = ours[valid].abs().max()
    assert largest > 0.1
    assert (theirs - ours)[valid].abs().max() <= 1e-10 * largest
    own_error = (theirs32 - ours)[valid].abs().max()
    assert (ours32 - ours)[valid].abs().max() <= max(2 * own_error, 4 * torch.finfo(torch.float32).eps * largest)
    again, first = (json.loads((place / name / "config.json").read_text()) for name in ("again", "model"))
    assert again["kind"] == first["kind"]


def test_it_is_told(finished, tmp_path, caplog):
    d2v_fast.export(finished("series"), "hf", tmp_path / "model")
    assert "the folder gets a modelling file of its own" in caplog.text


def test_a_modality_of_ones_own_is_refused(finished, tmp_path, monkeypatch):
    run = finished("series")
    monkeypatch.setattr(remote, "SeriesEmbedding", type("Other", (), {}))
    with pytest.raises(RunError, match=r"cannot be exported to hf: neither .* has a model of the modality series"):
        d2v_fast.export(run, "hf", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_modelling_files_import_nothing_of_the_library():
    files = (remote.MODELLING, remote.CONFIGURATION, remote.POSITIONS)
    allowed = {"__future__", "typing", "torch", "transformers", *(f".{file.stem}" for file in files)}
    for file in files:
        imports = [line for line in file.read_text().splitlines() if line.lstrip().startswith(("import ", "from "))]
        found = {line.split()[1] if line.startswith("from .") else line.split()[1].split(".")[0] for line in imports}
        assert found <= allowed
