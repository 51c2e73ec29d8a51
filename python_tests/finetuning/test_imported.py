"""A fine-tuned model of another library predicts here as it did, and a fine-tuning begins with its outputs."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tuned_runs import _data, samples_of

import d2v_fast
from d2v_fast.errors import RunError
from d2v_fast.finetuning import load
from d2v_fast.finetuning.finetune import Finetuning, settle
from d2v_fast.interop import fairseq

pytest.importorskip("transformers", reason="transformers is not installed (extra export)")

RELEASED_TEXT = {"head.norm": False, "head.hidden": True, "head.pooling": "first"}
BLOCK = {"head.layers": "block", "model.transformer.layer_drop": 0.0}
WEIGHTED = {"head.layers": "weighted", "model.transformer.layer_drop": 0.0}
CASES = {
    "words": ("ctc", "speech", {}, "hf"),
    "sounds": ("classify", "speech", {"head.norm": False}, "hf"),
    "tags of all blocks": ("tag", "speech", WEIGHTED | {"head.norm": False}, "hf"),
    "values of texts": ("regress", "text", RELEASED_TEXT, "hf"),
    "pictures": ("classify", "vision", BLOCK, "hf"),
    "pictures of timm": ("classify", "vision", BLOCK, "timm"),
    "own file: sounds": ("classify", "speech", {}, "hf"),
    "own file: texts": ("tag", "text", {}, "hf"),
    "own file: pictures": ("classify", "vision", {}, "hf"),
    "own file: series": ("regress", "series", WEIGHTED, "hf"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_predicts_as_the_run_does(case, tuned, tmp_path):
    task, modality, overrides, to = CASES[case]
    run = tuned(task, modality, **overrides)
    out = d2v_fast.export(run, to, tmp_path / "model")
    samples = samples_of(modality)
    wanted, found = (load(place, device="cpu").predict(samples) for place in (run, out))
    assert found.problems == {}
    if task == "ctc":
        assert [str(one) for one in found.values] == [str(one) for one in wanted.values]
        return
    assert found.classes == wanted.classes
    np.testing.assert_allclose(found.values, wanted.values, rtol=0, atol=1e-5 * np.abs(wanted.values).max())


def test_without_its_facts_a_folder_of_our_modelling_file_is_read_too(tuned, tmp_path):
    run = tuned("classify", "speech")
    out = d2v_fast.export(run, "hf", tmp_path / "model")
    (out / "d2v_fast.json").unlink()
    samples = samples_of("speech")
    wanted, found = (load(place, device="cpu").predict(samples) for place in (run, out))
    np.testing.assert_allclose(found.values, wanted.values, atol=1e-6)


def begin(source, task, modality, out, **overrides):
    quick = {"steps": 2, "loader.batch_size": 4, "loader.holdout": 0.25} | overrides
    return Finetuning(settle(source, task, quick, out), _data(task, modality), out, device="cpu")


@pytest.mark.parametrize("case", ["words", "sounds", "pictures", "own file: series"])
def test_a_fine_tuning_begins_with_the_outputs_that_are_there(case, tuned, tmp_path, caplog):
    task, modality, overrides, to = CASES[case]
    run = tuned(task, modality, **overrides)
    out = d2v_fast.export(run, to, tmp_path / "model")
    begun = begin(out, task, modality, tmp_path / "new")
    assert "the head begins with the outputs of" in caplog.text
    found = begun.task.network.state_dict()
    wanted = load(run, device="cpu").task.network.state_dict()
    unused = {"encoder.norm.weight", "encoder.norm.bias"} if modality == "vision" else set()
    for name in wanted.keys() - unused:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-6, msg=name)
    assert not (tmp_path / "new").exists()


def test_classes_in_another_order_are_put_in_order(tuned, tmp_path):
    run = tuned("classify", "speech", **{"head.norm": False})
    out = d2v_fast.export(run, "hf", tmp_path / "model")
    settings = json.loads((out / "config.json").read_text())
    names = settings["id2label"]
    settings["id2label"] = {"0": names["2"], "1": names["0"], "2": names["1"]}
    (out / "config.json").write_text(json.dumps(settings))
    begun = begin(out, "classify", "speech", tmp_path / "new")
    own = load(run, device="cpu").task.network.head.output.weight
    places = [settings["id2label"][str(i)] for i in range(3)]
    expected = own[[places.index(name) for name in begun.config.task.classes]]
    assert torch.equal(begun.task.network.head.output.weight, expected)


@pytest.mark.parametrize(
    ("task", "reason"),
    [("tag", r"are for other labels \(classify\)"), ("regress", r"are for other labels \(classify\)")],
)
def test_outputs_for_other_labels_are_left(task, reason, tuned, tmp_path, caplog):
    out = d2v_fast.export(tuned("classify", "speech", **{"head.norm": False}), "hf", tmp_path / "model")
    begin(out, task, "speech", tmp_path / "new")
    assert re.search(reason, caplog.text)
    assert "begins with the outputs" not in caplog.text


def test_a_plain_encoder_does_not_predict(tuned, pretrained, tmp_path):
    out = d2v_fast.export(pretrained("speech"), "hf", tmp_path / "model")
    with pytest.raises(RunError, match="is not fine-tuned: it holds an encoder"):
        load(out)


def test_a_fine_tuned_picture_model_has_no_features_of_its_own(tuned, tmp_path):
    out = d2v_fast.export(tuned("classify", "vision", **BLOCK), "hf", tmp_path / "model")
    with pytest.raises(RunError, match="its encoder has no norm at its end"):
        d2v_fast.load(out)


def test_a_recogniser_of_fairseq_speaks_with_its_dictionary(tuned, tmp_path):
    run = tuned("ctc", "speech")
    wanted = load(run, device="cpu")
    model = d2v_fast.Run(run).config.model
    encoder = fairseq.from_ours(wanted.task.network.encoder.state_dict(), model, part="encoder")
    state = {f"w2v_encoder.w2v_model.{name}": value for name, value in encoder.items()}
    head = wanted.task.network.head
    symbols = wanted.config.task.classes  # blank, delimiter, a, b: four more stand in a dictionary of fairseq
    order = [0, 0, 0, 0, *range(1, len(symbols))]
    state["w2v_encoder.proj.weight"] = head.output.weight.detach()[order]
    state["w2v_encoder.proj.bias"] = head.output.bias.detach()[order] - torch.tensor([0.0, 99, 99, 99, 0, 0, 0])
    layers = [f"({', '.join(map(str, layer))})" for layer in model.embedding.conv_layers]
    about = {
        "model": {
            "w2v_args": {
                "model": {
                    "encoder_attention_heads": 2,
                    "conv_feature_layers": f"[{layers[0]}] + [{', '.join(layers[1:])}]",
                }
            }
        }
    }
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": state, "cfg": about}, path)
    with pytest.raises(RunError, match=r"has 7 outputs, and does not say what they are called; vocab.json or dict.ltr"):
        load(path)
    (tmp_path / "dict.ltr.txt").write_text("| 10\na 5\nb 2\n")
    samples = samples_of("speech")
    said = [[str(one) for one in load(place, device="cpu").predict(samples).values] for place in (run, path)]
    assert said[0] == said[1]
    begun = begin(path, "ctc", "speech", tmp_path / "new")
    assert torch.equal(begun.task.network.head.output.weight, state["w2v_encoder.proj.weight"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop("classifier.bias"), "outputs of the model in .* cannot be used: 'classifier.bias'"),
        (lambda state: state.update({"classifier.weight": torch.zeros(2, 32)}), "cannot be used: The size of tensor"),
        (lambda state: state.update({"projector.weight": torch.zeros(31, 32)}), "cannot be used"),
        (lambda state: state.update({"classifier.bias": torch.full((3,), torch.nan)}), "not finite"),
    ],
)
def test_wrong_outputs_are_named(change, reason, tuned, tmp_path):
    out = d2v_fast.export(tuned("classify", "speech", **{"head.norm": False}), "hf", tmp_path / "model")
    state = load_file(out / "model.safetensors")
    change(state)
    save_file(state, out / "model.safetensors")
    with pytest.raises(RunError, match=reason):
        load(out)


def test_a_weighted_sum_with_the_embedded_input_is_refused(tuned, tmp_path):
    out = d2v_fast.export(tuned("tag", "speech", **WEIGHTED, **{"head.norm": False}), "hf", tmp_path / "model")
    state = load_file(out / "model.safetensors")
    state["layer_weights"] = torch.zeros(3)
    save_file(state, out / "model.safetensors")
    with pytest.raises(RunError, match=r"has the embedded input in it, with a share of 0\.33"):
        load(out)
