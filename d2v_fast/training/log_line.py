"""A log line: what is known about the steps since the one before it, of all processes together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from d2v_fast.data import Loader
from d2v_fast.errors import RunStopped
from d2v_fast.run.journal import Journal
from d2v_fast.run.metrics import NON_FINITE_LIMIT, Clock, Window, finite, peak_memory
from d2v_fast.training import out_of_memory
from d2v_fast.training.distributed.world import World
from d2v_fast.training.schedules import learning_rate
from d2v_fast.training.selection import Selection
from d2v_fast.training.task import Metrics, Settings, Task

ENDS = (Exception, KeyboardInterrupt, SystemExit)
"""What may end a run and leaves time to save it. (Anything else is a process that is being killed.)"""


class LogLines:
    """Writes the lines of a run. With several processes all make the same lines, and the main one writes them.

    Args:
        config: Of the run.
        task: What a step computes.
        device: Where it computes.
        world: The processes.
        window: The sums over the steps since the last line.
        selection: Is told of the validations.
        validate: Computes the metrics of the held-out samples; called in the main process only, unless `linked`.
        linked: Whether a pass needs all processes: then all compute the held-out samples.
        observe: See `Loop.observe`; called in the main process only.
        peak: FLOPs per second of bare matrix products; None: FLOPs are not counted.
    """

    def __init__(
        self,
        config: Settings,
        task: Task,
        device: torch.device,
        world: World,
        window: Window,
        selection: Selection,
        *,
        validate: Callable[[], Metrics],
        observe: Callable[[int], Metrics] | None,
        peak: Callable[[], float] | None,
        linked: bool = False,
    ) -> None:
        self._config, self._task, self._device, self._world = config, task, device, world
        self._window, self._selection = window, selection
        self._validate, self._observe, self._peak, self._linked = validate, observe, peak, linked

    def write(
        self, step: int, loader: Loader, journal: Journal, clock: Clock, *, validates: bool
    ) -> BaseException | None:
        """Write the line of `step`, counted from 1.

        Returns:
            Why the run has to end after it, or None. Also what went wrong while the line was made: so it is not lost.
        """
        config, task, world = self._config, self._task, self._world
        totals = self._window.read()
        doing = f"at the log line of step {step}"
        failure: BaseException | None = None
        found: dict[str, Metrics] = {"monitors": {}, "validation": {}, "observed": {}}
        peak: float | None = None
        try:
            self._look(found, step, clock, doing, validates=validates)
            if self._peak is not None:
                with clock.stopped():
                    peak = self._peak()
        except ENDS as error:
            failure = error
        line: dict[str, Any] = {
            "step": step,
            "epoch": step * config.loader.accumulation / loader.batches_per_epoch,
            **totals.losses,
            **found["validation"],
            "lr": learning_rate(config.optim, step - 1, config.steps),
            **task.log(step - 1),
            "grad_norm": totals.grad_norm,
            **found["monitors"],
            **found["observed"],
            "skipped_samples": totals.skipped_samples,
            "skipped_steps": totals.skipped_steps,
            **clock.read(loader.wait, peak),
            "peak_memory": peak_memory(self._device),
        }
        try:
            if failure is None:
                line |= self._rates(line, doing)
            line = finite(line)
            with world.together(doing):
                journal.record(line)
                if totals.skipped_lately >= NON_FINITE_LIMIT:
                    raise RunStopped(
                        f"step {step}: the last {totals.skipped_lately} steps had no finite loss and gradient. "
                        "Lower optim.lr or lengthen optim.warmup, set optim.clip_norm, or use bfloat16 or float32 "
                        "instead of float16"
                    )
                for warning in task.judge(line, step):
                    journal.display.warn(warning)
        except ENDS as error:
            failure = failure or error
        return failure

    def _look(self, found: dict[str, Metrics], step: int, clock: Clock, doing: str, *, validates: bool) -> None:
        """Put in what is measured for the line, one after the other: an error keeps what was there before it."""
        own: Metrics = {}
        with self._world.together(doing):
            own = self._task.monitors(step - 1)
        found["monitors"] = self._world.mean(own, doing)
        if validates:
            doing = f"in the validation after step {step}"
            with out_of_memory.explained(doing):
                found["validation"] = self._validated(doing)
            self._selection.add(found["validation"], step)
        observe = self._observe
        if observe is not None:
            doing = f"in the probe after step {step}"
            with out_of_memory.explained(doing), clock.stopped():
                found["observed"] = self._world.alone(doing, lambda: observe(step))

    def _validated(self, doing: str) -> Metrics:
        """What the main process has found, in all of them."""
        if not self._linked:
            return self._world.alone(doing, self._validate)
        own: Metrics = {}
        with self._world.together(doing, linked=True):
            own = self._validate()
        return self._world.alone(doing, lambda: own)

    def _rates(self, line: Metrics, doing: str) -> Metrics:
        """What differs between processes, of all of them: FLOPs are added, shares are means."""
        own = {name: line[name] for name in ("data_wait", "flops_per_second", "flops_share")}
        rates = self._world.mean(own, doing)
        each = rates["flops_per_second"]
        return rates | {"flops_per_second": None if each is None else each * self._world.size}
