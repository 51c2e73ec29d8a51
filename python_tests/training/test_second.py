"""What the trainer promises, for data2vec 2.0: accumulation, formats, recomputation, compiled blocks, validation."""

from __future__ import annotations

import pytest
import torch

from d2v_fast.batch import Batch
from d2v_fast.models import Data2Vec, skipped_blocks
from d2v_fast.models.targets import targets_of
from d2v_fast.training.trainer import Data2VecTrainer

QUIET = {"dropout": 0.0, "attention_dropout": 0.0, "layer_drop": 0.0, "drop_path": 0.0}
STILL = {"head": {"noise": 0.0, "input_dropout": 0.0}}
SECOND = ["speech2", "vision2", "text2"]
ALL = [*SECOND, "series2", "spectrogram2"]


@pytest.fixture
def first_batch(make_data, tmp_path):
    """(configuration) to a trainer and the first batch of its run."""

    def make(config):
        trainer = Data2VecTrainer(config, data=make_data(config.model.modality), out=tmp_path / "run")
        from d2v_fast.modalities import open_data, open_loader

        source = open_data(trainer.data, config, None)
        with open_loader(config, source, device=trainer.device) as loader:
            return trainer, loader.step(0)[0]

    return make


@pytest.mark.parametrize("modality", SECOND)
def test_every_part_of_the_loss_is_logged(make_config, make_data, tmp_path, read_lines, modality):
    config = make_config(modality, steps=4, loader={"holdout": 0.25}, log={"every": 2, "validate_every": 4})
    trainer = Data2VecTrainer(config, data=make_data(modality), out=tmp_path / "run")
    original, weight = trainer.task.validate, config.model.loss.class_token

    def twice(batches):
        batches = list(batches)
        values = [original(iter(batches)) for _ in range(2)]
        assert values[0] == values[1]  # the decoder's noise is the same each time
        return values[0]

    trainer.task.validate = twice
    lines = read_lines(trainer.fit())
    for line, names in ((lines[0], ["loss"]), (lines[1], ["loss", "validation_loss"])):
        for name in names:
            parts = line[f"{name}_regression"] + weight * line[f"{name}_class_token"]
            assert line[name] == pytest.approx(parts, rel=1e-6)
            assert line[f"{name}_class_token"] > 0
    assert all(lines[1][name] > 0 for name in ("local_std", "pred_std", "target_std", "pred_rank", "target_rank"))


@pytest.mark.parametrize("modality", SECOND)
def test_accumulation_does_not_change_the_step(make_config, train, tmp_path, read_weights, read_lines, modality):
    """8 samples at once, or 2 in each of 4 micro-batches; the class-token loss counts views, the other positions."""
    runs = {}
    for size, accumulation in ((8, 1), (2, 4)):
        loader = {"batch_size": size, "accumulation": accumulation}
        if modality == "speech2":
            # Rows as long as the longest of their own batch: longer ones only give the convolutions other frames.
            loader |= {"batch_seconds": None}
        config = make_config(
            modality,
            model=STILL | {"transformer": QUIET},
            inputs={"min_seconds": 0.3, "max_seconds": 0.3} if modality == "speech2" else {},
            loader=loader,
            steps=2,
            log={"every": 1},
        )
        runs[size] = train(config, tmp_path / str(size))
    whole, parts = (read_weights(runs[size], 2) for size in (8, 2))
    for name, value in whole.items():
        torch.testing.assert_close(
            parts[name], value, atol=2e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    lines, others = read_lines(runs[8]), read_lines(runs[2])
    for part in ("loss", "loss_regression", "loss_class_token"):
        assert [line[part] for line in lines] == pytest.approx([line[part] for line in others], rel=1e-5)


@pytest.mark.parametrize("modality", ALL)
def test_activation_checkpoints_change_no_bit_in_float32(make_config, train, tmp_path, assert_same_run, modality):
    """With all dropout, drop path and the decoder's noise."""
    train(make_config(modality, steps=2), tmp_path / "kept")
    config = make_config(modality, steps=2, precision={"checkpoint_activations": True})
    train(config, tmp_path / "recomputed")
    assert_same_run(tmp_path / "kept", tmp_path / "recomputed", 2)


def test_activation_checkpoints_keep_less(make_config, first_batch):
    kept = {}
    for again in (False, True):
        trainer, batch = first_batch(make_config("vision2", precision={"checkpoint_activations": again}))
        sizes = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: (s.append(x.nbytes), x)[1], lambda x: x)
        with hooks:
            trainer.task.losses(batch, 0, 0)
        kept[again] = sum(sizes)
    assert kept[True] < 0.5 * kept[False]


@pytest.mark.parametrize("modality", SECOND)
@pytest.mark.parametrize("teacher_float32", [False, True])
def test_bfloat16_trains_with_float32_weights(
    make_config, make_data, tmp_path, teacher_float32, read_weights, read_lines, modality
):
    losses = {}
    for autocast in ("bfloat16", "float32"):
        precision = {"autocast": autocast, "teacher_float32": teacher_float32}
        config = make_config(modality, model={"transformer": QUIET}, steps=2, precision=precision, log={"every": 1})
        trainer = Data2VecTrainer(config, data=make_data(modality), out=tmp_path / autocast)
        seen = {}
        decoder = trainer.model.student.decoder
        decoder.projection[0].register_forward_hook(lambda m, i, o, s=seen: s.update(student=o.dtype))
        trainer.model.teacher.blocks[0].ffn.up.register_forward_hook(lambda m, i, o, s=seen: s.update(teacher=o.dtype))
        losses[autocast] = [line["loss"] for line in read_lines(trainer.fit())]
        half = torch.bfloat16 if autocast == "bfloat16" else torch.float32
        assert seen == {"student": half, "teacher": torch.float32 if teacher_float32 else half}
        assert {value.dtype for value in read_weights(tmp_path / autocast, 2).values()} <= {torch.float32, torch.int64}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.03)
    assert losses["bfloat16"] != losses["float32"]


def test_blocks_are_compiled_once_for_any_number_of_tokens(make_config, train, tmp_path, monkeypatch, read_weights):
    """Clips of different lengths keep different numbers of frames; the graphs are made in the first steps only."""
    original, compiled = torch.compile, []

    def aot_eager(function, **options):
        compiled.append(options["dynamic"])
        return original(function, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", aot_eager)
    parts = {"model": {"transformer": QUIET | {"drop_path": 0.0}, "head": {"input_dropout": 0.0}}}
    options = parts | {"steps": 6, "log": {"every": 6}, "loader": {"pad": True}}
    train(make_config("speech2", **options), tmp_path / "eager")
    assert compiled == []
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters["stats"]
    graphs = []
    step = Data2VecTrainer.__init__

    def watched(self, *arguments, **named):
        step(self, *arguments, **named)
        forward = self.task.losses
        self.task.losses = lambda *a: (forward(*a), graphs.append(counters["unique_graphs"]))[0]

    monkeypatch.setattr(Data2VecTrainer, "__init__", watched)
    train(make_config("speech2", **options, precision={"compile": True}), tmp_path / "compiled")
    assert compiled == [True] * 6  # three blocks of the student, three of the teacher
    assert graphs[0] > 0
    assert graphs[-1] == graphs[3], graphs
    eager, graph = read_weights(tmp_path / "eager", 6), read_weights(tmp_path / "compiled", 6)
    assert eager.keys() == graph.keys()
    for name, value in eager.items():
        torch.testing.assert_close(graph[name], value, atol=1e-5, rtol=1e-4)


def test_compiled_blocks_know_dropout_drop_path_and_layer_drop(make_config, train, tmp_path, monkeypatch, read_lines):
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **o: original(function, backend="aot_eager", **o))
    torch._dynamo.reset()
    run = train(make_config("vision2", steps=3, log={"every": 1}, precision={"compile": True}), tmp_path / "run")
    assert all(line["skipped_steps"] == 0 for line in read_lines(run))


def test_layer_drop_skips_prenet_and_blocks_by_the_step(make_config, first_batch):
    config = make_config("text2", model={"transformer": {"layer_drop": 0.5}})
    trainer, batch = first_batch(config)
    network, ran = config.model.transformer, []
    for i, block in enumerate(trainer.model.student.encoder.blocks):
        block.register_forward_hook(lambda m, a, o, i=i: ran.append(i))
    teacher = []
    trainer.model.teacher.blocks[0].register_forward_hook(lambda m, a, o: teacher.append(1))
    skipped = set()
    for step in range(8):
        wanted = [i for i, skip in enumerate(skipped_blocks(network, config.seed, step)) if not skip]
        skipped |= set(range(network.depth)) - set(wanted)
        for micro_batch in range(2):  # the same in all micro-batches of a step
            ran.clear()
            trainer.task.losses(batch, step, micro_batch)
            assert ran == wanted
    assert skipped == {0, 1, 2}
    assert len(teacher) == 16  # the teacher skips nothing


@pytest.mark.parametrize("modality", ALL)
def test_one_pass_of_front_end_and_teacher_serves_all_views(make_config, first_batch, modality):
    trainer, batch = first_batch(make_config(modality, model={"transformer": QUIET}))
    assert batch.views == 2
    student, sizes = trainer.model.student, {"embed": [], "blocks": [], "student": []}
    student.encoder.embedding.register_forward_hook(lambda m, a, o: sizes["embed"].append(len(o)))
    trainer.model.teacher.blocks[1].register_forward_hook(
        lambda m, a, o: sizes["blocks"].append(a[0].shape[:2].numel())
    )
    student.encoder.blocks[1].register_forward_hook(lambda m, a, o: sizes["student"].append(a[0].shape[1]))
    trainer.task.losses(batch, 0, 0)
    samples, width, extra = len(batch.inputs), batch.mask.shape[1], len(student.encoder.extra())
    assert sizes["embed"] == [samples]
    assert sizes["blocks"][0] <= samples * (width + extra)
    assert sizes["student"] == [len(batch.kept) + 2 * samples * extra]
    assert len(batch.kept) < 0.8 * batch.mask.numel()


@pytest.mark.parametrize("modality", SECOND)
def test_what_is_hidden_reaches_the_student_nowhere(make_config, first_batch, modality):
    """Local features of a hidden place may change as they like: no prediction of that view does."""
    trainer, batch = first_batch(make_config(modality, model=STILL | {"transformer": QUIET}))
    student = trainer.model.student.eval()
    with torch.no_grad():
        local = student.encoder.embed(batch.inputs)
        hidden = batch.mask.view(len(local), batch.views, -1).all(1)  # in every view
        assert hidden.any()
        changed = local + 10 * hidden.unsqueeze(2)
        lengths = student.encoder.token_lengths(batch.lengths)
        one, other = (student.predict_hidden(batch, x, lengths, None) for x in (local, changed))
    assert torch.equal(one.rows, other.rows)
    assert torch.equal(one.classes, other.classes)


def test_the_class_target_is_the_mean_of_the_targets_of_all_valid_positions(make_config, first_batch):
    trainer, batch = first_batch(make_config("speech2", loader={"pad": True, "batch_seconds": None}))
    model: Data2Vec = trainer.model
    lengths = model.student.encoder.token_lengths(batch.lengths)
    assert lengths is not None
    assert len(set(lengths.tolist())) > 1
    width = batch.mask.shape[1]
    every = Batch(
        inputs=batch.inputs,
        lengths=batch.lengths,
        mask=torch.ones(len(batch.inputs), width, dtype=torch.bool),
        rows=torch.arange(len(batch.inputs) * width),
        sample_ids=batch.sample_ids,
    )
    local = model.student.encoder.embed(batch.inputs).detach()
    whole = targets_of(model.teacher, model.config, every, local, lengths, False).rows.view(len(local), width, -1)
    classes = targets_of(model.teacher, model.config, batch, local, lengths, False).classes
    expected = torch.stack([whole[b, : lengths[b]].mean(0) for b in range(len(local))])
    torch.testing.assert_close(classes, expected.repeat_interleave(batch.views, 0))
