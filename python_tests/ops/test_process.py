"""The kernels in a process: threads, forks, one OpenMP runtime, and the instruction set that is asked for."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from d2v_fast import _C

# Every CPU operation once, on seeded data; `results` is what they gave.
CALLS = """
import torch
from d2v_fast import _C, ops

def call():
    generator = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=generator)
    results = []
    teacher, shadow = [randn(200_000), randn(7)], [torch.zeros(200_000).half(), torch.zeros(7).bfloat16()]
    ops.ema_update_(teacher, [randn(200_000).bfloat16(), randn(7).half()], 0.9, shadow)
    results += teacher + shadow
    layers = [randn(2, 200, 200) for _ in range(3)]
    rows = torch.arange(0, 400, 3)
    for norms in (("instance", None), ("layer", "layer"), ("batch", "layer"), (None, None)):
        results.append(ops.layer_targets(layers, rows, layer_norm=norms[0], final_norm=norms[1]))
    for beta in (0.0, 0.5):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            pred = randn(2, 200, 200).to(dtype).requires_grad_()
            loss = ops.masked_smooth_l1(pred, randn(rows.numel(), 200), rows, beta=beta)
            results += [loss.detach(), torch.autograd.grad(3 * loss, pred)[0]]
    return results
"""

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self")


@linux
def test_threads_are_torchs_and_are_obeyed(run_python):
    code = (
        CALLS
        + """
import json, os, re

def started():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(1)
before = started()
one = call()
after_one = started()
torch.set_num_threads(2)
two = call()
after_two = started()
maps = open("/proc/self/maps").read()
runtimes = sorted(set(re.findall(r"\\S*lib[gi]omp\\S*", maps)))
print(json.dumps([before, after_one, after_two, runtimes, all(torch.equal(a, b) for a, b in zip(one, two))]))
"""
    )
    done = run_python(code, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    before, after_one, after_two, runtimes, same = json.loads(done.stdout)
    assert after_one == before, "one thread: nobody else is woken"
    assert after_two > after_one, "two threads: the team exists"
    assert len(runtimes) == 1, f"one OpenMP runtime in the process, not {runtimes}"
    assert same


@linux
def test_after_a_fork_the_kernels_run_serially_and_agree(run_python):
    """The parent's team of threads does not exist in the child: waiting for it would hang for ever."""
    code = (
        CALLS
        + """
import os, signal, warnings

torch.set_num_threads(2)
expected = call()
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    signal.alarm(20)
    status = 3
    try:
        torch.set_num_threads(1)  # torch's own operations hang here without it
        again = call()
        same = all(a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()
                   for a, b in zip(again, expected) if a.dtype != torch.bfloat16)
        teacher, student, ones, zeros = (torch.full((1000, 400), value) for value in (0.0, 1.0, 1.0, 0.0))
        layers = [torch.ones(2, 400, 400)]
        torch.set_num_threads(2)  # ours are asked for two threads and must not take them
        before = len(os.listdir("/proc/self/task"))  # torch itself has started one
        ops.ema_update_([teacher], [student], 0.5)
        loss = ops.masked_smooth_l1(zeros, ones, beta=1.0)
        ops.layer_targets(layers)
        found = same, teacher[0, 0].item(), loss.item(), len(os.listdir("/proc/self/task")) - before
        print(found, flush=True)
        status = 0 if found == (True, 0.5, 200.0, 0) else 4
    finally:
        os._exit(status)
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""
    )
    done = run_python(code, OMP_NUM_THREADS="2")
    assert done.returncode == 0, f"the child ended with {done.returncode} (242: it hung)\n{done.stdout}{done.stderr}"


def test_instruction_sets_agree(run_python, tmp_path):
    code = CALLS + "\nprint(_C.isa())\ntorch.save(call(), PATH)"
    results = {}
    for name in _C.instruction_sets.split(","):
        name = name.strip()
        path = tmp_path / f"{name}.pt"
        done = run_python(f"PATH = {str(path)!r}\n" + code, D2V_FAST_ISA=name)
        if done.returncode != 0 and "this processor cannot run it" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == name
        results[name] = torch.load(path)
    assert "baseline" in results
    assert _C.isa() in results
    for name, tensors in results.items():
        for ours, plain in zip(tensors, results["baseline"], strict=True):
            # Fused multiply-adds and other orders of summation: the last places may differ.
            tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}.get(ours.dtype, 2 * torch.finfo(ours.dtype).eps)
            torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def test_an_unknown_instruction_set_is_refused_at_import(run_python):
    done = run_python("import d2v_fast.ops", D2V_FAST_ISA="sse9")
    assert done.returncode != 0
    assert "D2V_FAST_ISA=sse9" in done.stderr
    assert "baseline" in done.stderr, "the names that exist are part of the message"
