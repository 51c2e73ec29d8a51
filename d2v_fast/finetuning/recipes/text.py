"""Published recipes for the tasks of GLUE (data2vec 1.0 and 2.0): task classify, of STS-B regress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TASKS: Mapping[str, tuple[float, float, tuple[int, int, int, str]]] = {
    "cola": (1e-5, 2e-5, (16, 5_336, 320, "matthews")),
    "mnli": (1e-5, 2e-5, (32, 123_873, 7_432, "accuracy")),
    "mrpc": (1e-5, 2e-5, (16, 2_296, 137, "accuracy")),
    "qnli": (1e-5, 2e-5, (32, 33_112, 1_986, "accuracy")),
    "qqp": (1e-5, 2e-5, (32, 113_272, 28_318, "accuracy")),
    "rte": (2e-5, 2e-5, (16, 2_036, 122, "accuracy")),
    "sst2": (1e-5, 2e-5, (32, 20_935, 1_256, "accuracy")),
    "stsb": (2e-5, 4e-5, (16, 3_598, 214, "pearson")),
}
"""Learning rate of 1.0 and of 2.0, samples of a step, steps, steps of warm-up, and what chooses the checkpoint."""


def _glue(lr: float, batch: int, steps: int, warmup: int, metric: str) -> dict[str, Any]:
    return {
        "steps": steps,
        "task.metric": metric,
        "loader.batch_size": batch,
        "loader.batch_tokens": 4_400,
        "loader.accumulation": 1,
        "optim.lr": lr,
        "optim.betas": (0.9, 0.98),
        "optim.eps": 1e-6,
        "optim.weight_decay": 0.1,
        "optim.decay_vectors": True,
        "optim.clip_norm": None,
        "optim.schedule": "linear",
        "optim.warmup": warmup / steps,
        "optim.first_lr": 0.0,
        "optim.last_lr": 0.0,
        "head.pooling": "first",
        "head.hidden": True,
        "head.norm": False,
    }


GLUE: Mapping[str, Mapping[str, Any]] = {
    f"glue-{name}": _glue(first, *others)
    | {"model.transformer.dropout": 0.1, "model.transformer.attention_dropout": 0.1}
    for name, (first, _, others) in _TASKS.items()
}
"""data2vec 1.0, which was fine-tuned with RoBERTa's configurations in the code. The number that is published for MRPC
and QQP is the mean of accuracy and F1, here accuracy chooses the checkpoint. The targets of STS-B are standardised."""

GLUE2: Mapping[str, Mapping[str, Any]] = {
    f"glue2-{name}": _glue(second, *others) for name, (_, second, others) in _TASKS.items()
}
"""data2vec 2.0: as 1.0 with other rates and the dropouts of the pretraining. The code's README tries rates of 1e-5,
2e-5, 4e-5 and 6e-5 for each task and takes the best; these are those of its configurations."""
