"""A training step never waits for the device, shown without one.

Meta tensors have no numbers: whatever the host would have to wait for (`item`, `bool`, `nonzero`, a copy to the CPU)
fails on them. So a trainer on the device "meta" that gets as far as its first log line has waited for nothing before. A
dispatch mode watches the other direction too: copies to the device have to be asynchronous. The same on a real device,
by torch's own sync debug mode, is in python_tests/gpu.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d2v_fast.batch import Batch
from d2v_fast.config import PrecisionConfig
from d2v_fast.models import Data2Vec
from d2v_fast.models import seen as seen_module
from d2v_fast.models.config import TargetConfig
from d2v_fast.training import loop as loop_module
from d2v_fast.training import trainer as trainer_module
from d2v_fast.training.precision import LossScale
from d2v_fast.training.trainer import Data2VecTrainer

META = torch.device("meta")


class HostWaitsError(Exception):
    """Something that would stop the host until the device is done."""


class Watch(TorchDispatchMode):
    """Raises HostWaitsError for transfers that block, and for operators that mix host and device tensors."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        device = [tensor for tensor in tensors if tensor.is_meta]
        host = [tensor for tensor in tensors if tensor.is_cpu]
        if name == "aten::_to_copy":
            to = torch.device(kwargs.get("device", tensors[0].device))
            if to != tensors[0].device and (device or not kwargs.get("non_blocking")):
                raise HostWaitsError(f"a copy from {tensors[0].device} to {to}")
        elif name == "aten::copy_" and device and host:
            raise HostWaitsError("a copy in place between host and device")
        elif device and any(tensor.dim() > 0 or name.startswith("aten::index") for tensor in host):
            raise HostWaitsError(f"{name} mixes tensors of host and device")
        elif device and name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"):
            raise HostWaitsError(name)
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def meta_is_a_device(monkeypatch):
    """autocast, fused and foreach functions know the devices that they serve; meta stands for a GPU here."""
    for name, nothing in (("is_autocast_enabled", False), ("get_autocast_dtype", torch.float32)):
        original = getattr(torch, name)
        monkeypatch.setattr(
            torch, name, lambda kind=None, f=original, n=nothing: n if kind == "meta" else f(*([kind] if kind else []))
        )
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, **o: nullcontext() if kind == "meta" else autocast(kind, **o))
    for module in (loop_module, trainer_module):
        monkeypatch.setattr(module, "autocast", lambda config, device: nullcontext())
    optimizer = import_module("torch.optim.optimizer")
    supported = [*optimizer._get_fused_kernels_supported_devices(), "meta"]
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: supported)
    monkeypatch.setattr(import_module("torch.nn.utils.clip_grad"), "_device_has_foreach_support", lambda device: True)


@contextmanager
def watched():
    """No host waits in here."""
    with pytest.MonkeyPatch.context() as patch, Watch():
        for name in ("tensor", "as_tensor"):  # these copy from memory that is not pinned, below the dispatch mode
            original = getattr(torch, name)

            def make(*args, f=original, device=None, **options):
                if device is not None and torch.device(device).type == "meta":
                    raise HostWaitsError("torch.tensor on the device")
                return f(*args, device=device, **options)

            patch.setattr(torch, name, make)
        yield


@pytest.fixture
def on_meta(make_data, tmp_path, monkeypatch):
    """(configuration, data) to a trainer on the device "meta", with the loss scale of float16."""
    half = PrecisionConfig(autocast="float16")
    monkeypatch.setattr(loop_module, "LossScale", lambda config, device: LossScale(half, device))

    def make(config, data=None) -> Data2VecTrainer:
        data = data or make_data(config.model.modality)
        return Data2VecTrainer(config, data=data, out=tmp_path / "run", device="meta")

    return make


def steps_before_the_host_waits(trainer) -> int:
    steps = []
    step = trainer.loop.step
    trainer.loop.step = lambda *arguments: (step(*arguments), steps.append(1))
    with pytest.raises(HostWaitsError, match="a copy from meta to cpu"), watched():
        trainer.fit()
    return len(steps)


@pytest.mark.parametrize("modality", ["speech", "vision", "text", "speech2", "vision2", "text2"])
def test_nothing_waits_until_a_line_is_logged(make_config, on_meta, modality):
    config = make_config(modality, steps=6, log={"every": 5}, checkpoint={"every": 1000})
    assert steps_before_the_host_waits(on_meta(config)) == 5


@pytest.mark.parametrize(
    ("modality", "lengths"), [("speech", {"loader": {"pad": True}}), ("text", {"inputs": {"packed": False}})]
)
def test_nothing_waits_with_sequences_of_different_lengths(
    make_config, on_meta, make_data, tmp_path, monkeypatch, modality, lengths
):
    corpus, packed = tmp_path / "corpus.txt", []
    corpus.write_text("\n\n".join("a student guesses the part".ljust(26 + n, "!")[: 3 + n] for n in range(20)))
    data = corpus if modality == "text" else make_data(modality)
    original = seen_module.plan_packing
    monkeypatch.setattr(seen_module, "plan_packing", lambda *a: (packed.append(a[0].tolist()), original(*a))[1])
    config = make_config(
        modality, steps=6, log={"every": 5}, checkpoint={"every": 1000}, precision={"attention": "blocks"}, **lengths
    )
    assert steps_before_the_host_waits(on_meta(config, data)) == 5
    assert len(packed) >= 5
    assert all(len(set(each)) > 1 for each in packed)


@pytest.mark.parametrize(
    "wait",
    [
        lambda batch: float(batch.inputs.sum()),
        lambda batch: bool(batch.mask.any()),
        lambda batch: batch.mask.nonzero(),
        lambda batch: batch.inputs[batch.mask.flatten(1).any(1)],
        lambda batch: batch.rows.cpu(),
        lambda batch: batch.inputs + torch.zeros(1).to(batch.inputs.device),
        lambda batch: batch.inputs.index_select(0, torch.tensor([0])),
        lambda batch: batch.inputs * torch.tensor([1.0], device=batch.inputs.device),
        lambda batch: torch.equal(batch.inputs, batch.inputs),
    ],
)
def test_the_watch_sees_every_kind_of_wait(make_config, on_meta, monkeypatch, wait):
    trainer = on_meta(make_config("vision", steps=3, log={"every": 3}))
    seen = []

    def losses(batch, step, micro_batch):
        with pytest.raises((HostWaitsError, NotImplementedError, RuntimeError)) as error:
            wait(batch)
        seen.append(error.type)
        raise HostWaitsError("enough")

    trainer.task.losses = losses
    with pytest.raises(HostWaitsError, match="enough"), watched():
        trainer.fit()
    assert len(seen) == 1


def test_packing_waits_for_nothing(make_config):
    """Lengths are on the host, so the number of valid tokens is known before any kernel ran."""
    config = make_config("text").model
    model = Data2Vec(replace(config, target=TargetConfig(top_k=2, exclude_padding=True))).to(META)
    for encoder in (model.student.encoder, model.teacher):
        encoder.attention = "blocks"
    shapes = []
    model.student.encoder.blocks[0].register_forward_hook(lambda m, inputs, o: shapes.append(list(inputs[0].shape)))
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[:, 1] = True
    tokens = torch.randint(5, 300, (3, 16))
    batch = Batch(
        inputs=tokens,
        masked_inputs=tokens,
        mask=mask,
        rows=torch.tensor([1, 17, 33]),
        lengths=torch.tensor([16, 3, 9]),
        sample_ids=torch.arange(3),
    )
    with watched():
        model(batch.to(META), skipped=(False, False)).loss.backward()
    assert shapes == [[1, 28, 32]]
