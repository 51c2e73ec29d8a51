"""Every block of the documentation is run, here or by `.ci/run`, or says why it is not; links lead somewhere.

The pages "Bring your own data" are run wholly, page by page, in an empty folder.
"""

from __future__ import annotations

import os
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from d2v_fast import presets, registry
from d2v_fast.commands import cli
from d2v_fast.commands.pretrain import fields_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted((DOCS / "data").glob("*.md"))
BLOCK = re.compile(r"(?:<!-- run(?:: (\w+))? -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """(package that it needs, language, line, code) of each block; one without a mark is a mistake."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        line = text[: found.start(3)].count("\n")
        assert found[0].startswith("<!-- run"), f"{page.name}, line {line}: a block that no test runs"
        yield found[1], found[2], line, found[3]


def run(language, code, where):
    if language == "python":
        # as a script of its own would be: empty lines in front keep the line numbers of the page
        exec(compile("\n" * where[1] + code, where[0], "exec"), {"__name__": "__main__"})
        return
    assert language == "sh", where
    for line in code.splitlines():
        command, *arguments = shlex.split(line, comments=True)
        assert command == "d2v-fast", f"{where}: only d2v-fast is run, not {command}"
        cli.main(arguments)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    left_out = []
    for needs, language, line, code in blocks(page):
        if needs is not None and find_spec(needs) is None:
            left_out.append(f"line {line} (needs {needs})")
            continue
        run(language, code, (str(page), line))
    errors = capsys.readouterr().err
    assert "skipped" not in errors, errors
    for name in set(re.findall(r"runs/(\w+)", page.read_text())) - ({"table", "saved"} if left_out else set()):
        assert (tmp_path / "runs" / name / "metrics.jsonl").exists(), name
    assert list(tmp_path.glob("*.png"))
    if left_out:
        pytest.skip(f"the rest of {page.name} ran; left out: {', '.join(left_out)}")


def test_every_modality_has_a_page():
    assert [page.stem for page in PAGES] == sorted(registry.BUILT_IN)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.stem)
def test_every_other_block_says_who_runs_it(page):
    """`command: NAME` is run by `.ci/run`, word for word; `not run:` is followed by the reason."""
    text, script = page.read_text(), (ROOT / ".ci" / "run").read_text()
    for found in re.finditer(r"(.*)\n```\w+?\n(?:.*\n)*?```$", text, re.MULTILINE):
        line = text[: found.start()].count("\n") + 2
        mark = re.fullmatch(r"<!-- (command|not run): (.+) -->", found[1])
        assert mark, f"{page.name}, line {line}: who runs this block?"
        assert mark[1] == "not run" or f"readme {mark[2]}" in script, f"{page.name}, line {line}: no stage runs it"


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *PAGES], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text)):
        if target.startswith("http"):
            continue
        there = page if not target else Path(os.path.normpath(page.parent / target))
        assert there.exists(), f"{page.name}: {target}"
        if not anchor:
            continue
        titles = [
            re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
        ]
        assert anchor in titles, f"{page.name}: {target}#{anchor}; there are {titles}"


def test_fields_that_settings_names_are_fields():
    """In the page's tables, by their dotted names; a short one follows a long one of the same section."""
    known = {name for preset in presets.NAMES.values() for name, _ in fields_of(preset())}
    text = (DOCS / "settings.md").read_text()
    named = set(re.findall(r"`((?:model|mask|inputs|loader|optim|ema|monitor)\.[a-z_.]+)", text))
    assert named
    assert named <= known
