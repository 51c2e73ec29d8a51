"""Pretraining: configuration, loop, checkpoints, monitors and what a run writes."""
