"""An exported model is embedded and probed like the run that it is from."""

from __future__ import annotations

import numpy as np
import pytest

import d2v_fast
from d2v_fast.data import ArraySource
from d2v_fast.errors import RunError
from d2v_fast.evaluation import read_embedded


def test_features_of_an_exported_model(finished, tmp_path):
    pytest.importorskip("transformers")
    run = finished("vision")
    folder = d2v_fast.export(run, "hf", tmp_path / "model")
    random = np.random.default_rng(0)
    pictures = [random.integers(60 * (i % 2), 120 + 60 * (i % 2), (16, 16, 3), dtype=np.uint8) for i in range(24)]
    data = ArraySource("vision", pictures)
    own = read_embedded(d2v_fast.embed(run, data, out=tmp_path / "own.npy", layers="all")).features
    theirs = read_embedded(d2v_fast.embed(folder, data, out=tmp_path / "theirs.npy", layers="all")).features
    np.testing.assert_allclose(theirs, own, atol=1e-5)
    found = d2v_fast.probe(folder, data, labels=[0, 1] * 12, layers="last", draws=50)
    assert [score.network for score in found.scores] == ["student"]
    assert found.comparisons == []
    with pytest.raises(RunError, match="there is no initial network"):
        d2v_fast.embed(folder, data, out=tmp_path / "b.npy", network="initial")
