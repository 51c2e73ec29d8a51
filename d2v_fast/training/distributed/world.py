"""The processes of a run, and what they say to each other.

One process without torchrun is a `World` of its own: the same code runs, and none of its methods does anything. Several
processes talk over gloo on the CPU, where a word costs the device nothing, and sum tensors on the device by its own
library (NCCL on CUDA, gloo on a CPU).

Whatever one process alone can know is told at places that all of them come to: `together` for what may go wrong in any
of them, `alone` for what the main process does while the others wait. So all go on or all leave.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from d2v_fast.errors import ConfigError, DataError, ProcessFailed, ProcessLost, RunError
from d2v_fast.log import unmute

T = TypeVar("T")

WAIT = "D2V_FAST_WAIT_SECONDS"
"""Environment variable: seconds that a process waits for the others in the middle of a step, 600 by default."""

_NETWORK = re.compile(r"gloo|nccl|connection (closed|reset)|timed out|broken pipe", re.IGNORECASE)
"""In what torch raises where another process is gone or late; it has no type of its own for it."""

_ENDS = (Exception, KeyboardInterrupt, SystemExit)


class World:
    """The processes of a run, as one of them sees it.

    Attributes:
        rank: Of this process, from 0.
        size: How many there are.
        main: Whether this is the one that writes and speaks.
        ending: Whether all processes know that the run ends now; what follows can still be done together.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, patient: Any = None, seconds: float = 600.0, store: Any = None
    ) -> None:
        """By default the only process there is.

        Args:
            rank: Of this process.
            size: Number of processes; torch's default group has as many.
            patient: A group of them over gloo that waits as long as the main process needs.
            seconds: How long the default group waits.
            store: Where one that has to leave says why, a `torch.distributed.Store` of this start.
        """
        self.rank, self.size, self.main = rank, size, rank == 0
        self.ending = False
        self._patient, self._seconds, self._store = patient, seconds, store
        self._apart = False

    def part(self) -> None:
        """This process has failed in a way that the others do not know of: it does nothing with them any more.

        They find out when it is gone. Until then `alone` does in the main process what it has to do.
        """
        self._apart = True

    @property
    def united(self) -> bool:
        """Whether there are several processes that still do things together."""
        return self.size > 1 and not self._apart

    @contextlib.contextmanager
    def together(self, doing: str, numbers: list[float] | None = None, *, linked: bool = False) -> Iterator[None]:
        """Around what each process does and may fail in: at the end either all go on, or all leave.

        Args:
            doing: For messages, such as "in step 3".
            numbers: Filled within the context, as many in every process; behind it they are the sums over all. (One
                float64 each: exact for whole numbers below 2**53.)
            linked: The processes also meet within the context, as FSDP makes them. One that fails there cannot come to
                its end: it leaves, the others find its connection closed and read why, and nothing is saved any more.

        Raises:
            ProcessFailed: Another process failed, and this one did not. (If this one did, its own error.)
            ProcessLost: Another process is gone, or did not come in time.
        """
        if self.size == 1:
            yield
            return
        error: BaseException | None = None
        try:
            yield
        except _ENDS as problem:
            if linked:
                reason = self._leave(problem, doing)
                if reason is problem:
                    raise
                raise reason from problem
            error = problem
        own = [0.0] * len(numbers or ()) if error is not None else list(numbers or ())
        sums = torch.tensor([float(error is not None), *own], dtype=torch.float64, device="cpu")
        with self.waiting(doing):
            dist.all_reduce(sums)
        failed, *rest = sums.tolist()
        if failed:
            reasons = self.gather(None if error is None else _told(error), doing)
            self.ending = True
            if error is not None:
                raise error
            rank, reason = next((rank, reason) for rank, reason in enumerate(reasons) if reason is not None)
            raise ProcessFailed(f"process {rank} of {self.size} failed {doing}: {reason}")
        if numbers is not None:
            numbers[:] = rest

    def alone(self, doing: str, function: Callable[[], T]) -> T:
        """What the main process does while the others wait, and its result in all of them.

        Args:
            doing: For messages, such as "while the checkpoint was written".
            function: Called in the main process only.

        Returns:
            What it returned; in the others as JSON can say it.

        Raises:
            ProcessFailed: It failed in the main process, which raises its own error.
            ProcessLost: The main process is gone.
        """
        if self.size == 1:
            return function()
        if self._apart:
            return function() if self.main else None  # type: ignore[return-value]  # nobody goes on with it
        result: Any = None
        error: BaseException | None = None
        if self.main:
            try:
                result = function()
            except _ENDS as problem:
                error = problem
        said = None if error is None else _told(error)
        answer = self._from_main({"error": said, "result": result if _plain(result) else None}, doing)
        if answer["error"] is None:
            return result if self.main else answer["result"]
        self.ending = True
        raise error or ProcessFailed(f"process 0 of {self.size} failed {doing}: {answer['error']}")

    def gather(self, value: Any, doing: str) -> list[Any]:
        """What each process says, by rank. For what is rare: it costs three messages.

        Args:
            value: As JSON can say it.
            doing: For messages.
        """
        if self.size == 1:
            return [value]
        own = _encoded(value)
        with self.waiting(doing):
            longest = torch.tensor([len(own)], device="cpu")
            dist.all_reduce(longest, dist.ReduceOp.MAX)
            rows = [torch.zeros(int(longest), dtype=torch.uint8, device="cpu") for _ in range(self.size)]
            padded = torch.zeros_like(rows[0])
            padded[: len(own)] = own
            dist.all_gather(rows, padded)
        return [json.loads(row.numpy().tobytes().rstrip(b"\0")) for row in rows]

    def mean(self, own: Mapping[str, float | None], doing: str) -> dict[str, float | None]:
        """The means over the processes that have a number, by name; None where none of them has one.

        Args:
            own: The same names in every process.
            doing: For messages.
        """
        if self.size == 1:
            return dict(own)
        known = {name: value for name, value in own.items() if value is not None and value == value}  # no nan
        numbers = [known.get(name, 0.0) for name in own] + [float(name in known) for name in own]
        with self.together(doing, numbers):
            pass
        sums, counts = numbers[: len(own)], numbers[len(own) :]
        return {name: total / count if count else None for name, total, count in zip(own, sums, counts, strict=True)}

    def same(self, value: Any, what: str) -> None:
        """Refuse to go on where a process has another value than the main one.

        Args:
            value: As JSON can say it.
            what: It is, for messages.

        Raises:
            ConfigError: In the processes that differ.
            ProcessFailed: In the others.
        """
        if self.size == 1:
            return
        first = self._from_main(value, f"at the comparison of {what}")
        with self.together(f"at the comparison of {what}"):
            if json.loads(json.dumps(value)) != first:
                raise ConfigError(
                    f"{what} of process {self.rank} on {socket.gethostname()} is {value!r}, and that of process 0 "
                    f"{first!r}: all processes must have the same"
                )

    def add_(self, tensor: Tensor, doing: str) -> None:
        """Put the sum over all processes into a tensor on the device of the run: the same bits in every process."""
        if self.size > 1:
            with self.waiting(doing):
                dist.all_reduce(tensor)

    def add_all_(self, tensors: list[Tensor], doing: str) -> None:
        """The same for several tensors, one after the other, as far as the library can at the same time."""
        if self.size > 1:
            with self.waiting(doing):
                for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                    work.wait()

    def lend(self, batch: T | None, source: int, doing: str) -> T:
        """What one process has, in all of them.

        Args:
            batch: Of tensors on the CPU; in the process `source` not None.
            source: The rank of the process that has it.
            doing: For messages.
        """
        box = [batch]
        with self.waiting(doing):
            dist.broadcast_object_list(box, source, device=torch.device("cpu"))
        assert box[0] is not None
        return box[0]

    def _leave(self, error: BaseException, doing: str) -> BaseException:
        """Part from processes that are in the middle of something; what is to be raised."""
        self.part()
        lost = isinstance(error, RuntimeError) and _NETWORK.search(str(error)) is not None
        own = "" if lost else f"process {self.rank} of {self.size} failed {doing}: {_told(error)}"
        first = ""
        with contextlib.suppress(RuntimeError):  # the process that keeps the store may be the one that is gone
            first = self._store.compare_set("d2v_fast/left", "", own).decode()
        if first not in ("", own):
            return ProcessFailed(first)
        return self._lost(error, doing) if lost else error

    def _from_main(self, value: Any, doing: str) -> Any:
        """What the main process says, in all of them."""
        own = _encoded(value if self.main else None)
        with self.waiting(doing):
            length = torch.tensor([len(own)], device="cpu")
            dist.broadcast(length, 0, group=self._patient)
            said = own if self.main else torch.zeros(int(length), dtype=torch.uint8, device="cpu")
            dist.broadcast(said, 0, group=self._patient)
        return json.loads(said.numpy().tobytes())

    @contextlib.contextmanager
    def waiting(self, doing: str) -> Iterator[None]:
        """Around calls of torch.distributed: what they raise becomes a word about the processes.

        Raises:
            ProcessLost: Another process is gone, or did not come in time.
        """
        try:
            yield
        except RuntimeError as error:  # gloo has no type of its own for it
            raise self._lost(error, doing) from error

    def _lost(self, error: BaseException, doing: str) -> ProcessLost:
        self.ending = False
        if self.rank == 1:  # the main process may be the one that is missing: then nobody would say it
            unmute()
        late = "timed out" in str(error).lower() or "timeout" in str(error).lower()
        why = f"they did not come within {self._seconds:g} s ({WAIT})" if late else "one of them is gone"
        return ProcessLost(
            f"process {self.rank} of {self.size} waited for the others {doing}, but {why}; the same command "
            "continues the run from its last checkpoint"
        )


def _told(error: BaseException) -> str:
    """An error in a line."""
    said = " ".join(str(error).split())
    if said and isinstance(error, (ConfigError, DataError, RunError, OSError)):  # which explain themselves
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _plain(value: Any) -> bool:
    try:
        _encoded(value)
    except (TypeError, ValueError):
        return False
    return True


def _encoded(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value, default=float).encode()), dtype=torch.uint8)
