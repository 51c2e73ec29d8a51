"""What is told: on one line whatever names hold, quiet when asked, and never worth a run."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest

from d2v_fast import log
from d2v_fast.log import report, tell


def test_a_name_stays_on_its_line(capsys):
    report("a\nb\x1b[31m\udcff.jpg", "is empty")
    assert capsys.readouterr().err == "d2v-fast: skipped a\\nb\\x1b[31m\\udcff.jpg: is empty\n"


def test_letters_of_any_language_stay(capsys):
    tell("naïve/日本 – 1 %s.wav")
    assert capsys.readouterr().err == "d2v-fast: naïve/日本 – 1 %s.wav\n"


def test_a_level_makes_it_quiet(capsys, caplog):
    with caplog.at_level(logging.WARNING, "d2v_fast"):
        tell("step 1", logging.INFO)
        tell("odd")
    with caplog.at_level(logging.CRITICAL, "d2v_fast"):
        tell("odd again")
    assert capsys.readouterr().err == "d2v-fast: odd\n"
    assert [record.getMessage() for record in caplog.records] == ["odd"]


class Failing(io.StringIO):
    """A stderr on which writing fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.tried = 0

    def write(self, text: str) -> int:
        self.tried += 1
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "x"), OSError(28, "full"), ValueError("closed")], ids=repr)
def test_a_stderr_that_fails_raises_nothing(monkeypatch, error):
    stream = Failing(error)
    monkeypatch.setattr(sys, "stderr", stream)
    tell("something")
    assert stream.tried == 1
    monkeypatch.setattr(sys, "stderr", None)
    tell("something")


def test_an_encoding_that_lacks_a_letter_gets_an_escape(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    tell("日.wav")
    assert stream.buffer.getvalue() == b"d2v-fast: \\u65e5.wav\n"


SPEAK = "import logging, d2v_fast.log as log; {}; log.tell('progress', logging.INFO); log.tell('odd')"


@pytest.mark.parametrize(
    ("setup", "told"),
    [
        ("pass", "d2v-fast: progress\nd2v-fast: odd\n"),
        ("logging.basicConfig(format='mine: %(message)s')", "mine: progress\nmine: odd\n"),
        ("logging.getLogger('d2v_fast').setLevel('WARNING')", "d2v-fast: odd\n"),
        ("log.for_a_command(quiet=True)", "d2v-fast: odd\n"),
    ],
)
def test_a_program_may_set_logging_up_itself(run_python, setup, told):
    assert run_python(SPEAK.format(setup)).stderr == told


def test_a_level_chosen_before_the_import_stays(run_python):
    code = "import logging; logging.getLogger('d2v_fast').setLevel(50);" + SPEAK.format("pass")
    assert run_python(code).stderr == ""


@pytest.mark.parametrize("redirected", ["stdout", "stderr"])
@pytest.mark.parametrize("place", ["/dev/full", "closed pipe"])
def test_the_exit_status_does_not_depend_on_where_output_goes(redirected, place, monkeypatch):
    code = (
        "import sys, d2v_fast.log as log; log.tell('x'); sys.stdout.write('y'); sys.stderr.write('z');"
        "log.flush_output(); sys.exit(3)"
    )
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    if place == "/dev/full":
        with open(place, "w") as full:
            done = subprocess.run([sys.executable, "-c", code], **{redirected: full}, check=False)
        assert done.returncode == 3
        return
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read();" + code],
                               stdin=subprocess.PIPE, **{redirected: subprocess.PIPE})  # fmt: skip
    getattr(process, redirected).close()
    process.stdin.close()
    assert process.wait() == 3


def test_the_command_is_quiet_when_asked(capsys):
    from d2v_fast.commands.cli import main

    level = log.logger.level
    try:
        with pytest.raises(SystemExit, match="2"):
            main(["--quiet", "nonsense"])
        assert log.logger.level == logging.WARNING
    finally:
        log.logger.setLevel(level)
    assert capsys.readouterr().err.startswith("d2v-fast: there is no command 'nonsense'")
