"""The page in a browser: Debian's chromium, without a window."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from d2v_fast.report import page
from d2v_fast.report.looks import looks
from d2v_fast.report.seen import read

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")

EVALUATION = {
    "samples": 60,
    "metrics": {"accuracy": 0.9},
    "intervals": {"accuracy": [0.8, 0.97]},
    "classes": [f"a class with a long name, number {i}" for i in range(20)],
    "confusion": [[3 if i == j else 0 for i in range(20)] for j in range(20)],
}
"""A wide table."""

PROBE = """<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(e => e.open = true);
  const colour = (element, name) => getComputedStyle(element)[name];
  const focusable = [...document.querySelectorAll("a[href],summary,[tabindex]")].filter(e => e.tabIndex >= 0);
  const reached = focusable.filter(e => { e.focus(); return document.activeElement === e; });
  const wide = [...document.querySelectorAll("svg[role=img]")];
  const found = {
    page: document.documentElement.scrollWidth, window: innerWidth,
    ground: colour(document.body, "backgroundColor"), ink: colour(document.body, "color"),
    lines: [...document.querySelectorAll("path.line")].map(e => colour(e, "stroke")),
    ticks: colour(document.querySelector(".tick text"), "fill"), card: colour(document.querySelector(".card"),
    "backgroundColor"), focusable: focusable.length, reached: reached.length,
    outline: colour(document.activeElement, "outlineStyle"),
    narrowest: Math.min(...wide.map(e => e.getBoundingClientRect().width)),
    columns: new Set([...document.querySelectorAll(".card")].map(e => e.getBoundingClientRect().left)).size,
    marks: [...document.querySelectorAll("path.mark")].map(e => colour(e, "stroke")),
    pictures: [...document.images].map(e => e.naturalWidth),
  };
  document.title = JSON.stringify(found);
});
</script>"""
"""Measures the page, and leaves what it has found in the title."""


def chromium(path, profile, *, width=1280, dark=False):
    """The document after it was loaded, and the messages on the console."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr"]
    command += [f"--user-data-dir={profile}", f"--window-size={width},900", "--dump-dom"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture
def written(place, train, make_config, make_data):
    """The page of two runs with all there is to see of data, and the same page with `PROBE` in it."""
    plain, measured = place / "report.html", place / "measured.html"
    if not plain.exists():
        names = ("a", "a second run with a_name_that_is_rather_long_and_has_no_place_to_break_it_in_the_middle")
        runs = read([train(make_config("vision"), place / name) for name in names])
        picture = (
            "<p><img alt='a dot' src='data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4"
            "nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=='></p>"
        )
        (place / runs[0].run.path.name / "test.json").write_text(json.dumps(EVALUATION))
        shown = [page.Section("masks", "Masks on samples", picture), *looks(runs, make_data("vision"))[1:]]
        html = page.page(runs, looks=shown)
        page.write(html, plain)
        allowed = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
        measured.write_text(allowed.replace("</body>", PROBE + "</body>"))
    return plain, measured


def measure(written, place, **how):
    document, _ = chromium(written[1], place / "profile", **how)
    return json.loads(unescape(re.search(r"<title>(.*?)</title>", document)[1]))


def brightness(colour):
    """Relative luminance (WCAG 2.1) of an rgb() colour."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted([brightness(one), brightness(other)])
    return (high + 0.05) / (low + 0.05)


def test_nothing_is_on_the_console(written, place):
    document, messages = chromium(written[0], place / "profile")
    assert "Explained variance" in document
    assert messages == []


def test_the_console_is_heard(place):
    """The test above would hear what it listens for."""
    path = place / "bad.html"
    path.write_text('<!doctype html><title>x</title><script>console.error("a mistake")</script>')
    assert any("a mistake" in line for line in chromium(path, place / "profile")[1])


def test_the_policy_forbids_scripts(written, place):
    path = place / "hostile.html"
    path.write_text(written[0].read_text().replace("</body>", "<script>document.title = 'taken'</script></body>"))
    document, messages = chromium(path, place / "profile")
    assert "<title>taken" not in document
    assert any("Content Security Policy" in line for line in messages)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_can_be_seen(written, place, dark):
    found = measure(written, place, dark=dark)
    assert (brightness(found["ground"]) < 0.05) == dark
    assert contrast(found["ground"], found["ink"]) > 7
    assert contrast(found["card"], found["ticks"]) > 4.5
    assert len(set(found["lines"])) == 2
    assert min(contrast(found["card"], line) for line in found["lines"]) > 3
    assert found["pictures"][0] == 1
    assert len(found["pictures"]) > 20  # those of what is like what
    assert min(found["pictures"]) > 0  # all of them can be shown
    assert min(contrast(found["card"], mark) for mark in found["marks"]) > 2


@pytest.mark.parametrize(("width", "columns"), [(1280, 2), (500, 1)])
def test_narrow_and_wide(written, place, width, columns):
    found = measure(written, place, width=width)
    assert found["page"] <= found["window"]
    assert found["columns"] == columns
    assert found["narrowest"] > 300


def test_the_keyboard_reaches_everything(written, place):
    found = measure(written, place)
    assert found["focusable"] > 10
    assert found["reached"] == found["focusable"]
    assert found["outline"] != "none"
