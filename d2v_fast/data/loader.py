"""The loader: the batches of each optimizer step, made ahead of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Literal

import numpy as np
import torch

from d2v_fast.batch import Batch
from d2v_fast.data.computed import ComputedPlan
from d2v_fast.data.config import LoaderConfig
from d2v_fast.data.deal import Deal, EmptyPiece
from d2v_fast.data.engines.choice import check_engine, choose_engine, make_engine
from d2v_fast.data.engines.engine import Made
from d2v_fast.data.holding import split
from d2v_fast.data.plan import BatchPlan, Plan
from d2v_fast.data.protocol import DaliGraph, Sampling
from d2v_fast.data.selection import Selection, keep_selection, kept_selection, select
from d2v_fast.data.skipped import Known, Skipped
from d2v_fast.data.source import DataSource
from d2v_fast.data.stages import Stage
from d2v_fast.errors import DataError, SampleError, failed
from d2v_fast.log import tell


class Loader:
    """The micro-batches of each optimizer step, as a pure function of (source, configuration, seed, step).

    Micro-batches are counted on over epochs: step n takes micro-batches n * accumulation and the following ones, and
    an epoch ends where the count passes a multiple of `batches_per_epoch`.

    A sample that cannot be read is named once on stderr and left out: its batch shrinks, maybe to nothing, and nothing
    else shifts. More of them than `config.max_skipped` allows are an error.

    Args:
        source: Where samples come from.
        sampling: How a sample becomes an input.
        config: How samples become batches.
        seed: Of the run.
        stages: Add masks, labels to a batch; called from a worker thread.
        dali: Makes the modality's part of NVIDIA DALI's engine; None where there is nothing to decode.
        first_step: The step that will be asked for first; its batches are begun at once.
        device: Where the batches will be used; the CPU by default.
        engine: What "auto" was when a run that continues was begun.
        weights: float64 [N], how often each sample of the source is drawn, relative to the others; see `Plan`.
        computed: Compute the order of an epoch place by place; False: as runs with `numerics` below 5 have it. With
            weights it is drawn as a whole in any case.
        settings: What besides the samples decides which of them take part and how they are cut into batches, in words:
            with these, what is found out is kept beside the index of the source. "": it is not.
        deal: What this process does of each step, of several that share it; None: all of it.

    Raises:
        DataError: A setting or the source does not fit, or too few samples are left.
        TooManySkipped: More samples are known to be unreadable than `config.max_skipped` allows.
    """

    def __init__(
        self,
        source: DataSource,
        sampling: Sampling,
        *,
        config: LoaderConfig,
        seed: int,
        stages: Sequence[Stage] = (),
        dali: Callable[[], DaliGraph] | None = None,
        first_step: int = 0,
        device: torch.device | None = None,
        engine: Literal["dali", "native"] | None = None,
        weights: np.ndarray | None = None,
        computed: bool = True,
        settings: str = "",
        deal: Deal | None = None,
    ) -> None:
        self._config = config
        self._deal = deal or Deal(config)
        check_engine(config.engine, source.modality, decodes=dali is not None)
        self._plan: Plan | ComputedPlan
        self._held_out: Plan | ComputedPlan | None
        if computed and weights is None:
            chosen = choose(source, sampling, config, settings, keep=self._deal.rank == 0)
            self._broken = Skipped(source, chosen.known, config.max_skipped)
            left_out, remarks = chosen.left_out, chosen.remarks
            self._plan = chosen.plan(chosen.train, source.sizes, sampling, config.accumulation, seed)
            held = chosen.held_out
            self._held_out = None if held is None else chosen.plan(held, source.sizes, sampling, 1, seed)
        else:
            usable = _usable(source, sampling)
            self._broken = Skipped(source, Known.of(source.sizes, usable), config.max_skipped)
            left_out = len(source) - len(usable)
            remarks = tuple(sampling.remarks(np.asarray(source.sizes), len(usable)))
            train, held_out = split(source, usable, config.holdout)
            chances = None if weights is None else weights[train]
            self._plan = Plan(source.sizes, train, sampling, config, seed, chances)
            self._held_out = Plan(source.sizes, held_out, sampling, config, seed) if len(held_out) else None
        self.left_out: int = left_out
        """Samples that take no part, such as clips that are too short."""
        for remark in remarks:
            tell(remark)
        self.batches_per_epoch: int = self._plan.batches_per_epoch
        """Micro-batches in an epoch."""
        self.steps_per_epoch: int = max(1, self.batches_per_epoch // config.accumulation)
        """Optimizer steps in an epoch, rounded down."""
        self.skipped = 0
        """Samples missing from the batches handed out so far, each as often as it was to be in one."""
        self.handed_out = 0
        """Samples of the batches handed out so far, those that were skipped included."""
        self.unshared: dict[int, SampleError] = {}
        """What this process, of several, could not read since it was last asked by `share`."""
        self.wait = 0.0
        """Seconds that `step` has waited for batches so far."""
        self._coming: dict[int, list[Future[Made]]] = {}
        self._closed = False
        device = device or torch.device("cpu")
        self.engine = choose_engine(config.engine, source, device, engine, decodes=dali is not None)
        """What decodes."""
        threads = config.thread_count(gpu=device.type == "cuda")
        self._engine = make_engine(self.engine, source, sampling, stages, threads, device, dali)
        self._request(first_step)

    @property
    def validates(self) -> bool:
        """Whether `validation` gives anything."""
        return self._held_out is not None

    def epoch(self, step: int) -> int:
        """The epoch in which optimizer step `step` begins."""
        return step * self._config.accumulation // self.batches_per_epoch

    def step(self, n: int) -> list[Batch]:
        """This process's micro-batches of optimizer step `n`; cheapest in order, but any step can be asked for.

        Of several processes each keeps what it could not read in `unshared`, until all are told by `share`.

        Raises:
            TooManySkipped: More samples cannot be read than `max_skipped` allows.
            DataError: Reading failed in an unexpected way.
            RuntimeError: The loader is closed.
        """
        if self._closed:
            raise RuntimeError("the loader is closed")
        began = time.perf_counter()
        self._request(n)
        try:
            made = [_result(future) for future in self._coming.pop(n)]
        finally:
            self.wait += time.perf_counter() - began
        self._request(n + 1)
        return [self._hand_over(one, shared=self._deal.world > 1) for one in made]

    def share(self, failures: Mapping[int, SampleError], handed_out: int) -> None:
        """Take note of what all processes together could not read, the same in each of them.

        Args:
            failures: By sample id; those of this process included.
            handed_out: Samples handed out so far by all of them.

        Raises:
            TooManySkipped: See `step`.
        """
        self.unshared = {}
        self._broken.add(failures, handed_out)

    def validation(self) -> Iterator[Batch]:
        """All held-out samples, each once, with the same crops, windows and masks every time.

        Of several processes one asks for them.
        """
        plans = iter(self._held_out.in_order() if self._held_out else ())
        coming = [self._engine.begin(partial(_same, plan)) for plan in islice(plans, 2)]
        try:
            while coming:
                made = coming.pop(0).result()
                coming += [self._engine.begin(partial(_same, plan)) for plan in islice(plans, 1)]
                batch = self._hand_over(made, shared=False)
                if len(batch.sample_ids):
                    yield batch
        finally:
            for future in coming:
                future.cancel()

    def close(self) -> None:
        """Stops the threads; batches that were being made are dropped."""
        self._closed = True
        self._drop(list(self._coming))
        self._engine.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, n: int) -> None:
        """Sees to it that the steps from n on that are to be ready ahead are being made, and no others."""
        wanted = range(n, n + self._config.steps_ahead(self._deal.world))
        self._drop([step for step in self._coming if step not in wanted])
        for step in wanted:
            if step not in self._coming:
                parts = [(step, *self._deal.part(number)) for number in self._deal.numbers]
                self._coming[step] = [self._engine.begin(partial(self._planned, *part)) for part in parts]

    def _planned(self, step: int, micro_batch: int, piece: int) -> BatchPlan:
        return self._deal.cut(self._plan.batch(self._plan.step(step)[micro_batch]), piece)

    def _drop(self, steps: list[int]) -> None:
        for step in steps:
            for future in self._coming.pop(step):
                future.cancel()

    def _hand_over(self, made: Made, *, shared: bool) -> Batch:
        self.skipped += len(made.failures)
        self.handed_out += len(made.batch.sample_ids) + len(made.failures)
        if shared:
            self.unshared |= made.failures
        else:
            self._broken.add(made.failures, self.handed_out)
        return made.batch


def choose(
    source: DataSource, sampling: Sampling, config: LoaderConfig, settings: str, *, keep: bool = True
) -> Selection:
    """Which samples take part and how they are cut into batches: as an earlier start has found, or anew.

    Args:
        source: See `Loader`, as for the arguments that follow.
        sampling: See `Loader`.
        config: See `Loader`.
        settings: See `Loader`.
        keep: Write what is found anew beside the index.

    Raises:
        DataError: See `Loader`.
        TooManySkipped: See `Loader`.
    """
    kept = kept_selection(source, settings)
    if kept is not None:
        return kept
    usable = _usable(source, sampling)
    Skipped(source, Known.of(source.sizes, usable), config.max_skipped)  # raises where too many are broken
    found = select(source, usable, sampling, config)
    if keep:
        keep_selection(found, source, settings)
    return found


def _result(future: Future[Made]) -> Made:
    """The batch; one without samples where there are fewer than there are pieces."""
    try:
        return future.result()
    except EmptyPiece:
        nothing = torch.zeros(0, dtype=torch.int64, device="cpu")
        return Made(Batch(inputs=nothing.float(), sample_ids=nothing), {})


def _same(plan: BatchPlan) -> BatchPlan:
    return plan


def _usable(source: DataSource, sampling: Sampling) -> np.ndarray:
    """The samples that take part.

    Raises:
        DataError: There is none, or none can be read.
    """
    sizes = np.asarray(source.sizes)
    try:
        return sampling.usable(sizes)
    except DataError:
        if not sizes.any():  # none has a length; the reason is another one
            _read_first(source)
        raise


def _read_first(source: DataSource) -> None:
    """Says why none of the samples can be read, by the first one.

    Raises:
        DataError: The first one cannot be read.
    """
    try:
        source.read(0)
    except Exception as error:
        problem = failed(getattr(source, "label", source.name)(0), error)
        raise DataError(f"data: none of the {len(source):,} samples can be read; the first: {problem}") from problem
