"""Masked views of samples, as the run masks them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from finetunings import labelled

from d2v_fast.evaluation.label_free import lidar
from d2v_fast.evaluation.masked_views import lidar_of_layers, masked_views
from d2v_fast.modalities import modality_of
from d2v_fast.run.reader import Run
from d2v_fast.run.weights import load


@pytest.mark.parametrize("modality", ["vision", "speech", "text", "series"])
def test_views_are_the_masks_of_the_run(modality, pretrained):
    run = pretrained(modality)
    encoder, config, (source, _) = load(run), Run(run).config, labelled(modality)
    found = masked_views(encoder, config, source, [3, 5], [0, 2], views=3)
    assert found.shape == (2, 2, 3, 32)
    again = masked_views(encoder, config, source, [5, 9], [2], views=2, batch_size=1)
    np.testing.assert_allclose(again[0, 0], found[1, 1, :2], rtol=1e-4, atol=1e-5)  # another batch, the same views
    assert not np.allclose(found[1, 0, 0], found[1, 0, 1])

    sample = encoder.prepare(source.read(5))[None]
    masks = modality_of(config).mask_maker(config, source)(sample, None, np.array([5]), 1)
    visible = ~masks.mask[0]
    with torch.no_grad():
        local = encoder.embed(sample if masks.inputs is None else masks.inputs)
        output = encoder.forward_layers(local, mask=None if modality == "text" else masks.mask).output
    for layer, tokens in ((0, local), (1, output)):
        np.testing.assert_allclose(found[layer, 1, 1], tokens[0, visible].mean(0), rtol=1e-4, atol=1e-5)


def test_lidar_is_taken_of_them(pretrained):
    run = pretrained("vision")
    encoder, config, (source, _) = load(run), Run(run).config, labelled("vision")
    found = lidar_of_layers(encoder, config, source, [1, 2])
    views = masked_views(encoder, config, source, range(len(source)), [1, 2])
    assert found == {1: pytest.approx(lidar(views[0])), 2: pytest.approx(lidar(views[1]))}
    assert 1 < found[2] < 32


def test_samples_without_views_are_left_out(pretrained):
    run = pretrained("speech")
    encoder, config, (source, _) = load(run), Run(run).config, labelled("speech")

    class Broken:
        def __getattr__(self, name):
            return getattr(source, name)

        def __len__(self):
            return 3

        def read(self, index):
            return source.read(index)[: 20 if index == 1 else None]  # too short for a frame

    assert masked_views(encoder, config, Broken(), range(3), [2], views=2).shape[1] == 2
    only = lidar_of_layers(encoder, config, type("One", (Broken,), {"__len__": lambda self: 1})(), [2])
    assert np.isnan(only[2])
