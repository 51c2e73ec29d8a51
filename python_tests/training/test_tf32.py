"""TensorFloat-32: set while a run trains on CUDA, and put back. (What it changes: benchmarks/tf32_targets.py.)"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback

import pytest
import torch

from d2v_fast.config import PrecisionConfig
from d2v_fast.training import fit as fit_module
from d2v_fast.training.precision import tensor_float32
from d2v_fast.training.trainer import Data2VecTrainer

CUDA = torch.device("cuda", 0)


def settings():
    """What can be read of torch's settings, by both of its interfaces."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    places = (matmul, cudnn.conv, cudnn.rnn, torch.backends.mkldnn.matmul, torch.backends)
    values = {f"new {i}": place.fp32_precision for i, place in enumerate(places)}
    readers = {
        "matmul": lambda: matmul.allow_tf32,
        "cudnn": lambda: cudnn.allow_tf32,
        "precision": torch.get_float32_matmul_precision,
    }
    for name, read in readers.items():
        try:
            values[name] = read()
        except RuntimeError:  # torch's answer where the two interfaces disagree
            continue
    return values


STATES = {
    "torch's own": "",
    "on, old interface": "torch.backends.cuda.matmul.allow_tf32 = True",
    "off, old interface": "torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False",
    "on, new interface": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "off, new interface": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "on everywhere": "torch.backends.fp32_precision = 'tf32'",
    "high": "torch.set_float32_matmul_precision('high')",
    "medium": "torch.set_float32_matmul_precision('medium')",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_the_settings_hold_in_the_scope_and_come_back():
    """In processes that nothing else has touched: what one interface has set the other cannot undo completely."""
    ended = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{len(STATES)} states\n", "")


def try_every_state():
    """Each in a child of this process, which has set nothing; a child that fails prints its traceback."""
    for state in STATES.values():
        child = os.fork()
        if child == 0:
            try:
                exec(state)
                hold_and_come_back()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.waitpid(child, 0)
    print(f"{len(STATES)} states")


def hold_and_come_back():
    before = settings()
    for on in (True, False):
        with tensor_float32(PrecisionConfig(tf32=on), CUDA):
            inside = settings()
            assert all((inside[f"new {i}"] == "tf32") == on for i in range(3)), (on, inside)
            assert inside["matmul"] is on, inside
        after = settings()
        assert all(after[name] == value for name, value in before.items()), (on, before, after)


def test_other_devices_are_left_alone():
    before = settings()
    with tensor_float32(PrecisionConfig(), torch.device("cpu")):
        assert settings() == before


@pytest.mark.parametrize("tf32", [True, False])
def test_a_run_trains_in_the_scope(make_config, make_data, tmp_path, monkeypatch, tf32):
    seen = []
    monkeypatch.setattr(fit_module, "tensor_float32", lambda config, device: tensor_float32(config, CUDA))
    config = make_config("vision", steps=1, precision={"tf32": tf32})
    trainer = Data2VecTrainer(config, data=make_data("vision"), out=tmp_path / "run")
    losses = trainer.task.losses
    trainer.task.losses = lambda *a: (seen.append(torch.backends.cuda.matmul.allow_tf32), losses(*a))[1]
    before = settings()
    trainer.fit()
    assert set(seen) == {tf32}
    assert settings() == before


if __name__ == "__main__":
    try_every_state()
