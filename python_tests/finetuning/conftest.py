"""Pretrained runs and fine-tunings of them; see fixtures/finetunings.py."""

from finetunings import _one_thread, make_finetuning, pretrained, uneven
from tuned_runs import tuned

__all__ = ["_one_thread", "make_finetuning", "pretrained", "tuned", "uneven"]
