"""Where the time of a training step goes, part by part, beside what the machine's matrix products could do."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from d2v_fast import ops
from d2v_fast.errors import ConfigError, DataError
from d2v_fast.modalities import open_data, open_loader
from d2v_fast.report import plots
from d2v_fast.run.metrics import Clock
from d2v_fast.training.flops import bare_rate, counter
from d2v_fast.training.precision import DTYPES, own_modes, products, tensor_float32
from d2v_fast.training.trainer import Data2VecTrainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = ("loading", "embed", "teacher", "targets", "student", "loss", "backward", "update", "rest")
"""In the order of a step. "loading": waiting for the loader, which works ahead in threads; "embed": local features of
the student; "teacher": its blocks, and its embedding if it has one of its own; "rest": everything between the
others."""


@dataclass(frozen=True)
class Profile:
    """What was measured."""

    seconds: dict[str, float]
    """Of each of `PARTS`, the median over the steps; wall time."""

    flops: dict[str, float]
    """Of the matrix products of each part, of the first step."""

    peak: float
    """FLOPs per second of bare matrix products in the run's number format, in the same process."""

    samples: float
    """Samples of a step."""

    threads: int
    """Of torch."""

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())

    @property
    def share(self) -> float:
        """FLOPs of a step by the FLOPs that bare products make in the same time."""
        return sum(self.flops.values()) / self.step / self.peak

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Part, milliseconds, share of the step, GFLOP, share of the bare products' rate; then the whole step."""
        table = [(part, self.seconds[part], self.flops[part]) for part in PARTS]
        table.append(("step", self.step, sum(self.flops.values())))
        return [
            (
                name,
                f"{seconds * 1e3:.2f}",
                f"{seconds / self.step:.1%}",
                f"{flops / 1e9:.2f}" if flops else "",
                f"{flops / seconds / self.peak:.0%}" if flops else "",
            )
            for name, seconds, flops in table
        ]

    def summary(self) -> str:
        """One line."""
        return (
            f"{self.samples / self.step:.1f} samples/s; matrix products at {self.share:.0%} of the "
            f"{self.peak / 1e9:.0f} GFLOP/s of bare ones, {self.threads} thread(s)"
        )


class _Account:
    """What a quantity grew by while each part was at work; of parts inside of others, the innermost counts."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now, self._working, self._last = now, ["rest"], now()
        self.totals = dict.fromkeys(PARTS, 0.0)

    def _settle(self) -> None:
        now = self._now()
        self.totals[self._working[-1]] += now - self._last
        self._last = now

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._settle()
        self._working.append(name)
        try:
            yield
        finally:
            self._settle()
            self._working.pop()

    def end(self) -> dict[str, float]:
        self._settle()
        return self.totals


def profile(trainer: Data2VecTrainer, rounds: int = 5) -> Profile:
    """Trains some steps without saving anything; the trainer cannot be used afterwards.

    Args:
        trainer: A run that has not begun.
        rounds: Steps that are measured, after one that counts FLOPs and one that warms up.

    Raises:
        ConfigError: The run compiles its blocks, whose parts cannot be told apart.
        DataError: The data cannot be used.
        RunStopped: Memory ran out.
    """
    config, device, loop = trainer.config, trainer.device, trainer.loop
    if config.precision.compile:
        raise ConfigError("precision.compile: compiled blocks have no parts that can be timed; set it to False")
    source = open_data(trainer.data, config, None)

    def seconds() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    times: list[dict[str, float]] = []
    samples = 0
    with (
        own_modes(device),
        tensor_float32(config.precision, device),
        products(config.numerics),
        open_loader(config, source, device=device) as loader,
    ):
        for number in range(rounds + 2):
            with contextlib.ExitStack() as stack:
                now = stack.enter_context(counter()).get_total_flops if number == 0 else seconds
                account = _Account(now)
                _watch(trainer, account, stack)
                with account.part("loading"):
                    batches = loader.step(number)
                loop.step(number, batches, Clock())
                totals = account.end()
            if number == 0:
                flops = totals
            elif number > 1:
                times.append(totals)
                samples += sum(len(batch.sample_ids) for batch in batches)
        if not samples:
            raise DataError("no sample of these steps can be read")
        peak = bare_rate(DTYPES[config.precision.autocast], device)
    median = {part: statistics.median(one[part] for one in times) for part in PARTS}
    return Profile(median, flops, peak, samples / rounds, torch.get_num_threads())


def _watch(trainer: Data2VecTrainer, account: _Account, stack: contextlib.ExitStack) -> None:
    """Puts functions that tell the account in the place of those that begin a part, until the stack is closed."""
    model = trainer.model
    student = "predict_hidden" if trainer.config.model.encodes_kept else "predict_masked"
    places: list[tuple[Any, str, str]] = [
        (model.student.encoder, "embed", "embed"),
        (model.teacher, "embed", "teacher"),
        (model.teacher, "forward_layers", "teacher"),
        (ops, "layer_targets", "targets"),
        (model.student, student, "student"),
        (model, "_distance", "loss"),
        (trainer.loop.update, "backward", "backward"),
        (trainer.loop.update, "step", "update"),
    ]
    for owner, name, part in places:
        function = getattr(owner, name)
        own = name in vars(owner)  # else it is the class's, and comes back when the instance's is gone

        def watched(*arguments: Any, _function: Any = function, _part: str = part, **options: Any) -> Any:
            with account.part(_part):
                return _function(*arguments, **options)

        setattr(owner, name, watched)
        stack.callback(setattr, owner, name, function) if own else stack.callback(delattr, owner, name)


def draw(result: Profile, title: str) -> Figure:
    """Bars of the parts, each with its share of the step and of the bare products' rate."""
    figure = plots.figure(8, 3.6)
    axes = figure.add_subplot()
    for place, (name, _, share, _, rate) in enumerate(result.rows()[:-1]):
        milliseconds = result.seconds[name] * 1e3
        axes.barh(place, milliseconds, color=plots.COLOURS[place % len(plots.COLOURS)])
        axes.text(
            milliseconds, place, f" {share}" + (f", {rate} of bare products" if rate else ""), va="center", fontsize=8
        )
    axes.set_yticks(range(len(PARTS)), PARTS)
    axes.invert_yaxis()
    axes.margins(x=0.4)
    axes.set(title=f"{title}: {result.summary()}", xlabel="milliseconds of a step")
    axes.title.set_fontsize(9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
