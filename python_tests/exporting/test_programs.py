"""Programs of torch.export and ONNX compute what the encoder computes, for any batch and length, without d2v_fast."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import d2v_fast
from d2v_fast.errors import RunError
from d2v_fast.interop import programs
from d2v_fast.models import build_encoder

MODALITIES = ("speech", "vision", "text", "series", "spectrogram")

RUN_ALONE = """
import sys
import numpy, torch
sys.modules["d2v_fast"] = None  # it cannot be imported
for place in sys.argv[1:]:
    batch = [torch.from_numpy(value) for value in numpy.load(place + "/in.npz").values()]
    with torch.no_grad():
        numpy.save(place + "/out.npy", torch.export.load(place + "/model/model.pt2").module()(*batch).numpy())
"""


@pytest.fixture(scope="module")
def alone(finished, tmp_path_factory):
    """A folder for each modality: the program, a batch, and what came of it in one process without d2v_fast."""
    places = {}
    for modality in MODALITIES:
        place = places[modality] = tmp_path_factory.mktemp(modality)
        run = finished(modality)
        d2v_fast.export(run, "torch", place / "model", network="teacher")
        np.savez(place / "in.npz", *(value.numpy() for value in last_batch(run)))
    empty = tmp_path_factory.mktemp("alone")
    arguments = [sys.executable, "-c", RUN_ALONE, *map(str, places.values())]
    subprocess.run(arguments, check=True, cwd=empty, env={**os.environ, "PYTHONPATH": ""})
    return places


def last_batch(run):
    return list(batches(d2v_fast.load(run), d2v_fast.Run(run).config.model))[-1]


def valid(encoder, batch, features):
    """The features that mean something, one after the other."""
    if len(batch) == 1:
        return features.flatten(0, 1)
    return torch.cat([row[:n] for row, n in zip(features, encoder.token_lengths(batch[1]).tolist(), strict=True)])


def batches(encoder, config):
    """Other sizes than a program is made with; one row, and rows of one and of different lengths."""
    shape = programs.shape_of(config.embedding)
    for rows, length in ((1, shape.sizes[0]), (2, shape.sizes[1]), (5, (sum(shape.sizes) + 1) // 2)):
        batch = programs.example(encoder, shape, rows, length)
        yield batch
        if len(batch) == 2:
            yield batch[0], torch.full_like(batch[1], length)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_program_of_torch_is_exact_in_float64(modality, make_config):
    config = make_config(modality).model
    torch.manual_seed(1)
    encoder = build_encoder(config).double().eval()
    for parameter in encoder.parameters():
        parameter.detach().add_(0.1 * torch.randn_like(parameter))
    program = programs.traced(encoder, encoder, programs.shape_of(config.embedding)).module()
    for batch in batches(encoder, config):
        with torch.no_grad():
            wanted, found = (valid(encoder, batch, call(*batch)) for call in (encoder, program))
        assert wanted.abs().max() > 0.1
        assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max()


@pytest.mark.parametrize("modality", MODALITIES)
def test_torch_runs_it_without_d2v_fast(modality, finished, alone):
    place, run = alone[modality], finished(modality)
    encoder, batch = d2v_fast.load(run, "teacher"), last_batch(run)
    check_float32(encoder, batch, valid(encoder, batch, torch.from_numpy(np.load(place / "out.npy"))))
    assert (place / "model" / "tokenizer.json").exists() == (modality == "text")


def check_float32(encoder, batch, found):
    """Float32 features of another library: twice as far from float64 as ours, or twice the rounding of the largest."""
    with torch.no_grad():
        ours = valid(encoder, batch, encoder(*batch))
        exact = valid(encoder, batch, encoder.double()(*(b.double() if b.is_floating_point() else b for b in batch)))
    encoder.float()
    allowed = 2 * (found - exact).abs().max()
    assert (ours - exact).abs().max() <= max(allowed, 4 * torch.finfo(torch.float32).eps * exact.abs().max())
    assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.parametrize("modality", MODALITIES)
def test_onnxruntime_runs_it(modality, finished, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")
    run = finished(modality)
    out = d2v_fast.export(run, "onnx", tmp_path / "model")
    encoder = d2v_fast.load(run)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    names = [given.name for given in session.get_inputs()]
    assert names == ["inputs", "lengths"][: len(names)]
    assert session.get_inputs()[0].shape[0] == "batch"
    for batch in batches(encoder, d2v_fast.Run(run).config.model):
        (found,) = session.run(["features"], {n: value.numpy() for n, value in zip(names, batch, strict=True)})
        check_float32(encoder, batch, valid(encoder, batch, torch.from_numpy(found)))
    assert capsys.readouterr().out == ""  # the exporter's own talk is left out


def test_a_program_that_computes_something_else_is_not_written(finished, tmp_path, monkeypatch):
    made = programs.traced

    def wrong(network, encoder, shape):
        other = copy.deepcopy(network)
        other.norm.bias.detach().add_(0.1)
        return made(other, encoder, shape)

    monkeypatch.setattr(programs, "traced", wrong)
    with pytest.raises(RunError, match="cannot be exported to torch: the program's features are off by"):
        d2v_fast.export(finished("vision"), "torch", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_onnx_the_message_names_the_extra(missing, finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(RunError, match=r"is not installed: pip install 'd2v_fast\[export\]'"):
        d2v_fast.export(finished("vision"), "onnx", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
