"""How a process that torchrun has started finds the others."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import socket
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from d2v_fast import launch
from d2v_fast.errors import ConfigError, ProcessLost
from d2v_fast.log import mute
from d2v_fast.training.distributed.world import WAIT, World

_FOR_THE_MAIN = timedelta(days=30)
"""How long the others wait for what the main process does alone, such as a first index. If it dies they see it."""

_GIVE_UP_SECONDS = 0.3

_joined: list[World] = []


def joined(device: str | torch.device | None = None) -> tuple[World, torch.device]:
    """The processes that this one was started with by torchrun, and the device of this one.

    The first call joins them, later ones give the same world. What this process would tell is muted from then on unless
    it is the main one.

    Args:
        device: "cpu", "cuda", ...; by default a GPU if there is one, of several the one for this process.

    Raises:
        ConfigError: There are fewer GPUs than processes on this machine.
        ProcessLost: The others did not come.
    """
    wanted = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if launch.size() == 1:
        return World(), wanted
    if wanted.type == "cuda" and wanted.index is None:
        if launch.local_rank() >= torch.cuda.device_count():
            raise ConfigError(
                f"there are {launch.local_size()} processes on {socket.gethostname()} and {torch.cuda.device_count()} "
                "GPUs: start as many processes as there are GPUs (torchrun --nproc-per-node)"
            )
        wanted = torch.device("cuda", launch.local_rank())
    if not _joined:
        _joined.append(_join(wanted))
    return _joined[0], wanted


def _join(device: torch.device) -> World:
    seconds = float(os.environ.get(WAIT, 600))
    if (threads := launch.threads()) is not None:
        torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if launch.rank() != 0:
        mute()
    if dist.is_initialized():
        raise ConfigError(
            "torch.distributed is in use already, by a group that d2v_fast has not made: leave init_process_group out "
            "of the script"
        )
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=seconds)))
        store = dist.PrefixStore(meet(store, rank, size, seconds), store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=seconds))
        patient = dist.new_group(backend="gloo", timeout=_FOR_THE_MAIN)
        # All are connected before one goes on: one that left at once would take the store from those that still join.
        dist.all_reduce(torch.zeros(1, device="cpu"))
    except (RuntimeError, ValueError) as error:
        raise ProcessLost(f"process {launch.rank()} of {launch.size()} did not meet the others: {error}") from error
    world = World(rank, size, patient, seconds, store)
    atexit.register(_leave, world)
    return world


def meet(store: Any, rank: int, size: int, seconds: float) -> str:
    """A word that the processes of this start have in common, and no others before them.

    torchrun keeps one store over its restarts, in which what processes said that are dead may still be read (and its
    count of restarts is each machine's own). So everybody says a new word of his own, the first process answers it with
    the common one, and knows by that who has come.

    Args:
        store: Where words are left, a `torch.distributed.Store`.
        rank: Of this process.
        size: Number of processes.
        seconds: How long to wait.

    Raises:
        ProcessLost: Some did not come; the message says which.
    """
    own = secrets.token_hex(8)
    if rank > 0:
        store.set(f"d2v_fast/hello/{rank}", own)
        store.wait([f"d2v_fast/welcome/{own}"], timedelta(seconds=seconds))
        common = str(store.get(f"d2v_fast/welcome/{own}").decode())
        store.set(f"d2v_fast/here/{common}/{rank}", "")
        return common
    missing, heard = set(range(1, size)), dict[int, bytes]()
    until = time.monotonic() + seconds
    while missing:
        if time.monotonic() > until:
            names = ", ".join(map(str, sorted(missing)[:8]))
            raise ProcessLost(f"of {size} processes these did not come within {seconds:g} s ({WAIT}): {names}")
        for other in sorted(missing):
            if store.check([f"d2v_fast/hello/{other}"]):
                word = store.get(f"d2v_fast/hello/{other}")
                if heard.get(other) != word:
                    heard[other] = word
                    store.set(f"d2v_fast/welcome/{word.decode()}", own)
            if store.check([f"d2v_fast/here/{own}/{other}"]):
                missing.discard(other)
        time.sleep(0.02)
    return own


def _leave(world: World) -> None:
    """Close the connections, unless somebody may be waiting on them for a process that has failed.

    gloo's threads give up the tensors of the last sums when they next get the interpreter. One that gets it only while
    it ends aborts the process (torch 2.14; seen with sharded weights, whose groups outlive their closing), so they are
    given time first.
    """
    time.sleep(_GIVE_UP_SECONDS)
    if world.united and not world.ending and dist.is_initialized():
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
