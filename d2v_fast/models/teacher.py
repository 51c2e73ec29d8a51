"""The teacher: a copy of the student's encoder that shares some parameters with it and averages the rest."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import Tensor, nn

from d2v_fast.models.encoder import Encoder

_SHARED = {"all": (), "transformer": ("embedding",), "layers": ("embedding", "positions")}
"""`TeacherConfig.averages` -> the parts of an encoder that the teacher does not average."""


def teacher_of(encoder: Encoder, averages: str) -> Encoder:
    """A copy of `encoder`, without gradient and in eval mode, that shares with it what is not averaged."""
    shared = _SHARED[averages]
    # deepcopy takes what is in its memo instead of copying it.
    memo = {id(value): value for name, value in encoder.named_parameters() if name.split(".")[0] in shared}
    teacher = copy.deepcopy(encoder, memo)
    for value in teacher.parameters():
        if id(value) not in memo:
            value.requires_grad_(False)
    return teacher.eval()


class Pairs:
    """Which parameter of the teacher follows which of the student: found by name, and kept.

    Parameter objects may be replaced at any time: by `load_state_dict(assign=True)`, `to_empty` or a parametrization.
    So the lists are valid for the objects that they were made from, which are compared at each use.
    """

    def __init__(self, averages: str) -> None:
        """See `TeacherConfig.averages`."""
        self._averages = averages
        self._seen: list[Tensor] = []
        self._teacher: list[Tensor] = []
        self._student: list[Tensor | tuple[nn.Module, str]] = []

    def __deepcopy__(self, memo: object) -> Pairs:
        """The copied pair has other parameters."""
        return Pairs(self._averages)

    def __reduce__(self) -> tuple[type[Pairs], tuple[str]]:
        """Likewise for a pair that is pickled."""
        return Pairs, (self._averages,)

    def match(self, teacher: Encoder, student: Encoder) -> tuple[list[Tensor], list[Tensor]]:
        """The teacher's own parameters and what they follow; a tied parameter appears once.

        What is shared is the student's parameter again afterwards, and what is averaged has memory of its own, whatever
        was replaced. A weight that the student computes (a parametrization) is followed as it is used.

        Raises:
            RuntimeError: a parameter of the teacher has no counterpart in the student.
        """
        if not self._is_valid(teacher, student):
            self._teacher, self._student = [], []
            self._mend(teacher, student)
            self._find(teacher, student)
            self._seen = [*_parameters(teacher), *_parameters(student)]
        return self._teacher, [one if isinstance(one, Tensor) else getattr(*one) for one in self._student]

    def _is_valid(self, teacher: Encoder, student: Encoder) -> bool:
        now = [*_parameters(teacher), *_parameters(student)]
        return len(now) == len(self._seen) and all(map(_is, now, self._seen))

    def _mend(self, teacher: Encoder, student: Encoder) -> None:
        """Share what is to be shared, and nothing else."""
        modules, copies = dict(student.named_modules()), dict[int, nn.Parameter]()
        for path, module in teacher.named_modules():
            shared = path.split(".")[0] in _SHARED[self._averages]
            for name, own in module._parameters.items():
                theirs = modules[path]._parameters.get(name) if path in modules else None
                if own is None or theirs is None:
                    continue
                if shared:
                    module._parameters[name] = theirs
                elif own.untyped_storage()._cdata == theirs.untyped_storage()._cdata:
                    copied = copies.setdefault(id(own), nn.Parameter(theirs.detach().clone(), requires_grad=False))
                    module._parameters[name] = copied

    def _find(self, teacher: Encoder, student: Encoder) -> None:
        """Buffers are no part of it: the only ones, index tables, never change."""
        source = dict(student.named_parameters(remove_duplicate=False))
        mine = {id(value) for value in source.values()}
        for name, value in teacher.named_parameters():
            path, _, leaf = name.rpartition(".")
            if value is source.get(name):
                continue
            if name not in source and (id(value) in mine or not _has(student, path, leaf)):
                raise RuntimeError(
                    f"the teacher's parameter {name} has nothing to follow in the student, whose parameters have "
                    "changed: change the teacher's part, too (it is shared, or parametrized itself)"
                )
            self._teacher.append(value)
            self._student.append(source[name] if name in source else (student.get_submodule(path), leaf))


def _is(one: object, other: object) -> bool:
    return one is other


def _has(student: nn.Module, path: str, leaf: str) -> bool:
    try:
        module = student.get_submodule(path)
    except AttributeError:
        return False
    return isinstance(getattr(module, leaf, None), Tensor)


def _parameters(module: nn.Module) -> Iterator[Tensor]:
    """Like `module.parameters()`, with duplicates: looking for them takes most of its time."""
    for value in module._parameters.values():
        if value is not None:
            yield value
    for child in module._modules.values():
        if child is not None:
            yield from _parameters(child)
