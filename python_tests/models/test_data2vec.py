import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from d2v_fast.models import Data2Vec
from d2v_fast.models.config import TargetConfig, TeacherConfig


def double(model, batch):
    inputs = batch.inputs.double() if batch.inputs.is_floating_point() else batch.inputs
    return model.double(), replace(batch, inputs=inputs)


def test_loss_is_the_papers(small, modality, config, batch):
    """The whole forward pass once more, from the parts and in plain torch."""
    model, batch = double(small.perturb(Data2Vec(config)), batch)
    student, teacher, options = model.student.encoder, model.teacher, config.target
    seen = student.embed(batch.inputs if modality != "text" else batch.masked_inputs)
    mask = None if modality == "text" else batch.mask
    prediction = model.student.head(student.forward_layers(seen, mask=mask).output[batch.mask])
    with torch.no_grad():
        local = teacher.embed(batch.inputs)
        layers = teacher.forward_layers(local, last=2, feature=options.feature).features
        if modality == "speech":
            layers = [F.instance_norm(layer.transpose(1, 2)).transpose(1, 2) for layer in layers]
        else:
            layers = [F.layer_norm(layer, (16,)) for layer in layers]
        target = (layers[0] + layers[1]) / 2
        if modality == "vision":
            target = F.layer_norm(target, (16,))
        target = target[batch.mask]
    if modality == "speech":
        expected = (prediction - target).square().sum(1).mean() / 4  # 1 / sqrt(16)
    else:
        beta, scale = (2.0, 0.25) if modality == "vision" else (4.0, 1.0)
        expected = F.smooth_l1_loss(prediction, target, beta=beta, reduction="none").sum(1).mean() * scale
    output = model(batch)
    torch.testing.assert_close(output.target, target, rtol=0, atol=1e-10)
    torch.testing.assert_close(output.prediction, prediction, rtol=0, atol=1e-10)
    torch.testing.assert_close(output.loss, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(output.local, student.embed(batch.inputs).flatten(0, 1), rtol=0, atol=1e-12)
    assert list(output.losses) == ["regression"]
    regression = output.losses["regression"]
    torch.testing.assert_close(regression.sum, expected * len(batch.rows), rtol=1e-10, atol=0)
    assert (regression.count, regression.weight) == (len(batch.rows), 1.0)
    assert model.counts(batch) == {"regression": regression.count}
    assert not output.target.requires_grad
    assert not output.local.requires_grad


def test_gradients_reach_the_student_alone(small, modality, config, batch):
    model = small.perturb(Data2Vec(config))
    model(batch).loss.backward()
    missing = [name for name, value in model.student.named_parameters() if value.grad is None]
    assert missing == []
    own = [value for value in model.teacher.parameters() if not value.requires_grad]
    assert own
    assert all(value.grad is None for value in own)
    # Nothing flows through the targets: with the teacher taken away and its targets fixed, the gradient is the same.
    expected = {name: value.grad.clone() for name, value in model.student.named_parameters()}
    target = model(batch).target.clone()
    model.zero_grad()
    output = model(batch)
    error = output.prediction - target
    beta, scale = config.loss.beta, config.loss.scale or 0.25
    loss = error.square() if beta == 0 else F.smooth_l1_loss(output.prediction, target, beta=beta, reduction="none")
    (loss.sum(1).mean() * scale).backward()
    for name, value in model.student.named_parameters():
        torch.testing.assert_close(value.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_teacher_sees_the_whole_input_and_never_the_mask(small, modality, config, batch):
    model = small.perturb(Data2Vec(config)).eval()
    other = small.make_batch(modality, seed=5)
    changed = replace(other, inputs=batch.inputs)
    if modality == "text":
        changed = replace(changed, masked_inputs=torch.where(other.mask, 3, batch.inputs))
    both = batch.mask & other.mask
    first, second = model(batch).target, model(changed).target
    torch.testing.assert_close(
        first[both.flatten()[batch.rows]], second[both.flatten()[other.rows]], rtol=1e-5, atol=1e-6
    )


def test_student_does_not_see_what_is_masked(small, modality, config, batch):
    model = small.perturb(Data2Vec(config)).eval()
    if modality == "speech":
        frames = torch.randn(3, small.tokens[modality], 16)
        other = torch.where(batch.mask.unsqueeze(2), torch.randn_like(frames), frames)
        encoder = model.student.encoder
        a, b = (encoder.forward_layers(x, mask=batch.mask, rows=batch.rows).output for x in (frames, other))
    elif modality == "vision":
        hidden = batch.mask.view(3, 1, 4, 4).repeat_interleave(3, 2).repeat_interleave(3, 3)
        a = model(batch).prediction
        noise = torch.randn_like(batch.inputs)
        b = model(replace(batch, inputs=torch.where(hidden, noise, batch.inputs))).prediction
    else:
        a = model(batch).prediction
        b = model(replace(batch, inputs=torch.where(batch.mask, 7, batch.inputs))).prediction
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert a.std() > 0.01


def test_views_are_separate_batches_with_one_teacher_pass(small, modality, config):
    model = small.perturb(Data2Vec(config))
    batch = small.make_batch(modality, samples=2, views=3)
    calls = []
    model.teacher.blocks[0].register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape[0]))
    output = model(batch)
    assert calls == [2]
    length = small.tokens[modality]
    sums, rows = 0.0, batch.rows
    for row in range(6):
        mask = batch.mask[row : row + 1]
        single = replace(
            batch,
            inputs=batch.inputs[row // 3 : row // 3 + 1],
            mask=mask,
            rows=mask.flatten().nonzero().flatten(),
            views=1,
            sample_ids=torch.tensor([0]),
            masked_inputs=None if batch.masked_inputs is None else batch.masked_inputs[row : row + 1],
        )
        alone = model(single)
        here = rows // length == row
        torch.testing.assert_close(output.target[here], alone.target, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(output.prediction[here], alone.prediction, rtol=1e-4, atol=1e-5)
        sums += alone.losses["regression"].sum
    torch.testing.assert_close(output.loss, sums / len(rows), rtol=1e-5, atol=0)


@pytest.mark.parametrize("averages", ["all", "transformer", "layers"])
def test_teacher_owns_what_it_averages_and_shares_the_rest(modality, config, averages):
    model = Data2Vec(replace(config, teacher=TeacherConfig(averages=averages)))
    student = dict(model.student.encoder.named_parameters())
    owned = set()
    for name, value in model.teacher.named_parameters():
        assert torch.equal(value, student[name])  # an exact copy at the start
        if value is not student[name]:
            owned.add(name.split(".")[0])
            assert not value.requires_grad
            assert value.data_ptr() != student[name].data_ptr()
        else:
            assert value.requires_grad
    expected = {"blocks", "norm", "positions", "embedding"} & {name.split(".")[0] for name in student}
    if averages != "all":
        expected -= {"embedding"}
    if averages == "layers":
        expected -= {"positions"}
    assert owned == expected
    assert set(model.teacher.state_dict()) == set(model.student.encoder.state_dict())


def test_update_moves_the_owned_and_leaves_the_student(small, config):
    model = small.perturb(Data2Vec(config))
    student = {name: value.detach().clone() for name, value in model.student.encoder.named_parameters()}
    before = {name: value.detach().clone() for name, value in model.teacher.named_parameters()}
    shared = {name for name, value in model.teacher.named_parameters() if value.requires_grad}
    model.update_teacher(0.9)
    for name, value in model.teacher.named_parameters():
        expected = student[name] if name in shared else before[name] + 0.1 * (student[name] - before[name])
        torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=1e-7)
    for name, value in model.student.encoder.named_parameters():
        assert torch.equal(value, student[name])
    now = copy.deepcopy(model.teacher.state_dict())
    model.update_teacher(torch.tensor(1.0, dtype=torch.float64))
    assert all(torch.equal(value, now[name]) for name, value in model.teacher.state_dict().items())
    model.update_teacher(torch.tensor(0.0, dtype=torch.float64))
    assert all(torch.equal(value, student[name]) for name, value in model.teacher.state_dict().items())


def test_update_still_works_after_loading_and_copying(small, config):
    model = small.perturb(Data2Vec(config))
    model.update_teacher(0.5)  # the lists are cached now
    other = copy.deepcopy(model)
    model.student.load_state_dict({name: value + 1 for name, value in model.student.state_dict().items()})
    model.teacher.load_state_dict({name: value + 1 for name, value in other.teacher.state_dict().items()})
    model.update_teacher(0.0)
    other.update_teacher(0.0)
    for name, value in model.student.encoder.state_dict().items():
        assert torch.equal(model.teacher.state_dict()[name], value)
        assert torch.equal(other.teacher.state_dict()[name], other.student.encoder.state_dict()[name])
        assert not torch.equal(value, other.student.encoder.state_dict()[name])


def test_reset_copies_the_student(small, config):
    model = small.perturb(Data2Vec(config))
    model.reset_teacher()
    student = model.student.encoder.state_dict()
    assert all(torch.equal(value, student[name]) for name, value in model.teacher.state_dict().items())


def test_teacher_stays_in_eval_mode(config, batch):
    noisy = replace(config, transformer=replace(config.transformer, dropout=0.3, attention_dropout=0.3, drop_path=0.3))
    model = Data2Vec(noisy)
    for switch in (model.train, model.eval, lambda: model.train(True)):
        switch()
        assert not any(module.training for module in model.teacher.modules())
    assert all(module.training for module in model.student.modules())
    first, second = model(batch), model(batch)
    assert torch.equal(first.target, second.target)
    assert not torch.equal(first.prediction, second.prediction)


def test_padding_can_be_left_out_of_the_statistics(small):
    config = small.configs["speech"]
    batch = small.make_batch("speech")
    lengths = torch.tensor([104, 80, 104])  # 12, 9 and 12 frames
    mask = batch.mask & (torch.arange(12) < torch.tensor([12, 9, 12])[:, None])
    batch = replace(batch, lengths=lengths, mask=mask, rows=mask.flatten().nonzero().flatten())
    torch.manual_seed(0)
    counted = small.perturb(Data2Vec(config)).eval()
    left_out = Data2Vec(replace(config, target=TargetConfig(top_k=2, exclude_padding=True))).eval()
    left_out.load_state_dict(counted.state_dict())
    a, b = counted(batch).target, left_out(batch).target
    full = batch.rows // 12 != 1
    torch.testing.assert_close(a[full], b[full])
    assert (a[~full] - b[~full]).abs().max() > 1e-2
    # Statistics over the 9 valid frames, from the teacher's features.
    teacher = left_out.teacher
    frames = teacher.forward_layers(teacher.embed(batch.inputs), torch.tensor([12, 9, 12]), last=2, feature="ffn")
    expected = sum(F.instance_norm(f[1:2, :9].transpose(1, 2)).transpose(1, 2) for f in frames.features) / 2
    torch.testing.assert_close(b[~full], expected[0][batch.rows[~full] - 12], rtol=1e-4, atol=1e-5)


def compiled_pair(small, modality, **options):
    """A shallow model, because tracing is slow, and its compiled form."""
    torch._dynamo.reset()
    config = small.configs[modality]
    network = replace(config.transformer, depth=2, **options)
    model = small.perturb(Data2Vec(replace(config, transformer=network, target=replace(config.target, top_k=1))))
    return model, torch.compile(model, fullgraph=True, backend="aot_eager")


def test_compiles_without_graph_breaks(small, modality, batch):
    model, compiled = compiled_pair(small, modality)
    output = compiled(batch)
    output.loss.backward()
    grads = [value.grad.clone() for value in model.student.parameters()]
    model.zero_grad()
    plain = model(batch)
    plain.loss.backward()
    torch.testing.assert_close(output.loss, plain.loss, rtol=1e-5, atol=0)
    for a, value in zip(grads, model.student.parameters(), strict=True):
        torch.testing.assert_close(a, value.grad, rtol=1e-4, atol=1e-6)


def test_compiles_with_noise_and_another_number_of_rows(small):
    _, compiled = compiled_pair(small, "speech", dropout=0.1, attention_dropout=0.1, layer_drop=0.5, drop_path=0.1)
    skipped = torch.tensor([False, True])
    with torch.no_grad():
        losses = [compiled(small.make_batch("speech", seed=seed), skipped=skipped).loss for seed in (0, 1, 0)]
    assert losses[0] != losses[2]
    assert all(loss.isfinite() for loss in losses)


@pytest.mark.parametrize("pattern", [(False, True), (True, False), (True, True)], ids=str)
def test_a_compiled_pair_skips_the_blocks_that_it_is_told(small, batch, modality, pattern):
    """One graph for all patterns."""
    model, compiled = compiled_pair(small, modality, layer_drop=0.5)
    with torch.no_grad():
        compiled(batch, skipped=torch.tensor([False, False]))
        with torch.compiler.set_stance("fail_on_recompile"):
            ours = compiled(batch, skipped=torch.tensor(pattern))
        torch.testing.assert_close(ours.loss, model(batch, skipped=pattern).loss, rtol=1e-5, atol=0)


def test_layer_drop_needs_to_be_told_which_blocks(small, config, batch):
    model = Data2Vec(replace(config, transformer=replace(config.transformer, layer_drop=0.1)))
    with pytest.raises(ValueError, match=r"layer_drop is 0\.1, but skipped is None: pass .*skipped_blocks"):
        model(batch)
    with pytest.raises(ValueError, match="skipped names 2 blocks, but the network has 3"):
        model(batch, skipped=(True, False))
    assert model.eval()(batch).loss.isfinite()


def test_skipped_blocks_get_no_gradient(small, config, batch):
    model = small.perturb(Data2Vec(config))
    plain = model(batch).loss
    output = model(batch, skipped=(False, True, False))
    output.loss.backward()
    assert output.loss != plain
    assert [any(p.grad is not None for p in block.parameters()) for block in model.student.encoder.blocks] == [
        True,
        False,
        True,
    ]
    assert model(batch, skipped=(False,) * 3).loss == plain


def test_bfloat16_autocast_stays_close(small, config, batch):
    model = small.perturb(Data2Vec(config))
    exact = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, half = model(batch), model(batch, teacher_autocast=False)
    assert rough.loss.dtype == torch.float32
    assert rough.target.dtype == torch.float32
    torch.testing.assert_close(rough.loss, exact.loss, rtol=0.05, atol=0)
    assert not torch.equal(rough.target, exact.target)
    if config.teacher.averages == "all":
        assert torch.equal(half.target, exact.target)  # the teacher in float32 from end to end
    else:
        assert (half.target - exact.target).abs().mean() < (rough.target - exact.target).abs().mean()
    exact.loss.backward()
    expected = [value.grad.clone() for value in model.student.parameters()]
    model.zero_grad()
    rough.loss.backward()
    largest = max(float(grad.abs().max()) for grad in expected)
    for grad, value in zip(expected, model.student.parameters(), strict=True):
        assert value.grad.dtype == torch.float32
        torch.testing.assert_close(value.grad, grad, rtol=0, atol=0.05 * largest)


def test_nan_flows_to_the_loss(modality, config, batch):
    model = Data2Vec(config)
    with torch.no_grad():
        model.student.head.layers[0].weight.fill_(torch.nan)
    assert torch.isnan(model(batch).loss)


def test_refuses_what_does_not_fit(small, modality, config, batch):
    model = Data2Vec(config)
    length = small.tokens[modality]
    wrong = [
        ({"mask": batch.mask.int()}, TypeError, "must be bool"),
        ({"rows": batch.rows.int()}, TypeError, "rows int64"),
        ({"mask": batch.mask[:, 1:]}, ValueError, rf"shape \[3, {length - 1}\].*need \[3, {length}\]"),
        ({"views": 2}, ValueError, "2 views"),
        ({"rows": batch.rows[1:]}, ValueError, "differ"),
        ({"rows": None}, ValueError, "the batch has no mask and rows"),
        ({"rows": batch.rows[None]}, ValueError, "one dimension"),
        ({"inputs": batch.inputs.float()[None]}, ValueError, "inputs must be"),
    ]
    if modality != "vision":
        wrong.append(({"lengths": torch.tensor([10])}, ValueError, r"lengths has shape \[1\]"))
    if modality == "text":
        wrong.append(({"masked_inputs": None}, ValueError, "needs masked_inputs"))
        wrong.append(({"inputs": torch.zeros(3, 13, dtype=torch.int64)}, ValueError, "max_length 12"))
    else:
        wrong.append(({"masked_inputs": batch.inputs}, ValueError, "takes no masked_inputs"))
        wrong.append(({"inputs": batch.inputs.int()}, TypeError, "floating point"))
    if modality == "speech":
        wrong.append(({"inputs": batch.inputs[:, :10]}, ValueError, "10 samples are too short: one frame needs 12"))
    if modality == "vision":
        wrong.append(({"lengths": torch.tensor([10])}, ValueError, "images have no padding"))
        wrong.append(({"inputs": batch.inputs[:, :1]}, ValueError, r"wants images of shape \[2, 12, 12\]"))
    for change, kind, message in wrong:
        with pytest.raises(kind, match=message):
            model(replace(batch, **change))
