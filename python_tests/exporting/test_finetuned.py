"""A fine-tuned network elsewhere: its outputs are ours, on padded batches too, and its labels come along."""

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
from d2v_fast.exporting.network import trained_of
from d2v_fast.interop import programs

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra export)")

NATIVE = {
    "words": ("ctc", "speech", {}, "Data2VecAudioForCTC"),
    "sounds": ("classify", "speech", {"head.norm": False}, "Data2VecAudioForSequenceClassification"),
    "sounds of all blocks": (
        "tag",
        "speech",
        {"head.norm": False, "head.layers": "weighted", "model.transformer.layer_drop": 0.0},
        "Data2VecAudioForSequenceClassification",
    ),
    "texts": (
        "classify",
        "text",
        {"head.norm": False, "head.hidden": True, "head.pooling": "first"},
        "Data2VecTextForSequenceClassification",
    ),
    "values of texts": (
        "regress",
        "text",
        {"head.norm": False, "head.hidden": True, "head.pooling": "first"},
        "Data2VecTextForSequenceClassification",
    ),
    "pictures": (
        "classify",
        "vision",
        {"head.layers": "block", "model.transformer.layer_drop": 0.0},
        "Data2VecVisionForImageClassification",
    ),
}
"""Heads that transformers' own classes have: task, modality, settings, class."""

WEIGHTED = {"head.layers": "weighted", "model.transformer.layer_drop": 0.0}
OWN = {
    "sounds, normed": ("classify", "speech", {}, None),
    "sounds of all blocks, normed": ("classify", "speech", WEIGHTED, None),
    "sounds by linear softmax": ("tag", "speech", {"head.pooling": "lin_softmax"}, None),
    "words, pre-norm": ("ctc", "speech", {}, {"model.transformer.norm_first": True}),
    "mean of a text": ("tag", "text", {}, None),
    "patches": ("classify", "vision", {}, None),
    "tags of frames": ("tag", "series", {"head.pooling": "lin_softmax"}, None),
    "series": ("regress", "series", {"head.hidden": True}, None),
    "first frame of a series": (
        "classify",
        "series",
        WEIGHTED | {"head.layers": "block", "head.pooling": "first"},
        None,
    ),
}
"""Others: task, modality, settings of the fine-tuning, and of the pretraining."""


def exported(tuned, case, out, to="hf"):
    task, modality, overrides, more = (NATIVE | OWN)[case]
    run = tuned(task, modality, **overrides, **({"pretrained": more} if isinstance(more, dict) else {}))
    return run, d2v_fast.export(run, to, out)


def batch_of(run):
    """Inputs, and lengths where there is padding."""
    config = d2v_fast.Run(run).config.model
    shape = programs.shape_of(config.embedding)
    return programs.example(d2v_fast.load(run, "student"), shape, 3, shape.sizes[1])


def for_them(run, batch):
    modality = d2v_fast.Run(run).config.model.modality
    name = {"vision": "pixel_values", "text": "input_ids"}.get(modality, "input_values")
    mask = {"attention_mask": (torch.arange(batch[0].shape[1]) < batch[1][:, None]).long()} if len(batch) == 2 else {}
    return {name: batch[0], **mask}


def in_dtype(values, dtype):
    return [value.to(dtype) if value.is_floating_point() else value for value in values]


def ours(run, dtype, batch):
    """What our network gives, of frames those that are no padding."""
    trained = trained_of(d2v_fast.Run(run), "student")
    with torch.no_grad():
        return real(trained, batch, trained.network.to(dtype)(*in_dtype(batch, dtype)).double())


def real(trained, batch, found):
    if trained.outputs.task != "ctc":
        return found
    return torch.cat([row[:n] for row, n in zip(found, trained.encoder.token_lengths(batch[1]).tolist(), strict=True)])


def compare(run, batch, theirs):
    """`theirs`: dtype to what the other library gives."""
    trained = trained_of(d2v_fast.Run(run), "student")
    exact, single = ours(run, torch.float64, batch), ours(run, torch.float32, batch)
    theirs64, theirs32 = (real(trained, batch, theirs[dtype].double()) for dtype in (torch.float64, torch.float32))
    largest = exact.abs().max()
    assert largest > 0.1
    assert (theirs64 - exact).abs().max() <= 1e-10 * largest
    rounding = 4 * torch.finfo(torch.float32).eps * largest
    assert (single - exact).abs().max() <= max(2 * (theirs32 - exact).abs().max(), rounding)


@pytest.mark.parametrize("case", NATIVE)
def test_a_class_of_transformers_has_our_outputs(case, tuned, tmp_path):
    run, out = exported(tuned, case, tmp_path / "model")
    batch, theirs = batch_of(run), {}
    for dtype in (torch.float32, torch.float64):
        cls = getattr(transformers, NATIVE[case][3])
        model, info = cls.from_pretrained(out, dtype=dtype, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        given = for_them(run, batch)
        with torch.no_grad():
            theirs[dtype] = model.eval()(**dict(zip(given, in_dtype(given.values(), dtype), strict=True))).logits
    compare(run, batch, theirs)
    task = d2v_fast.Run(run).config.task
    if task.name == "regress":
        assert model.config.id2label == {0: "value"}
        assert theirs[dtype].min() > 5  # in the unit of the labels, which are 10 to 15
    elif task.name != "ctc":
        assert model.config.id2label == dict(enumerate(task.classes))
        assert model.config.label2id == {name: i for i, name in enumerate(task.classes)}


RUN_ALONE = """
import json, sys
import numpy, torch
sys.modules["d2v_fast"] = None  # it cannot be imported
import transformers
for place in sys.argv[1:]:
    given = dict(numpy.load(place + "/in.npz"))
    settings = json.load(open(place + "/model/config.json"))
    (auto,) = [name for name in settings["auto_map"] if name not in ("AutoConfig", "AutoModel")]
    found = {}
    for dtype in ("float32", "float64"):
        model, info = getattr(transformers, auto).from_pretrained(
            place + "/model", trust_remote_code=True, dtype=getattr(torch, dtype), output_loading_info=True
        )
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        values = {name: torch.from_numpy(value) for name, value in given.items()}
        inputs = values[model.main_input_name]
        if inputs.is_floating_point():
            values[model.main_input_name] = inputs.to(getattr(torch, dtype))
        with torch.no_grad():
            found[dtype] = model.eval()(**values).logits.numpy()
    numpy.savez(place + "/out.npz", **found)
    bare, info = transformers.AutoModel.from_pretrained(
        place + "/model", trust_remote_code=True, output_loading_info=True
    )
    assert not info["missing_keys"], info
    assert all(name.startswith("head.") for name in info["unexpected_keys"]), info
"""


@pytest.fixture(scope="module")
def alone(tuned, tmp_path_factory):
    """A folder for each case: what was exported, a batch, and what came out of it in one process without d2v_fast."""
    places = {}
    for case in OWN:
        place = places[case] = tmp_path_factory.mktemp("case")
        run, _ = exported(tuned, case, place / "model")
        given = for_them(run, batch_of(run))
        np.savez(place / "in.npz", **{name: value.numpy() for name, value in given.items()})
    empty = tmp_path_factory.mktemp("alone")
    subprocess.run(
        [sys.executable, "-c", RUN_ALONE, *map(str, places.values())],
        check=True,
        cwd=empty,
        env={**os.environ, "PYTHONPATH": "", "HF_HOME": str(empty / "home"), "HF_HUB_OFFLINE": "1"},
    )
    return places


@pytest.mark.parametrize("case", OWN)
def test_other_heads_come_in_the_modelling_file_without_d2v_fast(case, tuned, alone):
    task, modality, overrides, pretrained = OWN[case]
    run = tuned(task, modality, **overrides, **({"pretrained": pretrained} if pretrained else {}))
    found = np.load(alone[case] / "out.npz")
    theirs = {dtype: torch.from_numpy(found[str(dtype).split(".")[1]]) for dtype in (torch.float32, torch.float64)}
    compare(run, batch_of(run), theirs)


@pytest.mark.parametrize(
    ("case", "to"),
    [
        ("patches", "torch"),
        ("patches", "onnx"),
        ("values of texts", "onnx"),
        *(
            pytest.param(case, to, marks=pytest.mark.long)  # a program with convolutions over time takes long to trace
            for case in ("words", "sounds of all blocks", "series")
            for to in ("torch", "onnx")
        ),
    ],
)
def test_programs_have_our_outputs(case, to, tuned, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")
    run, out = exported(tuned, case, tmp_path / "model", to)
    trained, batch = trained_of(d2v_fast.Run(run), "student"), batch_of(run)
    if to == "torch":
        with torch.no_grad():
            found = torch.export.load(out / "model.pt2").module()(*batch)
    else:
        session = onnxruntime.InferenceSession(out / "model.onnx")
        names = [given.name for given in session.get_inputs()]
        given = {n: value.numpy() for n, value in zip(names, batch, strict=True)}
        found = torch.from_numpy(session.run(["logits"], given)[0])
    exact = ours(run, torch.float64, batch)
    single, found = ours(run, torch.float32, batch), real(trained, batch, found.double())
    rounding = 4 * torch.finfo(torch.float32).eps * exact.abs().max()
    assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()
    assert (single - exact).abs().max() <= max(2 * (found - exact).abs().max(), rounding)
    assert json.loads((out / "d2v_fast.json").read_text())["labels"] == list(trained.outputs.labels)


@pytest.mark.parametrize(
    "overrides", [{"head.layers": "block", "model.transformer.layer_drop": 0.0}, {"head.norm": False}]
)
def test_timm_has_our_outputs(overrides, tuned, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed (extra export)")
    run = tuned("classify", "vision", **overrides)
    out = d2v_fast.export(run, "timm", tmp_path / "model")
    batch, theirs = batch_of(run), {}
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad():
            theirs[dtype] = model.to(dtype)(batch[0].to(dtype))
    compare(run, batch, theirs)
    assert model.pretrained_cfg["label_names"] == list(d2v_fast.Run(run).config.task.classes)


def test_a_head_that_timm_has_not_is_refused(tuned, tmp_path):
    run = tuned("classify", "vision")
    with pytest.raises(RunError, match=r"cannot be exported to timm: .*head.layers block, head.norm.* no other"):
        d2v_fast.export(run, "timm", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_processor_of_a_recogniser_hears_and_writes_as_the_run_does(tuned, tmp_path):
    run, out = exported(tuned, "words", tmp_path / "model")
    processor = transformers.AutoProcessor.from_pretrained(out)
    model = transformers.AutoModelForCTC.from_pretrained(out).eval()
    network = d2v_fast.finetuning.load(run, device="cpu")
    random = np.random.default_rng(0)
    said = []
    for length in (5120, 4000, 9000):
        clip = random.standard_normal(length).astype(np.float32)
        inputs = processor(clip, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            found = processor.batch_decode(model(**inputs).logits.argmax(2))
        said += found
        assert found == [network.predict([clip]).records()[0]["transcript"]]
    assert any(said)
    symbols = network.task.vocabulary
    assert json.loads((out / "vocab.json").read_text()) == {symbol: i for i, symbol in enumerate(symbols.symbols)}
    assert processor.tokenizer("ab b").input_ids == symbols.encode("ab b")[0]
    assert processor.decode(torch.tensor([0, 2, 2, 0, 2, 1, 3, 3])) == "aa b"
    assert len(processor.tokenizer) == len(symbols) == model.config.vocab_size
    assert model.config.pad_token_id == processor.tokenizer.pad_token_id == 0


def test_the_loss_of_transformers_is_ours(tuned, tmp_path):
    run, out = exported(tuned, "words", tmp_path / "model")
    model = transformers.AutoModelForCTC.from_pretrained(out).eval()
    inputs, labels = torch.randn(1, 5120), torch.tensor([[2, 3]])
    trained = trained_of(d2v_fast.Run(run), "student")
    with torch.no_grad():
        logits = trained.network(inputs)
        wanted = torch.nn.functional.ctc_loss(
            logits.log_softmax(2).transpose(0, 1), labels, [logits.shape[1]], [2], reduction="sum"
        )
        torch.testing.assert_close(model(inputs, labels=labels).loss, wanted)


def test_our_own_head_takes_its_input_by_place(tuned, tmp_path):
    run = tuned("classify", "series")
    out = d2v_fast.export(run, "hf", tmp_path / "model")
    model = transformers.AutoModelForAudioClassification.from_pretrained(out, trust_remote_code=True).eval()
    inputs, mask = batch_of(run)[0], torch.ones(batch_of(run)[0].shape[:2], dtype=torch.int64)
    with torch.no_grad():
        by_name, by_place = model(input_values=inputs, attention_mask=mask), model(inputs, attention_mask=mask)
    torch.testing.assert_close(by_place.logits, by_name.logits, rtol=0, atol=0)


def test_the_card_names_task_classes_and_metric(tuned, tmp_path):
    run, out = exported(tuned, "sounds", tmp_path / "model")
    text = (out / "README.md").read_text()
    best = d2v_fast.Run(run).best()
    value = best.state["selection"]["value"]
    for part in (
        "pipeline_tag: audio-classification",
        "| Task | classify |",
        "| Classes | 3: high, low, middle |",
        f"| Validation that chose the checkpoint | accuracy {value:.4g} |",
        "AutoModelForAudioClassification.from_pretrained",
    ):
        assert part in text, part
    known = json.loads((out / "d2v_fast.json").read_text())
    assert known["validation"] == {"metric": "accuracy", "value": value}
    assert known["step"] == best.step


def test_a_fine_tuning_has_no_teacher(tuned, tmp_path):
    run = tuned("classify", "vision")
    with pytest.raises(RunError, match="is a fine-tuning, which has no teacher"):
        d2v_fast.export(run, "hf", tmp_path / "model", network="teacher")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_failed_is_not_exported(tuned, tmp_path, monkeypatch):
    run = tuned("classify", "series")
    from d2v_fast.exporting import network

    class Failed(network.Finetuned):
        def __init__(self, *arguments, **others):
            super().__init__(*arguments, **others)
            self.task.network.head.output.weight.detach()[0, 0] = float("nan")

    monkeypatch.setattr(network, "Finetuned", Failed)
    with pytest.raises(RunError, match=r"head\.output\.weight has values that are not finite"):
        d2v_fast.export(run, "hf", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
