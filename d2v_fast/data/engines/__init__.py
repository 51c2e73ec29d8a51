"""Engines: what turns a plan into batches."""
