from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import make_loader

from d2v_fast.data import ArraySource, DataError, DataSource, LoaderConfig, open_source
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.vision.config import VisionInputs


def digits(count=10):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)


def test_arrays_of_one_shape_and_of_many():
    source = ArraySource("vision", digits(), names=[f"digit {i}" for i in range(10)])
    assert len(source) == 10
    assert source.sizes.tolist() == [[8, 8]] * 10
    assert source.name(3) == "digit 3"
    assert np.array_equal(source.read(3), digits()[3])
    mixed = ArraySource("vision", [np.zeros((4, 5), np.uint8), np.zeros((6, 7, 3), np.uint8)])
    assert mixed.sizes.tolist() == [[4, 5], [6, 7]]
    clips = ArraySource("speech", [np.zeros(100, np.int16), np.zeros(50, np.float64)])
    assert clips.sizes.tolist() == [100, 50]
    assert clips.name(1) == "1"
    assert isinstance(clips, DataSource)


def test_tensors_have_channels_first():
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 8, 6), dtype=np.uint8))
    source = ArraySource("vision", pictures)
    assert source.sizes.tolist() == [[8, 6]] * 5
    assert torch.equal(source.read(2), pictures[2])
    assert ArraySource("vision", [torch.zeros(4, 5, dtype=torch.uint8)]).sizes.tolist() == [[4, 5]]
    assert ArraySource("speech", torch.zeros(2, 160)).sizes.tolist() == [160, 160]
    flat = ArraySource("speech", [np.arange(4, dtype=np.int16)])
    assert flat.fingerprint == ArraySource("speech", [torch.arange(4, dtype=torch.int16)]).fingerprint
    with pytest.raises(DataError, match=r"sample 0 is float32 \[3, 8, 6\].*as a tensor: \[channels, height, width\]"):
        ArraySource("vision", pictures.float())


def test_arrays_and_tensors_are_opened_as_they_are(tmp_path):
    for data in (digits(), list(digits()), torch.from_numpy(digits()), tuple(torch.from_numpy(digits()))):
        source = open_source(data, "vision", VisionInputs(), run=tmp_path)
        assert source.sizes.tolist() == [[8, 8]] * 10
    with pytest.raises(DataError, match="is not what this run began with"):
        open_source(digits(9), "vision", VisionInputs(), run=tmp_path)
    with pytest.raises(DataError, match=r"texts are not taken as arrays: write them to a \.jsonl file"):
        open_source(digits(), "text", TextInputs())


def test_fingerprint_of_arrays_depends_on_every_value():
    changed = digits()
    changed[9, 7, 7] ^= 1
    several = (digits(), digits(), changed, digits(9), digits().reshape(10, 4, 16))
    assert len({ArraySource("vision", samples).fingerprint for samples in several}) == 4


@pytest.mark.parametrize(
    ("modality", "samples", "message"),
    [
        ("vision", [], "at least one"),
        ("text", [np.zeros(3, np.int64)], "write them to a .jsonl file"),
        ("vision", [np.zeros((4, 4), np.float32)], r"sample 0 is float32 \[4, 4\].*multiply by 255"),
        ("vision", [np.zeros((4, 4), np.uint8), np.zeros(4, np.uint8)], r"sample 1 is uint8 \[4\]"),
        ("vision", [np.zeros((0, 4), np.uint8)], r"sample 0 is uint8 \[0, 4\]"),
        ("speech", [np.zeros((2, 4), np.float32)], "a clip is one-dimensional"),
        ("speech", [np.zeros(4, np.int32)], "int16 or floating point"),
    ],
)
def test_arrays_that_do_not_fit(modality, samples, message):
    with pytest.raises(DataError, match=message):
        ArraySource(modality, samples)


def test_as_many_names_as_samples():
    with pytest.raises(DataError, match="got 1 names for 10 samples"):
        ArraySource("vision", digits(), names=["a"])


class Squares:
    """A data source in ten lines, as a user would write it."""

    modality = "vision"
    fingerprint = "squares 1"

    def __init__(self, count):
        self.sizes = np.full((count, 2), 16)

    def __len__(self):
        return len(self.sizes)

    def name(self, index):
        return f"square {index}"

    def read(self, index):
        return torch.full((3, 16, 16), index, dtype=torch.uint8)


def test_a_source_of_ones_own(tmp_path, picture_masks):
    inputs = VisionInputs(mean=(0.0,) * 3, std=(1.0,) * 3, jitter=0)
    source = open_source(Squares(8), "vision", inputs, run=tmp_path)
    config = LoaderConfig(batch_size=8)
    with make_loader(source, inputs=inputs, config=config, seed=0, masks=picture_masks, image_size=16) as loader:
        (batch,) = loader.step(0)
    assert torch.allclose(batch.inputs[:, 1, 5, 5] * 255, batch.sample_ids.float(), atol=1e-4)
    assert open_source(Squares(8), "vision", inputs, run=tmp_path) is not source
    with pytest.raises(DataError, match="samples was 8, is 9"):
        open_source(Squares(9), "vision", inputs, run=tmp_path)


def test_sources_that_do_not_fit():
    squares = Squares(4)
    with pytest.raises(DataError, match="data holds vision, the model is made for speech"):
        open_source(squares, "speech", SpeechInputs())
    with pytest.raises(DataError, match="TextInputs does not describe the inputs of modality 'vision'"):
        open_source(squares, "vision", TextInputs())
    squares.sizes = np.full(4, 16)
    with pytest.raises(DataError, match=r"shape \(4,\), expected \(4, 2\)"):
        open_source(squares, "vision", VisionInputs())
    squares.sizes = np.full((4, 2), 16.0)
    with pytest.raises(DataError, match="float64, expected integers"):
        open_source(squares, "vision", VisionInputs())
    with pytest.raises(DataError, match="is empty"):
        open_source(Squares(0), "vision", VisionInputs())
    with pytest.raises(DataError, match="data is a list, neither a path nor a DataSource: it lacks modality, sizes"):
        open_source([1, 2], "vision", VisionInputs())


def test_wrong_paths(tmp_path):
    with pytest.raises(DataError, match="there is nothing at"):
        open_source(tmp_path / "nowhere", "vision", VisionInputs())
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="is a file; vision is read from a folder"):
        open_source(tmp_path / "a.png", "vision", VisionInputs())
    (tmp_path / "empty").mkdir()
    for modality, inputs in (("vision", VisionInputs()), ("speech", SpeechInputs()), ("text", TextInputs())):
        with pytest.raises(DataError, match="is empty; put"):
            open_source(tmp_path / "empty", modality, inputs)


def layouts(sample):
    """The same numbers as people have them."""
    frozen = sample.copy()
    frozen.flags.writeable = False
    wide = np.zeros((*sample.shape, 3), sample.dtype)
    wide[..., 1] = sample
    packed = np.zeros(sample.shape, np.dtype([("pad", np.uint8), ("x", sample.dtype)]))
    packed["x"] = sample
    yield from (sample[::-1].copy()[::-1], frozen, np.asfortranarray(sample), wide[..., 1], packed["x"])
    if sample.dtype.itemsize > 1:
        yield sample.astype(sample.dtype.newbyteorder())


@pytest.mark.filterwarnings("error")
def test_arrays_of_every_layout_give_the_same(picture_masks, clip_masks):
    picture = np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    clip = np.random.default_rng(1).standard_normal(4000).astype(np.float32)
    cases = [("vision", VisionInputs(), picture, picture_masks)]
    cases += [("speech", SpeechInputs(min_seconds=0.1), c, clip_masks) for c in (clip, (clip * 3000).astype(np.int16))]
    for modality, inputs, sample, masks in cases:
        samples = [sample, *layouts(sample)]
        source = ArraySource(modality, samples)
        assert len({ArraySource(modality, [one]).fingerprint for one in samples}) == 1
        config = LoaderConfig(batch_size=len(samples), threads=1)
        plain = inputs if modality == "speech" else VisionInputs(crop_scale=(1, 1), flip=0, jitter=0)
        size = 16 if modality == "vision" else None
        with make_loader(source, inputs=plain, config=config, seed=0, masks=masks, image_size=size) as loader:
            batch = loader.step(0)[0]
        assert batch.skipped == 0
        assert all(torch.equal(row, batch.inputs[0]) for row in batch.inputs)


@pytest.mark.filterwarnings("error")
def test_other_numbers_and_tensors():
    clip = np.random.default_rng(1).standard_normal(4000)
    graph = torch.from_numpy(clip).requires_grad_()
    given = [clip.astype(np.longdouble), clip.astype(np.float16), graph, torch.from_numpy(clip).bfloat16()]
    source = ArraySource("speech", given)
    assert source.sizes.tolist() == [4000] * 4
    for i in range(4):
        read = torch.as_tensor(source.read(i))
        assert not read.requires_grad
        assert np.abs(read.double().numpy() - clip).max() < 0.02


@pytest.mark.parametrize(
    "sample", [np.float32(3), [[1, 2], [3]], None, "text", np.array([object()]), torch.zeros(4).to_sparse(), {"a": 1}]
)
def test_what_makes_no_array_is_named(sample):
    good = np.zeros(100, np.float32)
    with pytest.raises(DataError, match="sample 1 is"):
        ArraySource("speech", [good, sample])


def fails(*arguments):
    raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("name", lambda self, i: i, r"data.name\(0\) is 0, expected a string"),
        ("name", lambda self, i: None, r"data.name\(0\) is None, expected a string"),
        ("name", fails, "the Odd failed: ValueError: no such thing"),
        ("fingerprint", b"squares", "data.fingerprint is b'squares', expected a string"),
        ("fingerprint", None, "data.fingerprint is None, expected a string"),
        ("sizes", np.full((4, 2), -1), "negative numbers; 0 stands for"),
        ("sizes", property(fails), "the Odd failed: ValueError: no such thing"),
        ("lost", "many", "data.lost is 'many', expected a Lost"),
        ("__len__", lambda self: 4.0, "the Odd failed: TypeError"),
        ("__len__", lambda self: -1, "the Odd failed: ValueError"),
    ],
)
def test_members_of_ones_own_that_are_not_what_they_should_be(tmp_path, member, value, message):
    odd = type("Odd", (Squares,), {"__init__": lambda self: None, "sizes": np.full((4, 2), 16), member: value})
    with pytest.raises(DataError, match=message):
        open_source(odd(), "vision", VisionInputs(), run=tmp_path)


@pytest.mark.parametrize("samples", [None, np.array(3.0), torch.tensor(3.0), {1, 2}, iter([])])
def test_what_is_no_list_of_samples(samples):
    with pytest.raises(DataError, match=r"samples are a .*, not a list or an array of them"):
        ArraySource("speech", samples)


def test_a_single_number_is_no_data():
    with pytest.raises(DataError, match="samples are a ndarray, not a list"):
        open_source(np.array(3.0), "speech", SpeechInputs())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (range(10), "name 0 is a int, not a string"),
        ([None] * 10, "name 0 is a NoneType"),
        ((str(i) for i in range(10)), "names are a generator, not a list"),
    ],
)
def test_names_that_are_no_strings(names, message):
    with pytest.raises(DataError, match=message):
        ArraySource("vision", digits(), names=names)


def test_samples_are_held_out_whatever_is_in_their_names(picture_masks):
    inputs = VisionInputs(mean=(0.0,) * 3, std=(1.0,) * 3, jitter=0)
    names = ["\ud800", "\udcff", "a\0b", "a\nb", "", "\udfff x", *"efgh"]
    source = ArraySource("vision", digits(), names=names)
    config = LoaderConfig(batch_size=4, holdout=0.3)
    with make_loader(source, inputs=inputs, config=config, seed=0, masks=picture_masks, image_size=16) as loader:
        assert sum(len(batch.sample_ids) for batch in loader.validation()) == 3
