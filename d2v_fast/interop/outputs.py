"""The outputs that a fine-tuning put on an encoder: weights, what is computed, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

NORM_EPS = 1e-6
"""Of the norm on the pooled features."""

VALUE = "value"
"""What the only output of a regression is called."""


@dataclass(frozen=True)
class Outputs:
    """From the features of tokens to K numbers: pooled (but for transcripts), a norm, a hidden layer, a linear map."""

    task: Literal["classify", "regress", "tag", "ctc"]
    """One class for each sample, a number, any number of classes, or a symbol for each frame."""

    labels: tuple[str, ...]
    """[K], names of the classes; ctc: the symbols, the blank first; regress: (`VALUE`,)."""

    state: Mapping[str, Tensor]
    """`output.{weight,bias}` [K, C] and [K]; if there are such parts `norm.*` [C], `hidden.*` [C, C] and [C], and
    `layer_weights` [depth]. A regression gives values in the unit of its labels."""

    pooling: Literal["mean", "first", "lin_softmax"] = "mean"
    """The mean over the tokens; the first one; or of the probabilities p of all tokens sum(p ** 2) / sum(p)."""

    layers: Literal["last", "block", "weighted"] = "last"
    """The encoder's output; its last block's, before the encoder's norm; or a weighted sum over all blocks'."""

    dropout: float = 0.0
    """Before each map, in training."""

    @property
    def norm(self) -> bool:
        """Whether there is a norm on the pooled features, with `NORM_EPS`."""
        return "norm.weight" in self.state

    @property
    def hidden(self) -> bool:
        """Whether there is a hidden layer with tanh."""
        return "hidden.weight" in self.state

    @property
    def problem(self) -> str:
        """What transformers calls the task, for its losses."""
        return {"regress": "regression", "tag": "multi_label_classification"}.get(
            self.task, "single_label_classification"
        )

    def called(self) -> dict[str, object]:
        """The names of the outputs, as transformers' configurations have them."""
        if self.task == "ctc":
            return {"vocab_size": len(self.labels), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
        return {
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: i for i, label in enumerate(self.labels)},
            "problem_type": self.problem,
        }


def pipeline(modality: str, outputs: Outputs | None) -> str:
    """What Hugging Face calls the task of a model."""
    if outputs is None:
        return "feature-extraction"
    if outputs.task == "ctc":
        return "automatic-speech-recognition"
    kinds = {"text": "text-classification", "vision": "image-classification"}
    return kinds.get(modality, "audio-classification")
