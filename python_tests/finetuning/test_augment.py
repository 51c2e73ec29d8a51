"""Augmentation in a run: it learns, it continues with the same bits, and what means nothing is refused."""

from __future__ import annotations

import pytest
import torch
from finetunings import assert_same

from d2v_fast.config_json import with_overrides
from d2v_fast.errors import ConfigError
from d2v_fast.run.reader import Run
from d2v_fast.training.distributed.feed import count

EVERYTHING = {
    "augment.mixup": 0.8,
    "augment.cutmix": 1.0,
    "augment.mix_probability": 0.9,
    "inputs.randaugment": 2,
    "inputs.erase": 0.25,
    "task.smoothing": 0.1,
    "task.balance": "sampler",
    "precision.checkpoint_activations": True,
}


def test_it_continues_with_the_same_bits(tmp_path, make_finetuning):
    parts = make_finetuning(tmp_path / "parts", **EVERYTHING)
    losses = parts.task.losses

    def interrupted(batch, step, micro_batch):
        if (step, micro_batch) == (5, 1):
            raise KeyboardInterrupt
        return losses(batch, step, micro_batch)

    parts.task.losses = interrupted
    with pytest.raises(KeyboardInterrupt):
        parts.fit()
    assert Run(tmp_path / "parts").newest().step == 5
    threads = {"loader.threads": 1}  # decide no bit
    make_finetuning(tmp_path / "parts", **EVERYTHING, **threads).fit("must")
    assert_same(make_finetuning(tmp_path / "whole", **EVERYTHING).fit(), tmp_path / "parts", 8)


def test_sound_continues_with_the_same_bits(tmp_path, make_finetuning):
    given = {
        "augment.mixup": 1.0,
        "augment.keep_power": True,
        "augment.mask_probability": 0.6,
        "head.pooling": "lin_softmax",
        "task.balance": "weights",
    }
    make_finetuning(tmp_path / "parts", "tag", "speech", **given, steps=5).fit()
    make_finetuning(tmp_path / "parts", "tag", "speech", **given, steps=5).fit("must")
    whole = make_finetuning(tmp_path / "whole", "tag", "speech", **given, steps=5)
    assert_same(whole.fit(), tmp_path / "parts", 5)


def test_mixing_is_for_training(tmp_path, make_finetuning):
    """A batch of the validation has its own labels, and its pictures are those without augmentation."""
    changed, plain = make_finetuning(tmp_path / "x", **EVERYTHING), make_finetuning(tmp_path / "y")
    found = []
    for made in (changed, plain):
        with made.open_loader(made.sets, 0) as loader:
            found.append((loader.step(0)[0], list(loader.validation())))
    (mixed, held), (own, others) = found
    assert mixed.labels.dtype == torch.float32
    assert mixed.labels.shape == (4, 3)
    assert own.labels.dtype == torch.int64
    assert all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.labels, b.labels) for a, b in zip(held, others, strict=True)
    )


@pytest.mark.parametrize("modality", ["vision", "series"])
def test_it_learns_from_mixtures(tmp_path, make_finetuning, modality):
    given = {"augment.mixup": 0.4, "optim.lr": 2e-3, "steps": 48, "log.validate_every": 48}
    run = make_finetuning(tmp_path / "run", modality=modality, **given).fit()
    assert Run(run).metrics()[-1]["validation_accuracy"] >= 0.8


def test_masks_hide_frames_while_training(tmp_path, make_finetuning):
    given = {"augment.mask_probability": 0.9, "augment.mask_length": 2, "model.transformer.layer_drop": 0.0}
    given |= {"model.transformer.dropout": 0.0, "model.transformer.attention_dropout": 0.0}
    made = make_finetuning(tmp_path / "x", modality="speech", **given)
    with made.open_loader(made.sets, 0) as loader:
        batch = loader.step(0)[0]
    one, again, other = (made.task.losses(batch, *where)["classify"].sum.item() for where in ((0, 0), (0, 0), (1, 0)))
    assert one == again != other
    token = made.task.network.encoder.embedding.get_parameter("mask_token")
    made.task.losses(batch, 0, 0)["classify"].sum.backward()
    assert token.grad.abs().sum() > 0


def test_what_means_nothing_is_refused(tmp_path, make_finetuning, pretrained):
    def refused(text, task="classify", modality="vision", **given):
        with pytest.raises(ConfigError, match=text):
            make_finetuning(tmp_path / "x", task, modality, **given)

    refused("augment.mixup is not for text", modality="text", **{"augment.mixup": 0.5})
    refused("augment.cutmix is not for series", modality="series", **{"augment.cutmix": 1.0})
    refused("augment.cutmix is for classes, not for regress", "regress", **{"augment.cutmix": 1.0})
    refused("augment.mask_probability is for signals over time, not for vision", **{"augment.mask_probability": 0.5})
    refused(
        r"task\.balance is for classes \(classify, tag\), not for regress", "regress", **{"task.balance": "weights"}
    )
    refused("head.pooling is 'lin_softmax', which is for tag, not for classify", **{"head.pooling": "lin_softmax"})
    refused(
        r"head\.layers is 'block', .*layer_drop is 0\.2",
        **{"head.layers": "block"},
    )
    refused("inputs.randaugment: there is no such field", modality="text", **{"inputs.randaugment": 2})
    refused(r"augment\.mixup is -1\.0", **{"augment.mixup": -1.0})
    refused(r"loader\.batch_tokens is not for vision", **{"loader.batch_tokens": 100})
    refused(r"task\.smoothing is 0\.1, which is for classify, not for tag", "tag", **{"task.smoothing": 0.1})
    for field in ("augment.mixup", "augment.mask_probability"):
        config = make_finetuning(tmp_path / "y", modality="speech").config
        with pytest.raises(ConfigError, match=f"{field} is not for ctc"):
            with_overrides(config, {"task.name": "ctc", "task.classes": ("<b>", "a"), field: 0.5})


def test_checkpointed_activations_change_no_bit(tmp_path, make_finetuning):
    made = {}
    for on in (False, True):
        out = tmp_path / str(on)
        made[on] = make_finetuning(out, steps=3, **{"precision.checkpoint_activations": on}).fit()
    assert_same(made[False], made[True], 3)


def test_a_step_is_the_same_however_it_is_cut(tmp_path, make_finetuning):
    """One micro-batch of 8, or two of 4: the same samples, the same gradient."""
    still = {"model.transformer.layer_drop": 0.0, "model.transformer.drop_path": 0.0, "model.transformer.dropout": 0.0}
    still |= {"model.transformer.attention_dropout": 0.0, "task.balance": "weights", "task.smoothing": 0.1}
    grads = []
    for size, parts in ((8, 1), (4, 2)):
        cut = {"loader.batch_size": size, "loader.accumulation": parts}
        made = make_finetuning(tmp_path / str(size), **still, **cut)
        with made.open_loader(made.sets, 0) as loader:
            batches = loader.step(0)
            loss, _ = made.loop.forward_backward(0, batches, count(made.loop.task, batches))
        grads.append((float(loss), made.task.network.head.output.weight.grad))
    (one, first), (two, second) = grads
    assert one == pytest.approx(two, rel=1e-5)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)
