"""The loop: optimizer steps, one after the other. Read `Loop.run` from top to bottom; it is all that happens in a run.

The loop knows micro-batches, clipping, steps that are not finite, log lines, checkpoints, signals and that several
processes may share a step. What a step computes is the business of a `Task`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from d2v_fast import rng
from d2v_fast.batch import Batch
from d2v_fast.data import Loader
from d2v_fast.data.deal import Deal
from d2v_fast.errors import Interrupted
from d2v_fast.log import tell
from d2v_fast.run.checkpoint import Checkpoint
from d2v_fast.run.journal import Journal
from d2v_fast.run.metrics import Clock, Window
from d2v_fast.training import out_of_memory
from d2v_fast.training.distributed.feed import Counts, add_up, count, fetch
from d2v_fast.training.distributed.kept import kept_of
from d2v_fast.training.distributed.world import World
from d2v_fast.training.flops import StepFlops, bare_rate
from d2v_fast.training.interrupts import StopSignals
from d2v_fast.training.log_line import ENDS, LogLines
from d2v_fast.training.precision import DTYPES, LossScale, autocast
from d2v_fast.training.prefetch import Prefetch
from d2v_fast.training.schedules import learning_rate
from d2v_fast.training.selection import Selection
from d2v_fast.training.task import Metrics, Settings, Task
from d2v_fast.training.update import Update


class Loop:
    """Runs the steps of a task on one device, or its share of them on one of several.

    Attributes:
        config: The settings of the run.
        task: What a step computes.
        device: Where it computes.
        world: The processes that share the steps; by default this one alone.
        deal: What this process does of each step.
        kept: What this process keeps of the network: all of it, or a part.
        update: The parameters' owner; made anew by `begin`.
        observe: Gives further fields of the log line of a step, counted from 1, which change nothing; None: there are
            none. Its time does not count, and of several processes only the main one asks for them.
    """

    def __init__(
        self,
        config: Settings,
        task: Task,
        device: torch.device,
        world: World | None = None,
        deal: Deal | None = None,
    ) -> None:
        """Nothing is allocated yet.

        Raises:
            ConfigError: The device does not know the number format.
        """
        self.config = config
        self.task = task
        self.device = device
        self.world = world or World()
        self.deal = deal or Deal(config.loader, self.world.rank, self.world.size)
        self.kept = kept_of(task, self.world, config.distributed, config.precision, device)
        self._stop: StopSignals | None = None
        self._autocast = autocast(config.precision, device)
        self._prefetch = Prefetch(device)
        self._flops = None if config.precision.compile else StepFlops()  # of a compiled graph nothing is seen
        self.observe: Callable[[int], Metrics] | None = None
        self.begin()

    def begin(self) -> None:
        """Start with the parameters that the modules have now, as they are: no moments, no counts."""
        self.update = Update(
            self.kept.parameters(),
            self.kept.averages(),
            self.config.optim,
            LossScale(self.config.precision, self.device),
            self.task.rates(),
            one_pass=self.config.numerics >= 3,
            total=self.kept.total,
        )
        self.update.clear()  # an earlier run may have ended between two micro-batches
        self.window = Window(self.device)
        self.selection = Selection(self.task.select())

    def run(self, first: int, loader: Loader, journal: Journal, stop: StopSignals, save: Callable[[int], None]) -> None:
        """Do the steps from number `first`, counted from 0, to the last.

        Whatever ends the run leaves a checkpoint of the last whole step: a signal, an error of the loader, of the task,
        of a log line or of a validation. Only an error while the parameters are written does not.

        Args:
            first: Steps that are done.
            loader: Gives the micro-batches of a step.
            journal: Takes the log lines.
            stop: Notes signals.
            save: Writes the checkpoint of a number of steps done; of several processes all call it.

        Raises:
            RunStopped: The task or the journal says so, no step was finite for a while, or memory ran out.
            ProcessFailed, ProcessLost: Another process could not go on.
            Interrupted: A signal came, to whichever process.
        """
        config, clock, world = self.config, Clock(), self.world
        done = saved = first
        select, self._stop = self.selection, stop
        lines = self._lines(loader)
        self.task.begin(journal.lines.before)
        try:
            if config.steps == 0:  # the start itself, to compare with or to train later
                save(0)
            for n in range(first, config.steps):  # n counts attempted optimizer steps
                with out_of_memory.explained(f"in step {n + 1}"):
                    batches, counts = fetch(world, self.task, loader, n, linked=self.kept.linked)
                    self.step(n, batches, clock, counts)
                done = step = n + 1
                self.update.whole = True  # after the line above: a signal may come between any two
                last = step == config.steps
                journal.display.advance(step)
                problem: BaseException | None = None
                validates = loader.validates and (step % config.log.validate_every == 0 or last)
                if step % config.log.every == 0 or validates or last:
                    problem = lines.write(step, loader, journal, clock, validates=validates)
                better = select.step == step
                ends = last or select.exhausted
                if step % config.checkpoint.every == 0 or ends or better or stop.agreed(world) or problem:
                    saved = step
                    save(step)
                if problem:
                    raise problem
                if select.exhausted:
                    return
                if (signum := stop.agreed(world)) and not last:
                    raise Interrupted(
                        signum,
                        f"{stop.whose(world)}stopped after step {step} of {config.steps}; run the same command again "
                        "to continue",
                    )
        except ENDS as error:
            self.update.clear()
            if not world.ending:  # nobody else knows of it: from here on nothing is done together
                world.part()
            if saved < done and self.update.whole:
                _save_after(error, save, done)
            raise
        finally:
            self.update.end()

    def _lines(self, loader: Loader) -> LogLines:
        def validate() -> Metrics:
            with self._autocast:
                found = self.task.validate(self._prefetch(loader.validation()))
            self.kept.put_away()
            return found

        def peak() -> float:
            return bare_rate(DTYPES[self.config.precision.autocast], self.device)

        return LogLines(
            self.config,
            self.task,
            self.device,
            self.world,
            self.window,
            self.selection,
            validate=validate,
            observe=self.observe,
            linked=self.kept.linked,
            peak=None if self._flops is None else peak,
        )

    def step(self, n: int, batches: Sequence[Batch], clock: Clock, counts: Counts | None = None) -> None:
        """Optimizer step number `n`: forward and backward passes of its micro-batches, and one update.

        Args:
            n: From 0.
            batches: The micro-batches of this process.
            clock: Counts the samples.
            counts: What those of all processes hold; None: there are no others.
        """
        counts = counts or count(self.task, batches)
        held, flops = self.task.held(n), self._flops
        doing = f"in step {n + 1}"
        stopped = [0.0]
        with self.world.together(doing, stopped, linked=self.kept.linked), out_of_memory.explained(doing):
            with contextlib.nullcontext() if flops is None else flops.counted(batches, len(held)):
                loss, means = self.forward_backward(n, batches, counts)
            flat = self.kept.after_passes(self.update, held)
            stopped[0] = 0.0 if self._stop is None or self._stop.received is None else 1.0
        if self._stop is not None and stopped[0]:
            self._stop.hear(self.world, doing)
        self.world.add_all_(flat, doing)
        loss = add_up(self.world, loss, means, doing)
        rate = learning_rate(self.config.optim, n, self.config.steps)
        norm, found_inf = self.update.step(rate, loss, self.task.decay(n), held)
        self.window.add(loss, norm, found_inf, counts.skipped, means)
        clock.add(counts.samples, 0.0 if flops is None else flops.of(batches, len(held)))

    def forward_backward(self, n: int, batches: Sequence[Batch], counts: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradients of step `n`, and its loss, as far as they come from these micro-batches.

        Each part of the loss is a mean over all micro-batches of the step, of all processes. What it counts is known on
        the host before any forward pass, so the gradients of a micro-batch are the final ones: those of a step are the
        sums over micro-batches and processes.

        Args:
            n: From 0.
            batches: The micro-batches of this process.
            counts: What those of all processes hold.

        Returns:
            The loss, float32 [], nan if there was nothing to count; and the mean of each of its parts.
        """
        loss = torch.zeros((), dtype=torch.float32, device=self.device)
        means = {name: torch.zeros_like(loss) for name in counts.losses}
        given = [counts.lent.get(place, batch) for place, batch in enumerate(batches)]
        last = max((place for place, batch in enumerate(given) if len(batch.sample_ids)), default=0)
        for place, batch in enumerate(self._prefetch(given)):
            i, own = self.deal.numbers[place], place not in counts.lent
            if len(batch.sample_ids) == 0:  # none of its samples could be read
                continue
            self.kept.before_pass(last=place == last)
            seed_generators(rng.derive(self.config.seed, "noise", n, i), self.device)
            with self._autocast:
                losses = self.task.losses(batch, n, i)
            shares = []
            for name, part in losses.items():
                mean = part.sum / max(counts.losses[name], 1)
                if own:
                    means[name] += mean.detach()
                shares.append(part.weight * mean)
            share = sum(shares[1:], shares[0])
            self.update.backward(share if own else 0 * share)
            if own:
                loss += share.detach()
        if not any(counts.losses.values()):  # all were unreadable, or too short: like a step that is not finite
            loss.fill_(torch.nan)
        return loss, means

    def tensors(self, doing: str) -> Mapping[str, Mapping[str, Tensor]]:
        """What a checkpoint holds in files of tensors; all processes call it, and the main one has them.

        Args:
            doing: For messages.

        Raises:
            RunStopped, ProcessLost: The others, who have parts of it, cannot be met any more.
        """
        return self.kept.gather(self.task.state() | {"optimizer": self.update.state()}, doing)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside tensors, as JSON can."""
        state = {"window": self.window.state(), "loss_scale": self.update.loss_scale.state()}
        return state | ({} if self.selection.by is None else {"selection": self.selection.state()})

    def load(self, checkpoint: Checkpoint) -> None:
        """Begin with what `tensors` and `state` gave.

        Raises:
            RunError: The checkpoint belongs to another model.
        """
        checkpoint = self.kept.cut_checkpoint(checkpoint, self.task.state())
        self.task.load(checkpoint)
        self.begin()
        if checkpoint.step > 0:  # before the first step there are no moments
            self.update.load_state(checkpoint.tensors("optimizer"), self.task.held(checkpoint.step - 1))
        self.update.loss_scale.load_state(checkpoint.state["loss_scale"])
        self.window.load_state(checkpoint.state["window"])
        self.selection.load_state(checkpoint.state.get("selection", {}))


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of `device`, and no other GPU's."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _save_after(error: BaseException, save: Callable[[int], None], done: int) -> None:
    """Save the steps done before `error`, which will be raised whether or not this works."""
    try:
        save(done)
        tell(f"saved the state after step {done}")
    except Exception as also:
        tell(f"the state after step {done} could not be saved either: {also}")
