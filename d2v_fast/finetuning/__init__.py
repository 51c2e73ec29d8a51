"""Downstream tasks: decoding and metrics."""
