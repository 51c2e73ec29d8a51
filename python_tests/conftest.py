"""What tests of several rooms share, as fixtures."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # tests share the cores: threads that wait must not take them

import pytest
import torch
from torch import Tensor

from d2v_fast import log

pytest_plugins = ["tiny_runs", "data_zoo", "ranks"]  # of python_tests/fixtures

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(scope="session", autouse=True)
def _away_from_the_source_tree(tmp_path_factory) -> Iterator[None]:
    """Tests start processes; from the root these would import the unbuilt source tree, not the installed package."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.fixture(autouse=True)
def _messages_on_stderr(monkeypatch) -> None:
    """As in a command: pytest has log handlers of its own, for which the library's would step back."""
    monkeypatch.setattr(log.stderr, "always", True)


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request) -> torch.dtype:
    """Every number format that the operations take."""
    return request.param


@pytest.fixture
def threads() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """`with threads(2):` runs torch, and so the kernels, on that many threads."""

    @contextlib.contextmanager
    def use(count: int) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    return use


@pytest.fixture
def no_worse_than() -> Callable[[Tensor, Tensor, Tensor], None]:
    """no_worse_than(ours, torchs, exact): our error is at most twice torch's own plus one unit in the last place.

    `torchs` is plain torch's result of the same dtype, `exact` the float64 one.
    """

    def check(ours: Tensor, torchs: Tensor, exact: Tensor) -> None:
        assert ours.dtype == torchs.dtype
        assert ours.shape == torchs.shape == exact.shape
        assert exact.dtype == torch.float64
        if ours.numel() == 0:
            return
        if ours.dtype == torch.float64:  # the exact result is as far from the truth as ours
            torch.testing.assert_close(ours, exact, rtol=1e-14, atol=1e-14)
            return
        unit = torch.finfo(ours.dtype).eps * exact.abs().max().item() + torch.finfo(ours.dtype).tiny
        error, allowed = (
            (ours.double() - exact).abs().max().item(),
            2 * (torchs.double() - exact).abs().max().item() + unit,
        )
        assert error <= allowed, f"error {error:.3e}, allowed {allowed:.3e}"

    return check


@pytest.fixture(scope="session")
def large_kept() -> Callable[..., int]:
    """large_kept(function, arguments): how many tensors of the first argument's size it keeps for the backward pass."""

    def count(function: Callable[..., Tensor], arguments: list[Tensor]) -> int:
        kept = set()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.add(tensor.data_ptr()) if tensor.numel() == arguments[0].numel() else None,
            lambda nothing: nothing,
        ):
            assert function(*arguments).requires_grad
        return len(kept)

    return count


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_python(code, NAME=value): runs code in a fresh interpreter with these environment variables."""

    def run(code: str, *, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
