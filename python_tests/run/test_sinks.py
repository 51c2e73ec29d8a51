from __future__ import annotations

import errno
import importlib.machinery
import json
import subprocess
import sys
import types
from importlib.util import find_spec

import pytest

from d2v_fast.errors import ConfigError, RunStopped
from d2v_fast.run import sinks
from d2v_fast.run.directory import RunDirectory
from d2v_fast.run.journal import Journal, open_journal
from d2v_fast.run.metrics_file import MetricsFile, read_metrics
from d2v_fast.run.progress import Display
from d2v_fast.run.sinks import TensorBoard, WeightsAndBiases, open_sinks

LINE = {
    "step": 10,
    "epoch": 0.5,
    "loss": 1.25,
    "lr": 1e-3,
    "ema_decay": 0.99,
    "grad_norm": 2.0,
    "local_std": 0.5,
    "pred_std": None,
    "target_std": 0.7,
    "pred_rank": 12.0,
    "target_rank": 20.0,
    "skipped_samples": 0,
    "skipped_steps": 0,
    "samples_per_second": 123.4,
    "data_wait": 0.01,
}


@pytest.fixture
def visible(monkeypatch):
    """(names): these packages are looked for as they are; conftest.py hides all."""

    def show(*names: str) -> None:
        monkeypatch.setattr(sinks, "find_spec", lambda name: find_spec(name) if name in names else None)

    return show


class Service:
    """Stands for the module wandb, and notes what it is called with."""

    def __init__(self, monkeypatch, error: Exception | None = None) -> None:
        self.calls: list[dict] = []
        self.lines: list[int] = []
        self.finished = 0
        self.error = error
        module = types.ModuleType("wandb")
        module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        module.init = self.init
        monkeypatch.setitem(sys.modules, "wandb", module)

    def init(self, **options):
        if self.error is not None:
            raise self.error
        self.calls.append(options)
        return self

    def log(self, values, step):
        self.lines.append(step)

    def finish(self):
        self.finished += 1


def test_wandb_that_is_not_installed_names_the_remedy(tmp_path):
    with pytest.raises(
        ConfigError, match=r"log\.wandb is on, but wandb is not installed: pip install 'd2v_fast\[wandb\]'"
    ):
        open_sinks(tmp_path, "id", 0, {}, wandb=True)  # conftest.py hides both optional packages
    assert open_sinks(tmp_path, "id", 0, {}, wandb=False) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_folder_named_like_a_package_does_not_count(tmp_path, monkeypatch, name):
    """TensorBoard's and wandb's own files lie in such folders beside the script."""
    (tmp_path / name).mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = importlib.machinery.PathFinder.find_spec(name, [str(tmp_path)])
    assert spec is not None
    monkeypatch.setattr(sinks, "find_spec", lambda asked: spec if asked == name else None)
    assert open_sinks(tmp_path, "id", 0, {}, wandb=False) == []
    with pytest.raises(ConfigError, match="wandb is not installed"):
        open_sinks(tmp_path, "id", 0, {}, wandb=True)


@pytest.mark.parametrize(
    "error",
    ["TypeError('Descriptors cannot be created directly.')", "ImportError('libcrypt')", "SystemExit('no licence')"],
)
def test_a_package_that_cannot_be_imported(tmp_path, run_python, error):
    """TensorBoard is left out without a word, as nobody asked for it; wandb is an error that says what to do."""
    for name in ("tensorboard", "wandb"):
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "__init__.py").write_text(f"raise {error}")
    code = f"""
        import sys
        sys.path.insert(0, {str(tmp_path / "broken")!r})
        from pathlib import Path
        from d2v_fast.errors import ConfigError
        from d2v_fast.run.sinks import open_sinks
        print(open_sinks(Path({str(tmp_path)!r}), "id", 0, {{}}, wandb=False))
        try:
            open_sinks(Path({str(tmp_path)!r}), "id", 0, {{}}, wandb=True)
        except ConfigError as problem:
            print(problem)
    """
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first == "[]"
    assert second.startswith(f"log.wandb is on, but wandb does not start ({error.split('(')[0]}: ")
    assert result.stderr == ""


def test_a_service_that_does_not_start_is_an_error_at_the_start(tmp_path, monkeypatch, visible):
    Service(monkeypatch, RuntimeError("api_key not configured (no-tty)"))
    visible("wandb")
    with pytest.raises(ConfigError, match=r"wandb does not start \(RuntimeError: api_key not .*WANDB_MODE=offline"):
        open_sinks(tmp_path, "id", 0, {}, wandb=True)


def test_runs_of_the_same_name_are_two_runs_and_each_continues(tmp_path, monkeypatch, visible, make_config):
    service = Service(monkeypatch)
    visible("wandb")
    config = make_config("vision", log={"wandb": True})
    for path in ("exp1/base", "exp2/base", "lr=1e-3, wd: 0.1", "exp1/base"):
        with RunDirectory(tmp_path / path) as run, open_journal(run, config, 0, 0):
            pass
    ids = [call["id"] for call in service.calls]
    assert ids[0] == ids[3]
    assert len(set(ids)) == 3
    assert all(id.isalnum() and len(id) <= 64 for id in ids)
    assert [call["name"] for call in service.calls] == ["base", "base", "lr=1e-3, wd_ 0.1", "base"]
    assert all(call["resume"] == "allow" for call in service.calls)
    assert service.finished == 4


@pytest.mark.parametrize("name", ["a/b", "caf\u00e9 #1?", "x" * 300, "\udcff\udcfe"])
def test_names_are_made_such_as_wandb_takes(tmp_path, monkeypatch, name):
    service = Service(monkeypatch)
    WeightsAndBiases(tmp_path / name, "id", {})
    shown = service.calls[0]["name"]
    assert 0 < len(shown) <= 128
    assert not set(shown) & set("/\\#?%:")
    shown.encode()


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_receives_the_numbers(tmp_path, visible):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    visible("tensorboard")
    (sink,) = open_sinks(tmp_path, "id", 0, {}, wandb=False)
    assert isinstance(sink, TensorBoard)
    sink.write(10, LINE)
    sink.write(20, LINE | {"loss": 1.0})
    sink.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 1.25), (20, 1.0)]
    assert "pred_std" not in events.Tags()["scalars"]
    assert "target_std" in events.Tags()["scalars"]


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboards_files_that_cannot_be_written_are_told_of(tmp_path, visible, capsys):
    visible("tensorboard")
    (tmp_path / "tensorboard").write_text("in the way")
    assert open_sinks(tmp_path, "id", 0, {}, wandb=False) == []
    assert "TensorBoard's files cannot be written" in capsys.readouterr().err


FULL = """
import resource, signal, sys
from pathlib import Path
from d2v_fast.run.journal import Journal
from d2v_fast.run.metrics_file import MetricsFile
from d2v_fast.run.progress import Display
from d2v_fast.run.sinks import TensorBoard

run = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Journal(MetricsFile(run / "metrics.jsonl", 0), Display(900, 0), [TensorBoard(run, 0)]) as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # a full disk, for TensorBoard's file
    for step in range(1, 901):
        line = {"step": step, "epoch": 0.1, "loss": 1.0, "lr": 1.0, "skipped_steps": 0, "skipped_samples": 0,
                "samples_per_second": 1.0, "data_wait": 0.0, **{f"x{i}": 0.5 for i in range(40)}}
        if step > 60:  # metrics.jsonl itself is not to be full
            journal._to_sinks(lambda sink: sink.write(step, line))
        else:
            journal.record(line)
print("done")
"""


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_a_disk_that_is_full_under_tensorboard_ends_tensorboard_and_nothing_else(tmp_path):
    result = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert result.stdout == "done\n", result.stderr
    told = [line for line in result.stderr.splitlines() if "the run goes on without it" in line]
    assert len(told) == 1
    assert "TensorBoard failed (OSError: " in told[0]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 60


class Fragile:
    """A sink that fails at its second line, or when it is closed."""

    def __init__(self, at_close: bool, error: Exception) -> None:
        self.at_close, self.error, self.lines = at_close, error, 0

    def write(self, step, line):
        self.lines += 1
        if self.lines == 2 and not self.at_close:
            raise self.error

    def close(self):
        if self.at_close:
            raise self.error


@pytest.mark.parametrize("at_close", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyError("run"), SystemExit(1)])
def test_a_sink_that_raises_is_switched_off_and_told_of_once(tmp_path, capsys, at_close, error):
    fragile, steady = Fragile(at_close, error), Fragile(True, error)
    steady.close = lambda: None
    lines = MetricsFile(tmp_path / "metrics.jsonl", 0)
    with Journal(lines, Display(40, 0), [fragile, steady]) as journal:
        for step in (10, 20, 30):
            journal.record(LINE | {"step": step})
    told = [line for line in capsys.readouterr().err.splitlines() if "Fragile failed" in line]
    assert len(told) == 1
    assert type(error).__name__ in told[0]
    assert fragile.lines == (3 if at_close else 2)
    assert steady.lines == 3
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20, 30]


def test_metrics_that_cannot_be_written_stop_the_run(tmp_path, monkeypatch):
    lines = MetricsFile(tmp_path / "metrics.jsonl", 0)

    def full(line):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lines, "write", full)
    message = r"step 10: metrics\.jsonl could not be written: No space left on device; free some space"
    with Journal(lines, Display(40, 0), []) as journal, pytest.raises(RunStopped, match=message):
        journal.record(LINE)


def test_numbers_that_a_task_does_not_measure_are_not_needed(tmp_path):
    bare = {key: LINE[key] for key in LINE if not key.endswith(("_std", "_rank"))}
    lines = MetricsFile(tmp_path / "metrics.jsonl", 0)
    with Journal(lines, Display(40, 0), []) as journal:
        journal.record(bare)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == bare
