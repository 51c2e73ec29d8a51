"""What belongs to one modality stands in its room: nobody else asks which one it is, or names its classes."""

from __future__ import annotations

import ast
import importlib

import pytest
from sources import room_of, trees

from d2v_fast import registry

FREE = {"modalities", "presets", "interop", "demo"}
"""Rooms that may speak of one modality."""

NAMES = set(registry.BUILT_IN)

OTHERS = [name for name in trees() if room_of(name) not in FREE]


def classes():
    """Names of all classes that the rooms of the modalities define."""
    rooms = tuple(f"d2v_fast.modalities.{name}" for name in registry.BUILT_IN)
    return {
        node.name
        for module, tree in trees().items()
        if module.startswith(rooms)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


def says(node):
    """Whether an expression is the name of a modality, or a collection with one in it."""
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        return any(map(says, node.elts))
    return isinstance(node, ast.Constant) and node.value in NAMES


def questions(tree):
    """(line, what) for each comparison, match, membership test and dictionary key with a modality's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(map(says, (node.left, *node.comparators))):
            yield node.lineno, "a comparison"
        elif isinstance(node, ast.MatchValue) and says(node.value):
            yield node.value.lineno, "a match"
        elif isinstance(node, ast.Dict) and any(key is not None and says(key) for key in node.keys):
            yield node.lineno, "a dictionary key"
        elif isinstance(node, ast.Subscript) and says(node.slice):
            yield node.lineno, "a key"


@pytest.mark.parametrize("name", OTHERS)
def test_nobody_asks_which_modality_it_is(name):
    found = [f"line {line}: {what}" for line, what in questions(trees()[name])]
    assert not found, f"{name} asks for a modality by its name: {'; '.join(found)}"


@pytest.mark.parametrize("name", OTHERS)
def test_nobody_names_a_class_of_a_modality(name):
    known = classes()
    named = {
        node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else node.name
        for node in ast.walk(trees()[name])
        if isinstance(node, (ast.Name, ast.Attribute, ast.alias))
    }
    assert not named & known, f"{name} names {', '.join(sorted(named & known))}"


def test_the_walk_finds_what_it_looks_for():
    """The tests above could not fail if the walk were blind."""
    source = """
if modality == "speech" or "vision" in kinds or modality in ("text", "other"):
    pass
match modality:
    case "speech":
        pass
table = {"vision": 1}
table["text"]
"""
    assert len(list(questions(ast.parse(source)))) == 6
    assert {"SpeechInputs", "VisionEmbedding", "TextBlocks", "Clips"} <= classes()


def test_a_room_registers_the_modality_of_its_name():
    for name in registry.BUILT_IN:
        importlib.import_module(f"d2v_fast.modalities.{name}")
        assert registry.get(name).name == name
