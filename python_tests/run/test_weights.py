from __future__ import annotations

import numpy as np
import pytest
import torch

import d2v_fast
from d2v_fast import registry
from d2v_fast.errors import RunError, SampleError
from d2v_fast.evaluation import extract
from d2v_fast.modalities import open_data
from d2v_fast.modalities.speech.encoder import SpeechEncoder
from d2v_fast.modalities.text.encoder import TextEncoder
from d2v_fast.modalities.vision.encoder import VisionEncoder
from d2v_fast.models import build_encoder
from d2v_fast.run import checkpoint
from d2v_fast.training.trainer import Data2VecTrainer

INPUTS = {
    "speech": lambda: torch.randn(2, 8000),
    "vision": lambda: torch.randn(2, 3, 16, 16),
    "text": lambda: torch.randint(3, 250, (2, 16)),
}


@pytest.mark.parametrize(
    ("modality", "cls"), [("speech", SpeechEncoder), ("vision", VisionEncoder), ("text", TextEncoder)]
)
def test_student_and_teacher_of_a_run(make_config, make_data, tmp_path, modality, cls):
    trainer = Data2VecTrainer(make_config(modality, steps=4), data=make_data(modality), out=tmp_path / "run")
    trainer.fit()
    inputs = INPUTS[modality]()
    trainer.model.eval()
    features = {}
    for network, own in (("student", trainer.model.student.encoder), ("teacher", trainer.model.teacher)):
        encoder = d2v_fast.load(tmp_path / "run", network=network)
        assert type(encoder) is cls
        assert not encoder.training
        with torch.no_grad():
            features[network] = encoder(inputs)
            assert torch.equal(features[network], own(inputs))
        at_three = d2v_fast.load(tmp_path / "run" / "checkpoints" / "step_00000003", network=network)
        assert not torch.equal(at_three(inputs), features[network])
    assert not torch.equal(features["student"], features["teacher"])


def test_a_run_starts_from_another_ones_student(make_config, make_data, train, tmp_path, read_weights):
    train(make_config("vision", steps=3), tmp_path / "one")
    weights = read_weights(tmp_path / "one", 3)
    config = make_config("vision", steps=2, ema={"start": 1.0, "end": 1.0}, seed=9)
    trainer = Data2VecTrainer(config, data=make_data("vision"), out=tmp_path / "two", init_from=tmp_path / "one")
    for name, value in trainer.model.student.state_dict().items():
        assert torch.equal(value, weights[f"student/{name}"])
    trainer.fit()
    after = read_weights(tmp_path / "two", 2)
    # With a decay of 1 the teacher stays what it was made from: the other run's student.
    for name, value in trainer.model.teacher.state_dict().items():
        assert torch.equal(value, weights[f"student/encoder.{name}"])
        assert torch.equal(after[f"teacher/{name}"], value)


def test_weights_of_another_model_are_refused(make_config, make_data, train, tmp_path):
    train(make_config("vision", steps=1), tmp_path / "one")
    wider = make_config("vision", model={"transformer": {"ffn_dim": 48}})
    with pytest.raises(
        RunError, match=r"blocks\.0\.ffn\.up\.weight has shape \[64, 32\], this model \[48, 32\].*more\)"
    ):
        Data2VecTrainer(wider, data=make_data("vision"), out=tmp_path / "two", init_from=tmp_path / "one")
    deeper = make_config("vision", model={"transformer": {"depth": 3}})
    with pytest.raises(RunError, match=r"blocks\.2\.\S+ is missing"):
        Data2VecTrainer(deeper, data=make_data("vision"), out=tmp_path / "two", init_from=tmp_path / "one")
    assert not (tmp_path / "two").exists()


def test_errors_of_load(make_config, train, tmp_path, capsys):
    with pytest.raises(RunError, match=r"is not a run: it has no config\.json"):
        d2v_fast.load(tmp_path)
    run = train(make_config("vision", steps=4), tmp_path / "run")
    with pytest.raises(ValueError, match="network must be 'student', 'teacher' or 'initial', got 'both'"):
        d2v_fast.load(run, network="both")
    (run / "checkpoints/step_00000004/student.safetensors").write_bytes(b"short")
    assert isinstance(d2v_fast.load(run), VisionEncoder)
    assert "trying step_00000003, the one before it" in capsys.readouterr().err


@pytest.mark.parametrize("modality", ["speech", "vision", "text"])
def test_a_loaded_encoder_prepares_samples_as_the_run_did(make_config, make_data, train, tmp_path, modality):
    config = make_config(modality, steps=1)
    run = train(config, tmp_path / "run")
    encoder = d2v_fast.load(run)
    source = open_data(make_data(modality), config, None)
    one = encoder.prepare(source.read(0), name="a")
    expected = registry.get(modality).prepare(source.read(0), config.inputs, config.model.embedding)
    torch.testing.assert_close(one, expected, rtol=0, atol=0)
    np.testing.assert_allclose(
        extract(encoder, [source.read(0)])[0], encoder(one[None]).mean(1)[0].detach().numpy(), atol=1e-6
    )
    with pytest.raises(SampleError, match="b: "):
        encoder.prepare(np.zeros((2, 2, 2, 2), np.float64), name="b")


def test_an_encoder_of_no_run_says_what_it_lacks(make_config):
    encoder = build_encoder(make_config("vision").model)
    with pytest.raises(ValueError, match=r"take one from d2v_fast\.load"):
        encoder.prepare(np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="extract needs `inputs`"):
        extract(encoder, [np.zeros((8, 8), np.uint8)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("encoder.blocks.0.ffn.up.bias"), r"blocks\.0\.ffn\.up\.bias is missing"),
        (lambda t: t.update({"encoder.extra": torch.ones(1)}), "extra is not part of this model"),
        (lambda t: t.update({"encoder.blocks.0.ffn.up.bias": torch.ones(3)}), r"has shape \[3\], this model \[64\]"),
        (lambda t: t["encoder.blocks.0.ffn.up.bias"].fill_(torch.nan), r"up\.bias has values that are not finite"),
        (lambda t: t["encoder.blocks.0.ffn.up.bias"][0].fill_(-torch.inf), r"up\.bias has values that are not finite"),
    ],
)
def test_weights_that_cannot_be_used_are_named(make_config, make_data, train, tmp_path, change, words):
    run = train(make_config("vision", steps=1), tmp_path / "run")
    newest = d2v_fast.Run(run).newest()
    tensors = {name: newest.tensors(name) for name in ("student", "teacher", "optimizer")}
    change(tensors["student"])
    checkpoint.save(run / "checkpoints", 2, tensors, newest.state, keep=1)
    with pytest.raises(
        RunError, match="the student's weights in .*step_00000002 cannot be used for this model: .*" + words
    ):
        d2v_fast.load(run)
    d2v_fast.load(run, "teacher")
    with pytest.raises(RunError, match=words):
        Data2VecTrainer(make_config("vision"), data=make_data("vision"), out=tmp_path / "two", init_from=run)
    if "finite" not in words:
        with pytest.raises(RunError, match=words):
            train(make_config("vision", steps=4), run)
