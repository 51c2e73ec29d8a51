"""The public face of pretraining: the loop with the pretraining task, on one device."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import torch

from d2v_fast.config import Config
from d2v_fast.data import DataSource, Loader, Openable
from d2v_fast.data.deal import Deal
from d2v_fast.data.source import check_given
from d2v_fast.errors import ConfigError
from d2v_fast.modalities import check_engine, index_anew, modality_of, open_data, open_loader
from d2v_fast.modalities.opening import choose_samples
from d2v_fast.models import Data2Vec
from d2v_fast.models.targets import counts_padding
from d2v_fast.run.evidence import evidence, folder_of
from d2v_fast.run.settings import Notes
from d2v_fast.run.weights import load_student
from d2v_fast.training.distributed.join import joined
from d2v_fast.training.fit import Engine, Fit, Resume
from d2v_fast.training.loop import Loop
from d2v_fast.training.observer import Observer
from d2v_fast.training.out_of_memory import explained
from d2v_fast.training.precision import autocast, check_attention, own_modes, settled
from d2v_fast.training.pretraining_task import PretrainingTask
from d2v_fast.training.task import Metrics


class Data2VecTrainer:
    """Pretrains the student-teacher pair of a configuration on one device, or under torchrun on several.

    Everything that decides the bits of a run is in `config` and the data: the weights, the order of samples, the crops,
    the masks and the noise are functions of the seed and the step. So an interrupted run continues with the same bits.

    Attributes:
        data: What it is trained on.
        out: The run's folder.
        device: Where it is trained.
        task: What a step computes.
        loop: The steps.
    """

    def __init__(
        self,
        config: Config,
        *,
        data: Openable,
        out: str | Path,
        init_from: str | Path | None = None,
        device: str | torch.device | None = None,
        notes: Notes | None = None,
        probe: Observer | None = None,
    ) -> None:
        """Build the model; nothing is read or written yet, and no setting of the process is changed.

        Args:
            config: What to train and how.
            data: A folder, a file, or an object of one's own (`d2v_fast.data.DataSource`).
            out: The run's folder, new or of an earlier start of this run.
            init_from: A run (or one of its checkpoints) whose student weights a new run starts from, or weights of
                another library (`interop.foreign`).
            device: "cpu", "cuda", ...; by default a GPU if there is one; under torchrun the one for this process.
            notes: What config.json says beside the configuration, if it comes from a preset.
            probe: Adds numbers about the model to log lines (`d2v_fast.evaluation.ProbeDuring`); no bit of the run
                depends on it.

        Raises:
            ConfigError: A field has a value that cannot be used on this device.
            DataError: `data` is empty.
            RunError: `init_from` cannot be read or belongs to another model.
            RunStopped: The model does not fit into the device's memory.
        """
        check_given(data)
        check_engine(config)
        self.data = data
        self.out = Path(out)
        world, self.device = joined(device)
        config = settled(config, self.device, self.out)
        if probe is not None and config.distributed.shard and world.size > 1:
            raise ConfigError(
                "distributed.shard and a probe while training do not work together: the main process computes a probe "
                "alone, and has only a part of the weights. Leave one of them out"
            )
        deal = Deal(config.loader, world.rank, world.size, may_cut=may_cut(config))
        autocast(config.precision, self.device)  # refuses a format that the device does not know
        check_attention(config, self.device)
        with explained("while the model was built"), own_modes(self.device):
            self.task = PretrainingTask(config)
            # A run that has checkpoints continues with its own weights; what it once began from may be gone.
            if init_from is not None and evidence(folder_of(self.out)) is None:
                load_student(self.task.model, init_from)
            self.task.to(self.device)
            self.loop = Loop(config, self.task, self.device, world, deal)
        self._probe = probe
        if probe is not None:
            self.loop.observe = self._observed
        self._fit = Fit(
            self.loop,
            self.out,
            partial(open_data, data, config),
            self._open_loader,
            notes,
            partial(index_anew, data, config),
        )

    @property
    def config(self) -> Config:
        """What is trained and how; with the rules (`Config.numerics`) of the run that it continues."""
        return cast(Config, self.loop.config)

    @property
    def model(self) -> Data2Vec:
        """The pair being trained."""
        return self.task.model

    def fit(self, resume: Resume = "auto", *, data_changed: bool = False) -> Path:
        """Train up to `config.steps`, from the newest checkpoint if there is one.

        A run that grows (`steps` larger than before) follows the schedule of its new length from there on.
        SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 stop the run after the current step, which is saved; so is the last
        whole step when anything else ends it. Torch's random state and its TF32 settings are put back at the end.

        Args:
            resume: "auto" continues a run that is there and begins one that is not; "never" refuses a folder with a
                run; "must" refuses one without a checkpoint.
            data_changed: The data has grown or changed since the run began: it is looked at anew, and the run goes on
                with it. Weights, moments and the step stay. Data that has not changed is only told to be so.

        Returns:
            The run's folder.

        Raises:
            RunError: The folder is in use, holds another run, or cannot be continued.
            DataError: The data cannot be used, or is not what the run was begun with.
            RunStopped: The run collapsed, had no finite step for a while, or memory or disk are full.
            Interrupted: One of these signals came; a checkpoint was written first.
        """
        return self._fit(resume, data_changed)

    def _observed(self, step: int) -> Metrics:
        """The numbers of the probe, if one of its steps is among those since the log line before."""
        assert self._probe is not None
        due = step // self._probe.every > max(0, step - self.config.log.every) // self._probe.every
        return self._probe(self.model) if due or step == self.config.steps else {}

    def _open_loader(self, source: DataSource, first: int, engine: Engine | None) -> Loader:
        probe = self._probe
        if probe is not None:
            ready = partial(probe.begin, self.config, self.out, self.device)
            self.loop.world.alone("when the probe was made ready", ready)
        if self.loop.world.size > 1:  # else each would look at all samples
            chosen = partial(choose_samples, self.config, source)
            self.loop.world.alone("when it chose the samples", chosen)
        return open_loader(self.config, source, first, self.device, engine, self.loop.deal)


def may_cut(config: Config) -> bool:
    """Whether a sample comes to the same in any part of its micro-batch.

    Not where targets are normalised over the batch, or over the padding up to its longest sample.
    """
    target = config.model.target
    if "batch" in target.layer_norm + target.final_norm:
        return False
    modality = modality_of(config)
    padded = config.loader.pad if modality.pads else modality.budget_field is not None
    return not (padded and counts_padding(config.model))
