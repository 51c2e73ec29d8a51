"""An export is there as a whole or not at all, and nothing is replaced unasked."""

from __future__ import annotations

import pytest

from d2v_fast.errors import RunError
from d2v_fast.exporting.folder import new_folder


def write(out, content="new", **options):
    with new_folder(out, "mark", **{"overwrite": False, **options}) as folder:
        (folder / "mark").write_text(content)


def test_a_new_folder_and_an_empty_one(tmp_path):
    write(tmp_path / "deep" / "out")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "empty"]
    assert (tmp_path / "deep" / "out" / "mark").read_text() == (tmp_path / "empty" / "mark").read_text() == "new"
    assert (tmp_path / "empty").stat().st_mode & 0o777 == (tmp_path / "deep").stat().st_mode & 0o777


def test_an_earlier_one_is_replaced_only_if_asked(tmp_path):
    write(tmp_path / "out", "old")
    with pytest.raises(RunError, match="--overwrite to replace"):
        write(tmp_path / "out")
    assert (tmp_path / "out" / "mark").read_text() == "old"
    write(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "mark").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_export_is_never_touched(tmp_path, overwrite):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years of work")
    with pytest.raises(RunError, match="is no export"):
        write(tmp_path / "thesis", overwrite=overwrite)
    (tmp_path / "file").write_text("one")
    with pytest.raises(RunError, match="is no folder"):
        write(tmp_path / "file", overwrite=overwrite)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError, match="is no folder"):
        write(tmp_path / "link", overwrite=overwrite)
    assert (tmp_path / "thesis" / "text").read_text() == "years of work"


def test_nothing_is_left_of_one_that_failed(tmp_path):
    write(tmp_path / "out", "old")

    def interrupted():
        with new_folder(tmp_path / "out", "mark", overwrite=True) as folder:
            (folder / "mark").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "mark").read_text() == "old"
