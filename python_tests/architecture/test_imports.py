"""Imports point one way, from the commands down to the kernels, and there is no circle."""

from __future__ import annotations

import pytest
from sources import imports_of, room_of, trees

LEVELS = [
    {"errors", "launch"},
    {"log", "streams", "rng", "registry", "reference", "batch", "checks"},
    {"files", "tensor_files"},
    {"ops"},
    {"modules", "masking"},
    {"models", "data"},
    {"config", "config_json"},
    {"modalities"},
    {"presets"},
    {"interop"},
    {"run"},
    {"training"},
    {"evaluation"},
    {"finetuning"},
    {"exporting"},
    {"report"},
    {"demo"},
    {"commands"},
    {"__main__"},
    {""},
]
"""Rooms from the bottom to the top. A module imports from its own room and from the levels below."""


def level_of(room):
    return next(i for i, rooms in enumerate(LEVELS) if room in rooms)


@pytest.mark.parametrize("name", trees())
def test_imports_point_down(name):
    here = room_of(name)
    if here == "":  # the package's own names are imported when they are first asked for
        return
    wrong = [
        other
        for other in sorted(imports_of(name))
        if room_of(other) not in ("", here) and level_of(room_of(other)) >= level_of(here)
    ]
    assert not wrong, f"{name} imports {', '.join(wrong)}, which stand beside or above it"


def test_there_is_no_circle():
    """Depth first; a module that is met again on the way down closes a circle."""
    done, path = set(), []

    def visit(name):
        if name in path:
            raise AssertionError(" imports ".join([*path[path.index(name) :], name]))
        if name in done:
            return
        path.append(name)
        for other in sorted(imports_of(name) - {"d2v_fast"}):
            visit(other)
        done.add(path.pop())

    for name in trees():
        visit(name)
