"""The training loop, from the first batch to the last checkpoint: read `Data2VecTrainer._train` from top to bottom."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from d2v_fast import __version__, rng
from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.config_json import to_dict
from d2v_fast.data import DataSource, Loader, Openable
from d2v_fast.errors import ConfigError, DataError, Interrupted, RunError, RunStopped, TooManySkipped
from d2v_fast.log import tell
from d2v_fast.modalities import check_engine, open_data, open_loader
from d2v_fast.models import Data2Vec, skipped_blocks
from d2v_fast.models.data2vec import Data2VecOutput
from d2v_fast.ops.packing import to_device
from d2v_fast.run.checkpoint import Checkpoint
from d2v_fast.run.directory import RunDirectory, evidence
from d2v_fast.run.journal import Journal, open_journal
from d2v_fast.run.metrics import Clock, Window, finite
from d2v_fast.run.monitors import effective_rank, mean_std
from d2v_fast.run.weights import fill, load_student
from d2v_fast.training.heap import keep_freed_memory
from d2v_fast.training.interrupts import StopSignals
from d2v_fast.training.optimizer import Optimizer
from d2v_fast.training.precision import LossScale, autocast, check_attention
from d2v_fast.training.schedules import ema_decay, learning_rate


class Data2VecTrainer:
    """Pretrains the student-teacher pair of a configuration on one device.

    Everything that decides the bits of a run is in `config` and the data: the weights, the order of samples, the crops,
    the masks and the noise are functions of the seed and the step. So an interrupted run continues with the same bits.

    Attributes:
        config: The configuration.
        out: The run's folder.
        model: The pair being trained.
        device: Where it is trained.
    """

    def __init__(
        self,
        config: Config,
        *,
        data: Openable,
        out: str | Path,
        init_from: str | Path | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        """Build the model and the optimizer; nothing is read or written yet.

        Args:
            config: What to train and how.
            data: A folder, a file, or an object of one's own (`d2v_fast.data.DataSource`).
            out: The run's folder, new or of an earlier start of this run.
            init_from: A run (or one of its checkpoints) whose student weights a new run starts from.
            device: "cpu", "cuda", ...; by default a GPU if there is one.

        Raises:
            ConfigError: A field has a value that cannot be used on this device.
            DataError: The engine that `loader.engine` names is not installed, or there is nothing at `data`.
            RunError: `init_from` cannot be read or belongs to another model.
        """
        check_engine(config)
        self.config = config
        self.data = data
        self.out = Path(out)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._autocast = autocast(config.precision, self.device)
        check_attention(config, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.derive(config.seed, "weights"))
            try:
                self.model = Data2Vec(config.model)  # on the CPU: the same weights for every device
            except ValueError as error:
                raise ConfigError(f"model: {error}") from error
        # A run that has checkpoints continues with its own weights; what it once began from may be gone.
        if init_from is not None and evidence(self.out.expanduser()) is None:
            load_student(self.model, init_from)
        self.model.to(self.device).train()
        for encoder in (self.model.student.encoder, self.model.teacher):
            encoder.checkpoint_activations = config.precision.checkpoint_activations
            encoder.attention = config.precision.attention
        if config.precision.compile:
            self.model.compile()
        self._optimizer = Optimizer(self.model.student.named_parameters(), config.optim)
        self._loss_scale = LossScale(config.precision, self.device)
        self._window = Window(self.device)
        self._trained = False

    def fit(self, resume: Literal["auto", "never", "must"] = "auto") -> Path:
        """Train up to `config.steps`, from the newest checkpoint if there is one.

        A run that grows (`steps` larger than before) follows the schedule of its new length from there on.

        Args:
            resume: "auto" continues a run that is there and begins one that is not; "never" refuses a folder with a
                run; "must" refuses one without a checkpoint.

        Returns:
            The run's folder.

        Raises:
            RunError: The folder is in use, holds another run, or cannot be continued.
            DataError: The data cannot be used, or is not what the run was begun with.
            RunStopped: The run collapsed, had no finite step for a while, or the disk is full.
            Interrupted: SIGINT or SIGTERM came; a checkpoint was written first.
        """
        if resume not in ("auto", "never", "must"):
            raise ValueError(f"resume must be 'auto', 'never' or 'must', got {resume!r}")
        config = self.config
        with RunDirectory(self.out) as run:
            last = run.last_checkpoint(config, resume)
            if last is None and self._trained:
                raise RunError("this trainer has trained before it had a checkpoint to go back to: make a new one")
            source = self._open(run, last)
            first = 0 if last is None else self._restore(last)
            run.write_config(config)
            if last is not None and first < config.steps:
                tell(f"continuing {run.path} after step {first} of {config.steps}", logging.INFO)
            if first >= config.steps:
                tell(
                    f"{run.path} is complete: {first} of {config.steps} steps are done. Raise steps to go on.",
                    logging.INFO,
                )
                return run.path
            engine = None if last is None else last.state.get("engine")
            with (
                open_journal(run, config, first, 0 if last is None else last.state["metrics_bytes"]) as journal,
                open_loader(config, source, first, self.device, engine) as loader,
                StopSignals() as stop,
                torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []),
            ):
                data = {"fingerprint": source.fingerprint, "engine": loader.engine}
                self._train(first, loader, run, journal, stop, data)
            tell(f"finished {run.path}: {config.steps} steps", logging.INFO)
        return run.path

    def _train(
        self, first: int, loader: Loader, run: RunDirectory, journal: Journal, stop: StopSignals, data: dict[str, str]
    ) -> None:
        config, clock, self._trained = self.config, Clock(), True
        for n in range(first, config.steps):  # n counts attempted optimizer steps
            try:
                batches = loader.step(n)
            except TooManySkipped:  # the files may come back, or be given up for lost: no step is to be done again
                if n > first:
                    self._save(run, n, journal.lines.sync(), data)
                raise
            # The mean over the masked positions of the whole step: their number is known on the host before any forward
            # pass. (With several processes this is the number to sum over them.)
            rows = sum(Data2Vec.counts(batch)["regression"] for batch in batches)
            skipped = self._skipped_blocks(n)
            loss, output = torch.zeros((), device=self.device), None
            for i, batch in enumerate(batches):
                if len(batch.sample_ids) == 0:  # none of its samples could be read
                    continue
                torch.manual_seed(rng.derive(config.seed, "noise", n, i))  # dropout and drop path
                output = self._forward(batch.to(self.device), skipped)
                share = output.losses["regression"].sum / max(rows, 1)
                (share * self._loss_scale.value).backward()
                loss += share.detach()
            if rows == 0:  # every sample was unreadable, or too short to mask: a step like one that is not finite
                loss.fill_(torch.nan)

            lr, decay = learning_rate(config.optim, n, config.steps), ema_decay(config.ema, n)
            grad_norm, found_inf = self._optimizer.step(lr, loss, self._loss_scale.value)
            self._loss_scale.update(found_inf)
            # Once per optimizer step, after it; a skipped step leaves the teacher alone, too.
            keep = torch.full((), decay, dtype=torch.float64, device=self.device).masked_fill_(found_inf > 0, 1.0)
            self.model.update_teacher(keep)

            self._window.add(loss, grad_norm, found_inf, sum(batch.skipped for batch in batches))
            clock.add(sum(len(batch.sample_ids) for batch in batches))
            step, done = n + 1, n + 1 == config.steps
            journal.display.advance(step)

            problem: RunStopped | None = None
            validates = config.loader.holdout > 0 and (step % config.log.validate_every == 0 or done)
            if step % config.log.every == 0 or validates or done:
                line: dict[str, Any] = {
                    "step": step,
                    "epoch": step * config.loader.accumulation / loader.batches_per_epoch,
                }
                values, skipped_in_row = self._window.read()
                line |= values | {"lr": lr, "ema_decay": decay} | _monitors(output)
                if validates:
                    line["validation_loss"] = self._validation_loss(loader)
                line = finite({name: line[name] for name in FIELDS if name in line} | clock.read(loader.wait))
                problem = journal.record(line, skipped_in_row)

            if step % config.checkpoint.every == 0 or done or stop.received or problem:
                self._save(run, step, journal.lines.sync(), data)
            if problem:
                raise problem
            if stop.received and not done:
                raise Interrupted(
                    stop.received,
                    f"stopped after step {step} of {config.steps}; run the same command again to continue",
                )

    def _skipped_blocks(self, step: int) -> tuple[bool, ...] | Tensor | None:
        """The blocks that layer drop skips in this step, as `Data2Vec.forward` takes them."""
        skipped = skipped_blocks(self.config.model.transformer, self.config.seed, step)
        if skipped is None or not self.config.precision.compile:
            return skipped
        return to_device(torch.tensor(skipped), self.device)

    def _forward(self, batch: Batch, skipped: tuple[bool, ...] | Tensor | None = None) -> Data2VecOutput:
        """One forward pass in the configured precision."""
        with self._autocast:
            output: Data2VecOutput = self.model(
                batch, skipped=skipped, teacher_autocast=not self.config.precision.teacher_float32
            )
        return output

    @torch.no_grad()
    def _validation_loss(self, loader: Loader) -> float:
        """Mean loss over the masked positions of the held-out part, without dropout, with the same masks each time."""
        self.model.eval()
        total, rows = torch.zeros((), device=self.device, dtype=torch.float64), 0
        for batch in loader.validation():
            total += self._forward(batch.to(self.device)).losses["regression"].sum
            rows += Data2Vec.counts(batch)["regression"]
        self.model.train()
        return float(total) / rows if rows else float("nan")

    def _open(self, run: RunDirectory, last: Checkpoint | None) -> DataSource:
        """The data source; refuses data that is not what the checkpoint was trained on."""
        try:
            source = open_data(self.data, self.config, run.path)
        except DataError:
            if last is not None or not run.forget_index():  # of other data, left by a start that trained nothing
                raise
            source = open_data(self.data, self.config, run.path)
        if last is not None and last.state["fingerprint"] != source.fingerprint:
            raise RunError(
                f"the data is not what {run.path} was trained on (fingerprint {last.state['fingerprint']} then, "
                f"{source.fingerprint} now): give the same data, or start a new run in another folder with --init-from"
            )
        return source

    def _save(self, run: RunDirectory, step: int, metrics_bytes: int, data: dict[str, str]) -> None:
        tensors = {
            "student": self.model.student.state_dict(),
            "teacher": self.model.teacher.state_dict(),
            "optimizer": self._optimizer.state(),
        }
        state = {
            **data,
            "metrics_bytes": metrics_bytes,
            "window": self._window.state(),
            "loss_scale": self._loss_scale.state(),
            "config": to_dict(self.config),
            "torch": torch.__version__,
            "d2v_fast": __version__,
        }
        run.save(step, tensors, state, self.config.checkpoint.keep)

    def _restore(self, last: Checkpoint) -> int:
        """Put a checkpoint's state in place; the number of steps done."""
        fill(self.model.student, last, "student")
        fill(self.model.teacher, last, "teacher")
        self._optimizer.load_state(last.tensors("optimizer"))
        self._window.load_state(last.state["window"])
        self._loss_scale.load_state(last.state["loss_scale"])
        return last.step


FIELDS = (
    "step",
    "epoch",
    "loss",
    "validation_loss",
    "lr",
    "ema_decay",
    "grad_norm",
    "local_std",
    "pred_std",
    "target_std",
    "pred_rank",
    "target_rank",
    "skipped_samples",
    "skipped_steps",
)
"""Fields of a line of metrics.jsonl, in order; samples_per_second and data_wait follow. No finite value: null."""


def _monitors(output: Data2VecOutput | None) -> dict[str, float | None]:
    """Standard deviations and effective ranks of one micro-batch, if there was one; one transfer from the device."""
    names = ("local_std", "pred_std", "target_std", "pred_rank", "target_rank")
    if output is None:
        return dict.fromkeys(names)
    values: list[Tensor] = [mean_std(z).double() for z in (output.local, output.prediction, output.target)]
    values += [effective_rank(z) for z in (output.prediction, output.target)]
    return dict(zip(names, torch.stack(values).tolist(), strict=True))
