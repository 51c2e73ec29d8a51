"""What is installed is what there is: setuptools takes the packages that pyproject.toml lists, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")

ROOT = Path(__file__).parents[2]


def test_every_folder_of_the_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {file.parent for file in (ROOT / "d2v_fast").rglob("*.py")} - {ROOT / "d2v_fast" / "kernels"}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders} | {"d2v_fast.kernels"}
    assert sorted(listed) == sorted(found)


def test_every_folder_is_a_package():
    folders = {file.parent for file in (ROOT / "d2v_fast").rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []
