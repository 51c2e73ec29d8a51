"""A fine-tuning by several processes is that of one."""

from __future__ import annotations

import pytest
import rank_jobs
import torch
from finetunings import CLASSES, QUICK, labelled, lines, weights

from d2v_fast.finetuning.sets import LabelledData
from d2v_fast.finetuning.settings import settle


@pytest.mark.parametrize(
    ("modality", "options"),
    [
        ("vision", {}),
        ("text", {"encoder.freeze_steps": 3}),
        ("text", {"encoder.freeze_steps": 3, "distributed.shard": True}),
    ],
)
def test_it_is_that_of_one_process_but_for_rounding(together, pretrained, make_finetuning, tmp_path, modality, options):
    """With a validation that chooses the best checkpoint, and an encoder that is held at first."""
    whole = make_finetuning(tmp_path / "one", modality=modality, **options).fit()
    samples, classes = labelled(modality)
    given = LabelledData(data=samples, labels=[CLASSES[k] for k in classes])
    out = tmp_path / "several"
    config = settle(pretrained(modality), "classify", QUICK | options, out)
    answers = together(2, rank_jobs.tune, config, given, out)
    assert [answer.kind for answer in answers] == ["result"] * 2, [answer.value for answer in answers]
    assert answers[0].value == answers[1].value
    assert answers[1].said == ""
    torch.testing.assert_close(weights(out, 8), weights(whole, 8), rtol=1e-3, atol=2e-5)
    for one, other in zip(lines(whole), lines(out), strict=True):
        assert other == {
            k: v if v is None or isinstance(v, int) else pytest.approx(v, rel=1e-3) for k, v in one.items()
        }
    names = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (whole, out)]
    assert names[0] == names[1]
