"""Pretrained runs; see fixtures/finetunings.py."""

from finetunings import pretrained

__all__ = ["pretrained"]
