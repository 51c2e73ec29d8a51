"""The data of a run: its source and its loader, put together from a configuration."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from d2v_fast import registry
from d2v_fast.config import Config
from d2v_fast.config_json import to_dict
from d2v_fast.data import DataSource, Loader, MaskMaker, Openable, mask_stage, open_source
from d2v_fast.data.begun import keep_notes
from d2v_fast.data.deal import Deal
from d2v_fast.data.engines import choice as engines
from d2v_fast.data.loader import choose
from d2v_fast.errors import ConfigError, DataError
from d2v_fast.masking import Masks
from d2v_fast.modalities.base import Modality


def modality_of(config: Config) -> Modality:
    """The modality of a configuration.

    Raises:
        ConfigError: Nobody has registered it.
    """
    modality: Modality = registry.get(config.model.modality)
    return modality


def check_engine(config: Config) -> None:
    """Checks, before anything is read, that the engine which the configuration names is installed.

    Raises:
        ConfigError: It is not.
    """
    decodes = modality_of(config).dali(config.inputs, config.model.embedding) is not None
    try:
        engines.check_engine(config.loader.engine, config.model.modality, decodes=decodes)
    except DataError as error:
        raise ConfigError(str(error)) from error


def open_data(data: Openable, config: Config, run: Path | None, *, thorough: bool = False) -> DataSource:
    """The data of a run; its index is kept in the folder `run`, or in memory.

    Args:
        data: What there is.
        config: Of the run.
        run: Its folder.
        thorough: Compare everything with the index, however large it is.

    Raises:
        DataError: The data cannot be used, or is not what it was when the index was made.
    """
    return open_source(
        data,
        config.model.modality,
        config.inputs,
        embedding=config.model.embedding,
        run=run,
        threads=config.loader.thread_count(gpu=torch.cuda.is_available()),
        allow_roots=config.loader.allow_roots,
        thorough=thorough,
    )


def index_anew(data: Openable, config: Config, run: Path, folder: Path) -> DataSource:
    """The data of a run as it is now; its index is made in another folder. What else the run keeps stays: a tokenizer.

    Args:
        data: What there is now.
        config: Of the run.
        run: Its folder, in which nothing is changed.
        folder: For the index; empty.

    Raises:
        DataError: The data cannot be used.
    """
    modality = modality_of(config)
    modality.carry(run, folder)
    carried = list(folder.iterdir())
    open_data(data, replace(config, inputs=modality.for_features(config.inputs, folder)), folder)
    keep_notes(folder, run, modality.name)
    source = open_data(data, config, folder)  # now with what the configuration says, which may be refused
    for path in carried:
        path.unlink()
    return source


def open_loader(
    config: Config,
    source: DataSource,
    first_step: int = 0,
    device: torch.device | None = None,
    engine: Literal["dali", "native"] | None = None,
    deal: Deal | None = None,
) -> Loader:
    """The batches of a run with their masks, from optimizer step `first_step` on.

    Args:
        config: Of the run.
        source: Its data.
        first_step: The step that will be asked for first.
        device: Where the batches will be used; the CPU by default.
        engine: What decoded when the run was begun; "auto" then means the same.
        deal: What this process does of each step, of several that share it; None: all of it.

    Raises:
        DataError: The source, or the sections `inputs` or `loader`, do not fit.
        ConfigError: The masks do not fit the source.
    """
    modality, embedding = modality_of(config), config.model.embedding
    return Loader(
        source,
        modality.sampling(config.inputs, embedding, config.loader),
        config=config.loader,
        seed=config.seed,
        stages=[mask_stage(_explained(modality.mask_maker(config, source)), keep=config.model.encodes_kept)],
        dali=modality.dali(config.inputs, embedding),
        first_step=first_step,
        device=device,
        engine=engine,
        deal=deal,
        computed=config.numerics >= 5,
        settings=_settings(config),
    )


def choose_samples(config: Config, source: DataSource) -> None:
    """Find out, and keep beside the index, what `open_loader` of each of several processes then reads.

    Raises:
        DataError: See `open_loader`.
    """
    if config.numerics >= 5:
        sampling = modality_of(config).sampling(config.inputs, config.model.embedding, config.loader)
        choose(source, sampling, config.loader, _settings(config))


def _settings(config: Config) -> str:
    """What in a configuration decides which samples take part and how they are cut into batches."""
    said = to_dict(config)
    loader = {name: said["loader"][name] for name in ("batch_size", "batch_seconds", "batch_tokens", "pad", "holdout")}
    return json.dumps([said["inputs"], said["model"]["embedding"], loader], sort_keys=True)


def _explained(make: MaskMaker) -> MaskMaker:
    """The maker with errors that say which section of the configuration they are about."""

    def explained(inputs: Tensor, lengths: Tensor | None, sample_ids: np.ndarray, epoch: int) -> Masks:
        try:
            return make(inputs, lengths, sample_ids, epoch)
        except ValueError as error:
            raise ConfigError(f"mask: {error}") from error

    return explained
