"""What the first start decides about the samples is kept beside the index, and is what would be decided anew."""

from __future__ import annotations

import numpy as np
import pytest
from loading import make_loader, sampling_of
from plans import lognormal

from d2v_fast.data import LoaderConfig, TooManySkipped, loader, selection
from d2v_fast.data.columns import read_columns
from d2v_fast.data.deal import Deal
from d2v_fast.modalities.speech.config import SpeechInputs

RATE = 1000
INPUTS = SpeechInputs(sample_rate=RATE, min_seconds=2.5, max_seconds=20)
CONFIG = LoaderConfig(batch_seconds=60.0, batch_size=50, holdout=0.1, threads=1, prefetch=1)


class Clips:
    """Clips that are not read, whose index lies in a folder."""

    modality, fingerprint = "speech", "clips"

    def __init__(self, folder, broken=(5, 6), count=400):
        self.folder, self.sizes = folder, lognormal(count)
        self.sizes[list(broken)] = 0

    def __len__(self):
        return len(self.sizes)

    def name(self, index):
        return f"{index}.wav"

    def read(self, index):
        return np.zeros(self.sizes[index], dtype=np.float32)


def plans(source, settings="1", config=CONFIG, **others):
    """Everything that a loader would hand out, before it is read."""
    with make_loader(source, inputs=INPUTS, config=config, seed=1, settings=settings, **others) as made:
        numbers = [made._plan.batch(k) for k in range(2 * made.batches_per_epoch)]
        found = [*numbers, *made._held_out.in_order()]
        return made.left_out, [(plan.ids.tolist(), plan.details.starts.tolist(), plan.epoch) for plan in found]


def test_a_later_start_decides_nothing_and_has_the_same_plan(tmp_path, monkeypatch, caplog):
    first = plans(Clips(None))
    assert not (tmp_path / selection.FILE).exists()
    assert plans(Clips(tmp_path)) == first
    assert (tmp_path / selection.FILE).exists()
    monkeypatch.setattr(loader, "select", None)
    monkeypatch.setattr(loader, "_usable", None)
    caplog.clear()
    assert plans(Clips(tmp_path)) == first
    assert "of 400 clips, shorter than inputs.min_seconds" in caplog.text
    with pytest.raises(TooManySkipped, match=r"2 of .* samples cannot be read"):
        plans(Clips(tmp_path), config=LoaderConfig(**{**vars(CONFIG), "max_skipped": 0.0}))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:40], lambda data: b"", lambda data: None]
)
def test_a_damaged_file_is_made_again(tmp_path, damage):
    first = plans(Clips(tmp_path))
    path = tmp_path / selection.FILE
    whole = path.read_bytes()
    if (rest := damage(whole)) is None:
        path.unlink()
    else:
        path.write_bytes(rest)
    assert plans(Clips(tmp_path)) == first
    assert path.read_bytes() == whole


def test_other_samples_or_settings_are_decided_anew(tmp_path):
    plans(Clips(tmp_path))
    kept = (tmp_path / selection.FILE).read_bytes()
    other = Clips(tmp_path, count=401)
    assert plans(other, deal=Deal(CONFIG, 1, 2))[1] != plans(Clips(None))[1]
    assert (tmp_path / selection.FILE).read_bytes() == kept  # only one process writes
    other.fingerprint = "others"
    plans(other)
    now = read_columns(tmp_path / selection.FILE)[0]["key"]
    plans(other, settings="2")
    assert read_columns(tmp_path / selection.FILE)[0]["key"] != now
    before = (tmp_path / selection.FILE).read_bytes()
    plans(Clips(tmp_path), settings="")
    assert (tmp_path / selection.FILE).read_bytes() == before


def test_a_disk_that_is_full_is_told_and_no_reason_to_stop(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(selection, "write_columns", full)
    assert plans(Clips(tmp_path)) == plans(Clips(None))
    assert "every start makes it again" in caplog.text


@pytest.mark.parametrize(("count", "says"), [(150, True), (4000, False)])
def test_much_padding_is_said(count, says, caplog):
    source = Clips(None, (), count)
    plans(source)
    assert ("of a batch by length is padding or cut off" in caplog.text) == says


def test_a_plan_of_all_samples_in_equal_batches_keeps_no_column(tmp_path):
    source = Clips(tmp_path, ())
    source.sizes[:] = 3000
    with make_loader(source, inputs=INPUTS, config=LoaderConfig(batch_size=7, threads=1), seed=1, settings="1"):
        pass
    assert read_columns(tmp_path / selection.FILE)[1] == {}


def test_of_several_processes_one_decides(tmp_path, monkeypatch):
    """What `choose` has kept is what the others read; a process that decides nothing writes nothing."""
    source, sampling = Clips(tmp_path), sampling_of(INPUTS, config=CONFIG)
    loader.choose(source, sampling, CONFIG, "1", keep=False)
    assert not (tmp_path / selection.FILE).exists()
    made = loader.choose(source, sampling, CONFIG, "1")
    monkeypatch.setattr(loader, "select", None)
    deal = Deal(CONFIG, 1, 2)
    with make_loader(source, inputs=INPUTS, config=CONFIG, seed=1, settings="1", deal=deal) as second:
        assert second.left_out == made.left_out
    few = LoaderConfig(**{**vars(CONFIG), "max_skipped": 0.0})
    with pytest.raises(TooManySkipped, match=r"2 of .* samples cannot be read"):
        loader.choose(Clips(None), sampling, few, "")
