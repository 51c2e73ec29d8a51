"""A recogniser learns letters from tones, continues with the same bits, and says what it leaves out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from finetunings import labelled
from safetensors.torch import load_file

from d2v_fast.batch import Batch
from d2v_fast.data import ArraySource
from d2v_fast.errors import ConfigError, DataError
from d2v_fast.evaluation import metrics
from d2v_fast.finetuning.finetune import Finetuning
from d2v_fast.finetuning.predict import Finetuned
from d2v_fast.finetuning.recipes import RECIPES
from d2v_fast.finetuning.sets import LabelledData
from d2v_fast.finetuning.settings import settle
from d2v_fast.run.metrics import RATES
from d2v_fast.run.reader import Run

TONES = {"a": 0.05, "b": 0.2, "c": 0.8}
"""Radians of a sample."""

QUICK = {
    "steps": 8,
    "loader.batch_size": 4,
    "loader.accumulation": 2,
    "loader.holdout": 0.25,
    "checkpoint.every": 3,
    "checkpoint.keep": 2,
    "log.every": 2,
    "log.validate_every": 4,
    "optim.lr": 3e-3,
    "ctc.mask_probability": 0.1,
    "ctc.mask_length": 2,
    "ctc.channel_length": 4,
    "encoder.frozen_embedding": False,
}


def spoken(text, random):
    """0.12 s of a tone for each letter, of silence for each space, then a little silence."""
    parts = [np.sin(np.arange(1920) * TONES.get(letter, 0.0)) for letter in text]
    sound = np.concatenate([*parts, np.zeros(960)])
    return (0.5 * sound + 0.02 * random.standard_normal(len(sound))).astype(np.float32)


def recordings(count=40):
    random = np.random.default_rng(5)
    texts = []
    for i in range(count):  # single letters get a recogniser past the stage of blanks
        words = 1 if i % 3 else 2
        texts.append(" ".join("".join(random.permutation(list("abc"))[: 1 + i % 2]) for _ in range(words)))
    return ArraySource("speech", [spoken(text, random) for text in texts]), texts


@pytest.fixture
def recogniser(pretrained):
    def make(out, texts=None, samples=None, modality="speech", **overrides):
        source, spoken_texts = recordings()
        given = LabelledData(data=samples or source, labels=texts or spoken_texts)
        config = settle(pretrained(modality), "ctc", QUICK | overrides, out)
        return Finetuning(config, given, out, device="cpu")

    return make


def lines(run):
    return [{k: v for k, v in line.items() if k not in RATES} for line in Run(run).metrics()]


def weights(run, step):
    folder = run / "checkpoints" / f"step_{step:08d}"
    return {f"{path.stem}/{k}": v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}


@pytest.fixture(scope="module")
def learned(tmp_path_factory, pretrained):
    """The folder of a recogniser that has learned."""
    out = tmp_path_factory.mktemp("recogniser") / "run"
    still = dict.fromkeys(("layer_drop", "dropout", "attention_dropout", "activation_dropout"), 0.0)
    given = {f"model.transformer.{name}": value for name, value in still.items()} | {"ctc.channel_probability": 0.0}
    rates = {"steps": 400, "log.validate_every": 200, "log.every": 50, "head.norm": True, "optim.lr": 1e-3}
    source, texts = recordings(48)
    overrides = QUICK | given | rates | {"ctc.mask_probability": 0.0}
    return Finetuning(
        settle(pretrained("speech"), "ctc", overrides, out), LabelledData(data=source, labels=texts), out, device="cpu"
    ).fit()


def test_it_learns_to_write(learned):
    run = learned
    first, last = lines(run)[0], lines(run)[-1]
    assert last["loss"] < 0.2 * first["loss"]
    assert last["validation_wer"] < 0.7
    assert last["validation_cer"] < 0.3
    assert Run(run).config.task.classes == ("<pad>", "|", "a", "b", "c")
    assert Run(run).config.encoder.frozen_embedding is False


def test_a_long_recording_is_joined_and_decoded_once(learned):
    """Windows of a second: the same letters at the same times as without, whatever the batch, with either search."""
    random = np.random.default_rng(2)
    said = ["a", "bc", "cb", "a", "b", "ca", "bc", "a"]
    # silence between them, so that no attention is needed to tell them apart
    sound = np.concatenate([np.r_[spoken(text, random), np.zeros(4000, np.float32)] for text in said])
    network = Finetuned(learned, device="cpu")
    (whole,) = network.predict([sound], window=0).records()
    made = [network.predict([sound], window=1.5, overlap=0.7, batch_size=size).records()[0] for size in (1, 3, 32)]
    assert made[0]["transcript"] == made[1]["transcript"] == made[2]["transcript"]
    assert made[0]["words"] == made[1]["words"] == made[2]["words"]
    assert "windows" not in made[0]
    letters = made[0]["transcript"].replace(" ", "")
    errors = metrics.edits("".join(said), letters)
    assert errors <= metrics.edits("".join(said), whole["transcript"].replace(" ", "")) + 1
    assert errors <= 5  # of 12
    assert made[0]["words"][-1]["end"] > 0.7 * len(sound) / 16000
    alone = network.predict([spoken("bc", random)], window=1.5).records()[0]
    assert alone["transcript"] == "bc"


def test_it_predicts_words_with_times_and_is_evaluated(learned, tmp_path):
    network = Finetuned(learned, device="cpu")
    random = np.random.default_rng(9)
    samples = [spoken(text, random) for text in ("a", "bc", "cb")]
    found = network.predict(samples)
    records = found.records()
    assert [record["transcript"] for record in records] == ["a", "bc", "cb"]
    (word,) = records[1]["words"]
    assert word["word"] == "bc"
    assert 0 <= word["begin"] < 0.12 < word["end"] < 0.3  # b is said up to 0.12 s, c up to 0.24 s
    alone = [network.predict([sample]).records()[0]["transcript"] for sample in samples]
    assert alone == ["a", "bc", "cb"]  # neighbours in a batch change nothing
    table = found.write(tmp_path / "said.csv").read_text()
    assert table.splitlines()[0] == "name,transcript,score"
    lines_of = found.write(tmp_path / "said.jsonl").read_text().splitlines()
    assert json.loads(lines_of[2])["transcript"] == "cb"
    source, texts = recordings(16)
    result = network.evaluate(source, labels=texts, draws=50)
    assert result.samples == 16
    assert result.metrics["wer"] < 0.7
    low, high = result.intervals["cer"]
    assert low <= result.metrics["cer"] <= high
    other = network.evaluate(source, labels=[text + " z" for text in texts], draws=50)
    assert other.metrics["wer"] > result.metrics["wer"]  # a word that cannot be written is an error


def test_it_continues_with_the_same_bits(tmp_path, recogniser):
    """With masks in time and channels, layer drop, and a head that is trained alone at first."""
    given = {"encoder.freeze_steps": 3, "ctc.channel_probability": 0.3, "ctc.mask_probability": 0.4}
    recogniser(tmp_path / "whole", **given).fit()
    parts = recogniser(tmp_path / "parts", **given)
    losses = parts.task.losses

    def interrupted(batch, step, micro_batch):
        if (step, micro_batch) == (5, 1):
            raise KeyboardInterrupt
        return losses(batch, step, micro_batch)

    parts.task.losses = interrupted
    with pytest.raises(KeyboardInterrupt):
        parts.fit()
    recogniser(tmp_path / "parts", **given).fit()
    one, other = weights(tmp_path / "whole", 8), weights(tmp_path / "parts", 8)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


def test_only_the_head_learns_at_first_and_the_convolutions_never(tmp_path, recogniser):
    made = recogniser(tmp_path / "run", **{"encoder.freeze_steps": 7, "encoder.frozen_embedding": True})
    before = {name: value.clone() for name, value in made.task.network.state_dict().items()}
    losses, after = made.task.losses, {}

    def watched(batch, step, micro_batch):
        after.setdefault(step, {name: value.clone() for name, value in made.task.network.state_dict().items()})
        return losses(batch, step, micro_batch)

    made.task.losses = watched
    made.fit()
    changed = {name for name in before if not torch.equal(before[name], after[7][name])}
    assert changed
    assert all(name.startswith("head.") for name in changed)
    end = made.task.network.state_dict()
    assert not any(torch.equal(before[n], v) for n, v in end.items() if n.startswith("encoder.blocks") and "fc" in n)
    assert all(torch.equal(before[n], v) for n, v in end.items() if n.startswith("encoder.embedding"))


def test_the_loss_is_a_mean_over_utterances_of_sums_over_them(tmp_path, recogniser):
    made = recogniser(tmp_path / "run")
    made.task.network.eval()
    with made.open_loader(made.sets, 0) as loader:
        batch = next(iter(loader.step(0)))
        part = made.task.losses(batch, 0, 0)["ctc"]
        outputs = made.task.network(batch.inputs, batch.lengths)
    assert outputs.shape[:1] + outputs.shape[2:] == (4, 5)
    assert part.count == 4
    assert made.task.counts(batch) == {"ctc": 4}
    frames = made.task.frames(batch)
    alone = [
        torch.nn.functional.ctc_loss(
            outputs[i, : frames[i]].log_softmax(1)[:, None],
            batch.labels[i : i + 1, : batch.label_lengths[i]],
            frames[i : i + 1],
            batch.label_lengths[i : i + 1],
            reduction="sum",
        )
        for i in range(4)
    ]
    whole = made.task._loss(outputs, frames, batch)
    assert whole.item() == pytest.approx(sum(x.item() for x in alone), rel=1e-4)


def test_what_cannot_be_learned_is_left_out_and_counted(tmp_path, recogniser, caplog):
    source, texts = recordings()
    samples = [source.read(i) for i in range(40)] + [spoken("a", np.random.default_rng(0)) for _ in range(2)]
    texts = [*texts, "a" * 40, "a"]
    made = recogniser(tmp_path / "run", texts=texts, samples=samples, **{"loader.holdout": 0.0})
    assert len(made.sets.train) == 41
    assert (
        "left out 1 transcripts that have more symbols than their recordings have frames (the first is 40)"
        in caplog.text
    )
    caplog.clear()
    short = recogniser(tmp_path / "short", **{"loader.holdout": 0.0, "inputs.max_seconds": 0.6})
    left = 40 - len(short.sets.train)
    assert left > 0
    assert (
        f"left out {left} recordings longer than 0.6 s, which would be cropped: raise inputs.max_seconds" in caplog.text
    )


def test_a_vocabulary_file_and_characters_outside_of_it(tmp_path, recogniser, caplog):
    letters = tmp_path / "vocab.json"
    letters.write_text(json.dumps({"<pad>": 0, "|": 1, "A": 2, "B": 3}))
    given = {"ctc.vocabulary": str(letters), "ctc.case": "upper", "loader.holdout": 0.0}
    made = recogniser(tmp_path / "run", **given)
    lacking = sum("c" in text for text in recordings()[1])
    assert len(made.sets.train) == 40 - lacking
    assert f"left out {lacking} transcripts: the vocabulary lacks 'C'" in caplog.text
    with pytest.raises(DataError, match="nothing can be learned from any of the 40 transcripts"):
        recogniser(tmp_path / "other", **given | {"ctc.case": "lower"})
    assert "but has letters of them in upper case: set ctc.case to 'upper'" in caplog.text


def test_characters_outside_of_the_vocabulary_count_as_errors_of_the_validation(tmp_path, recogniser, caplog):
    letters = tmp_path / "letters.txt"
    letters.write_text("a\nb\n")
    made = recogniser(tmp_path / "run", **{"ctc.vocabulary": str(letters)})
    held = made.sets.validation
    lacking = sum("c" in text for text in held.texts)
    assert lacking > 0
    assert f"{lacking} of 10 transcripts of the validation or test have characters that cannot" in caplog.text
    assert "the vocabulary has no '|', so spaces are left out" in caplog.text
    stage, lost = made.task.stage(held), {ord("c"): "\N{REPLACEMENT CHARACTER}", ord(" "): None}
    ids = torch.arange(len(held))
    batch = stage(Batch(inputs=torch.zeros(len(held), 16000), sample_ids=ids), 0)
    for text, row, length in zip(held.texts, batch.labels, batch.label_lengths.tolist(), strict=True):
        assert made.task.vocabulary.decode(row[row > 0].tolist()) == text.translate(lost)
        assert (length < 0) == ("c" in text)


def test_signals_of_several_channels_have_transcripts_too(tmp_path, pretrained):
    samples, _ = labelled("series", 12)
    config = settle(pretrained("series"), "ctc", QUICK | {"steps": 2, "log.validate_every": 2}, tmp_path / "run")
    given = LabelledData(data=samples, labels=["ab", "b", "a" * 500] * 4)  # more letters than frames
    made = Finetuning(config, given, tmp_path / "run")
    assert set(made.sets.train.texts) == {"ab", "b"}
    made.fit()
    assert np.isfinite(lines(tmp_path / "run")[-1]["validation_loss"])


def test_nothing_but_blanks_is_said_in_words(tmp_path, recogniser, caplog):
    made = recogniser(tmp_path / "run", **{"ctc.blank_evaluations": 2, "log.validate_every": 2, "optim.lr": 1e-6})
    with torch.no_grad():
        made.task.network.head.output.bias[0] = 50
    made.fit()
    assert caplog.text.count("every frame of all 10 recordings was blank in 2 evaluations in a row") == 1
    assert "raise optim.lr" in caplog.text


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.startswith(("librispeech", "ctc"))])
def test_recipes_fit_together(tmp_path, pretrained, recipe):
    config = settle(pretrained("speech"), "ctc", {}, tmp_path, recipe)
    assert config.encoder.frozen_embedding
    assert config.ctc.mask_probability == RECIPES[recipe]["ctc.mask_probability"]
    if recipe == "librispeech-10h":
        assert (config.steps, config.optim.lr, config.encoder.freeze_steps) == (20_000, 5e-5, 10_000)
        assert config.optim.clip_norm is None


def test_decoding_can_be_another_than_in_training(learned, tmp_path, make_finetuning):
    network = Finetuned(learned, device="cpu", beam=8)
    assert network.config.ctc.beam == 8
    assert network.predict([spoken("a", np.random.default_rng(2))]).records()[0]["transcript"] == "a"
    other = make_finetuning(tmp_path / "classes").fit()
    with pytest.raises(ConfigError, match=r"beam: .* is no recogniser, its task is classify"):
        Finetuned(other, device="cpu", beam=8)


def test_what_the_task_is_not_for(tmp_path, recogniser, pretrained):
    with pytest.raises(ConfigError, match=r"loader\.pad is False: clips would be cropped"):
        recogniser(tmp_path / "run", **{"loader.pad": False})
    config = settle(pretrained("vision"), "ctc", {}, tmp_path / "pictures")
    given = LabelledData(data=[torch.zeros(3, 20, 20, dtype=torch.uint8)] * 4, labels=["a", "b", "a", "b"])
    with pytest.raises(ConfigError, match="the task ctc is for signals over time, not for vision"):
        Finetuning(config, given, tmp_path / "pictures", device="cpu")
    with pytest.raises(ConfigError, match=r"ctc\.beam is 1; it must be above 1 for a language model|ctc\.beam"):
        recogniser(tmp_path / "lm", **{"ctc.language_model": "words.arpa"})
