"""Each process keeps its part of weights, teacher and moments; torch's FSDP2 brings the rest for a pass, by blocks.

A part is some rows of a parameter: those of torch.chunk along its first dimension. The update works on these parts with
the kernels that otherwise work on whole tensors: AdamW and the moving average look at each number alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from d2v_fast.config import PrecisionConfig
from d2v_fast.errors import RunStopped
from d2v_fast.modules.block import Block
from d2v_fast.run.checkpoint import Checkpoint
from d2v_fast.training.distributed.whole import Files, Network, Whole
from d2v_fast.training.distributed.world import World
from d2v_fast.training.precision import DTYPES
from d2v_fast.training.update import Averages, Update


class Shards(Whole):
    """What one of several processes keeps of a network, which is cut when this is made."""

    linked = True

    def __init__(self, task: Network, world: World, precision: PrecisionConfig, device: torch.device) -> None:
        """Cut the network of a task, which is the same in every process.

        Args:
            task: Its network is called for each pass, and its blocks in the same order in every process.
            world: The processes.
            precision: In `autocast` the blocks' matrices are sent; what else there is stays in float32.
            device: Where it computes.
        """
        super().__init__(task, world)
        self.total = self._norm
        self._network = network = task.network
        # Names are what stays: cutting makes new parameters.
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        trained = [(name, names[id(parameter)]) for name, parameter in task.parameters()]
        found = task.averages()
        followed = None if found is None else [[names[id(one)] for one in tensors] for tensors in found]
        _cut(network, precision, init_device_mesh(device.type, (world.size,)))
        placed = dict(network.named_parameters())
        parts = {name: nn.Parameter(_part(one), requires_grad=one.requires_grad) for name, one in placed.items()}
        self._placed: dict[str, Any] = {name: placed[own] for name, own in trained}
        self._parts = {name: parts[own] for name, own in trained}
        self._averages: Averages | None = None
        if followed is not None:
            averages, sources = ([cast(Tensor, parts[own]) for own in part] for part in followed)
            self._averages = Averages(averages, sources)

    def parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """This process's part of each trained parameter, by the names of the task."""
        return self._parts.items()

    def averages(self) -> Averages | None:
        """Its part of the moving averages and of what they follow."""
        return self._averages

    def before_pass(self, *, last: bool) -> None:
        """Sums over processes are made in the last backward pass of a step."""
        for module in _sharded(self._network):
            module.set_requires_gradient_sync(last, recurse=False)

    def after_passes(self, update: Update, held: Collection[str]) -> list[Tensor]:
        """FSDP has put the sums beside its parameters: those of this process's parts. Nothing is left to sum."""
        for name, part in self._parts.items():
            placed = self._placed[name]
            part.grad = None if placed.grad is None else _part(placed.grad)
            placed.grad = None
        return []

    def _norm(self, own: Tensor) -> Tensor:
        square = own.double().square()
        self._world.add_(square, "when the gradient's norm was summed")
        return square.sqrt().to(own.dtype)

    def put_away(self) -> None:
        """Keep no more than the own part."""
        assert isinstance(self._network, FSDPModule)
        self._network.reshard()

    def check(self, update: Update, doing: str) -> None:
        """Nobody has the same."""
        return

    def gather(self, files: Files, doing: str) -> Files:
        """Whole tensors of the parts that all processes have, one after the other; the others keep none of them.

        Raises:
            RunStopped: The processes do not meet any more.
            ProcessLost: One of them is gone.
        """
        if not self._world.united:
            raise RunStopped(
                "each process has a part of it (distributed.shard), and they do not meet any more; the run goes on "
                "from its last checkpoint"
            )
        whole: dict[str, dict[str, Tensor]] = {name: {} for name in files}
        for file, tensors in files.items():
            for name, value in tensors.items():
                with self._world.waiting(doing):
                    full = self._spread(name, value)
                if self._world.main:
                    whole[file][name] = full.detach().cpu()
        return whole

    def _spread(self, name: str, value: Tensor) -> Tensor:
        kind, _, of = name.partition(".")
        if not isinstance(value, DTensor) and kind in ("exp_avg", "exp_avg_sq"):
            like = self._placed[of]
            value = DTensor.from_local(
                value, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
            )
        return value.full_tensor() if isinstance(value, DTensor) else value

    def cut_checkpoint(self, checkpoint: Checkpoint, files: Files) -> Checkpoint:
        """The rows that are this process's; see `Whole.cut_checkpoint`."""
        return _Cut(checkpoint.folder, checkpoint.step, checkpoint.state, files, self._placed)


@dataclass(frozen=True)
class _Cut(Checkpoint):
    files: Files
    placed: Mapping[str, Tensor]

    def tensors(self, name: str) -> dict[str, Tensor]:
        own, found = self.files.get(name, {}), {}
        for key, value in super().tensors(name).items():
            kind, _, of = key.partition(".")
            like = own.get(key) if name != "optimizer" else None if kind == "step" else self.placed.get(of)
            cut = value
            if isinstance(like, DTensor) and like.shape == value.shape:
                local = value.to(like.device)
                cut = distribute_tensor(local, like.device_mesh, like.placements, src_data_rank=None)
            found[key] = _part(cut) if name == "optimizer" and isinstance(cut, DTensor) else cut
        return found


def _cut(network: nn.Module, precision: PrecisionConfig, mesh: Any) -> None:
    """The matrices of a block are brought together; the rest of the network once for both passes, in its own format."""
    # What a block's feed-forward network returns is a view for torch, and the block writes nothing into it.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor", UserWarning)
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    trained = [block for block in blocks if any(one.requires_grad for one in block.parameters())]
    for block in blocks:
        exact = precision.teacher_float32 and block not in trained
        number = torch.float32 if exact else DTYPES[precision.autocast]
        policy = MixedPrecisionPolicy()
        if number != torch.float32:
            policy = MixedPrecisionPolicy(param_dtype=number, reduce_dtype=torch.float32, cast_forward_inputs=False)
        fully_shard([block.attention, block.ffn], mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh)
    for block in trained[:1]:  # whose backward pass would bring what was used before it, the teacher's last block
        _sharded(block.attention)[0].set_modules_to_backward_prefetch(_sharded(network)[:1])
    for module in _sharded(network):
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        module.set_gradient_divide_factor(1.0)


def _sharded(network: nn.Module) -> list[FSDPModule]:
    return [module for module in network.modules() if isinstance(module, FSDPModule)]


def _part(tensor: Any) -> Tensor:
    """The memory of this process's part."""
    part: Tensor = tensor.detach().to_local()
    return part
