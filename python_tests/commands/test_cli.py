from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from d2v_fast import presets
from d2v_fast.commands.cli import main
from d2v_fast.commands.pretrain import fields_of
from d2v_fast.config import Config
from d2v_fast.run.directory import RunDirectory, read_config

RUN = ["pretrain", "vision-tiny", "--data", "nowhere", "--out", "run"]
SMALL = ["--model.transformer.depth", "2", "--model.target.top-k", "2", "--loader.batch-size", "4"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Ten pictures of 8 x 8."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(1)
    for i in range(10):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    """Its import is slow; python_tests/training/test_progress.py writes to it."""
    monkeypatch.setattr("d2v_fast.run.sinks.find_spec", lambda name: None)


@pytest.fixture
def fails(capsys):
    """(arguments, exit code) to the one line on stderr that is not progress."""

    def run(arguments: list[str], code: int = 2) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == code
        lines = capsys.readouterr().err.splitlines()
        (told,) = [line for line in lines if not re.match(r"d2v-fast: (step \d+/|4 samples a step instead of )", line)]
        assert told.startswith("d2v-fast: ")
        return told

    return run


def test_help_names_the_commands_and_the_presets(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        main(arguments)
        out = capsys.readouterr().out
        assert all(
            word in out for word in ("pretrain PRESET --data PATH --out RUN", "demo", "info", "{base,large,tiny}")
        )
    main(["pretrain", "--help"])
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in presets.NAMES)


def test_help_does_not_import_torch():
    code = "import sys; from d2v_fast.commands.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: d2v-fast [--quiet] COMMAND")


def test_kernels_are_imported_after_torch():
    """torch's OpenMP runtime must be the one in the process, whichever module asks for the kernels first."""
    code = (
        "import sys, d2v_fast; assert 'torch' not in sys.modules;"
        "from d2v_fast import _C; assert 'torch' in sys.modules; maps = open('/proc/self/maps').read();"
        "print(len({line.split()[-1] for line in maps.splitlines() if 'libgomp' in line}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "1", result.stderr


def test_preset_help_lists_every_field(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "speech-tiny", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for field in (
        "--data",
        "--out",
        "--init-from",
        "--dry-run",
        "--steps",
        "--seed",
        "--optim.lr",
        "--checkpoint.every",
    ):
        assert field in out
    for field in ("--model.embedding.position-depth", "--mask.probability", "--inputs.sample-rate", "--loader.threads"):
        assert field in out
    assert "Highest learning rate." in out


def test_a_run_with_overrides_continues(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["pretrain", "vision-tiny", "--data", str(pictures), "--out", str(out), *SMALL]
    command += ["--seed", "7", "--optim.lr", "0.01", "--optim.clip-norm", "None", "--log.every", "2"]
    main([*command, "--steps", "3", "--checkpoint.every", "2"])
    config = json.loads((out / "config.json").read_text())
    assert (config["steps"], config["seed"], config["checkpoint"]["every"]) == (3, 7, 2)
    assert (config["optim"]["lr"], config["optim"]["clip_norm"]) == (0.01, None)
    assert config["derived"] == ["ema.start", "ema.end", "ema.anneal_steps", "monitor.warmup_steps"]
    assert config["modality"] == {"name": "vision", "module": "d2v_fast.modalities.vision.modality"}
    assert (config["preset"], config["numerics"]) == ("vision-tiny", 5)
    assert config["mask"]["kind"] == "InverseBlockMask"
    lines = [line.removeprefix("d2v-fast: ").split("  ")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines.pop(0) == (
        "4 samples a step instead of the 32 samples of vision-tiny: set ema.start 0.998744, ema.end 0.999875, "
        "ema.anneal_steps 3, monitor.warmup_steps 0 (a field that you give stays as it is; --no-scale changes none)"
    )
    assert lines == ["step 2/3", "step 3/3", f"finished {out}: 3 steps"]
    main([*command, "--steps", "4"])
    told = capsys.readouterr().err
    assert told.startswith(f"d2v-fast: continuing {out} after step 3 of 4\nd2v-fast: step 4/4  epoch 2  loss ")
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [2, 3, 4]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step_00000003", "step_00000004"]


def test_another_configuration_is_refused(pictures, tmp_path, fails):
    command = ["pretrain", "vision-tiny", "--data", str(pictures), "--out", str(tmp_path / "run"), *SMALL]
    main([*command, "--steps", "1"])
    assert "optim.lr: the run has 0.000707106" in fails([*command, "--steps", "1", "--optim.lr", "0.5"])


def test_init_from(pictures, tmp_path):
    command = ["pretrain", "vision-tiny", "--data", str(pictures), *SMALL, "--steps", "1", "--out"]
    main([*command, str(tmp_path / "one")])
    main([*command, str(tmp_path / "two"), "--init-from", str(tmp_path / "one")])
    assert (tmp_path / "two" / "checkpoints" / "step_00000001").is_dir()


def test_dry_run_writes_nothing(pictures, tmp_path, capsys):
    before = sorted(pictures.iterdir())
    main(["pretrain", "vision-tiny", "--data", str(pictures), "--out", str(tmp_path / "run"), *SMALL, "--dry-run"])
    out = capsys.readouterr().out
    for words in ("parameters", "memory", "steps", "per epoch", "first batch: inputs", "float32 [4, 1, 8, 8]"):
        assert words in out
    assert list(tmp_path.iterdir()) == []
    assert sorted(pictures.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], "there is no command 'train'; choose one of pretrain, data, "),
        (["demo", "music"], "there is no demo 'music'; choose vision, speech or text"),
        (["pretrain", "--data", "x"], "the preset comes first: d2v-fast pretrain PRESET"),
        (["pretrain", "vision-base2"], "there is no preset 'vision-base2'; did you mean vision-base?"),
        (["pretrain", "vision-tiny"], "missing --data, --out"),
        (["pretrain", "vision-tiny", "--data", "x"], "missing --out"),
        ([*RUN, "--optim.lrr", "1"], "--optim.lrr, 1; did you mean --optim.lr?"),
        ([*RUN, "--steps", "many"], "--steps: invalid literal for int() with base 10: 'many'"),
        ([*RUN, "--optim.schedule", "flat"], "invalid choice 'flat' for argument '--optim.schedule'"),
        (["pretrain", "vision-tiny", "--data", ".", "--out", "/dev/null/run"], "cannot be used for a run"),
        ([*RUN, "--steps", "-1"], "steps is -1, but it must be 0 or more"),
        (RUN, "data: there is nothing at nowhere"),
        ([*RUN, "--init-from", "nothing"], "nothing is not a run: it has no config.json"),
        (["info", "--jsn"], "Unrecognized options: --jsn; did you mean --json?"),
    ],
)  # fmt: skip
def test_errors_are_one_line(arguments, words, fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in fails(arguments)


def test_a_run_that_stops_by_itself_exits_with_1(pictures, tmp_path, fails):
    command = ["pretrain", "vision-tiny", "--data", str(pictures), "--out", str(tmp_path / "run"), *SMALL]
    command += ["--monitor.abort-std", "100", "--monitor.min-std", "0", "--monitor.min-rank", "0"]
    assert "the targets have collapsed" in fails([*command, "--monitor.warmup-steps", "1", "--steps", "3"], code=1)


def test_too_many_broken_files_stop_a_run_unless_they_are_let_pass(tmp_path, fails, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(9):
        Image.fromarray(np.full((8, 8), 20 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    for i in range(5, 9):
        (folder / f"{i}.png").write_bytes(b"")
    command = ["pretrain", "vision-tiny", "--data", str(folder), "--out", str(tmp_path / "run"), *SMALL]
    message = fails([*command, "--steps", "2"], code=1)
    assert "4 of 9 samples cannot be read" in message
    assert f"{folder / '5.png'}: is empty" in message
    assert "--loader.max-skipped 0.89" in message
    main([*command, "--steps", "2", "--loader.max-skipped", "0.89"])
    assert "finished" in capsys.readouterr().err


def test_a_mask_that_does_not_fit_is_named(pictures, tmp_path, fails):
    command = ["pretrain", "vision-tiny", "--data", str(pictures), "--out", str(tmp_path / "run"), *SMALL]
    assert "mask.ratio is 1.5, but it must be between 0 and 1" in fails([*command, "--mask.ratio", "1.5"])


def test_ctrl_c_and_full_disks_are_one_line(pictures, tmp_path, fails, monkeypatch):
    command = ["pretrain", "vision-tiny", "--data", str(pictures), "--out", str(tmp_path / "run"), *SMALL]
    fit = "d2v_fast.training.trainer.Data2VecTrainer.fit"

    def raising(error):
        def raise_it(*args, **kwargs):
            raise error

        return raise_it

    monkeypatch.setattr(fit, raising(KeyboardInterrupt()))
    assert "interrupted" in fails(command, code=130)
    monkeypatch.setattr(fit, raising(OSError(28, "No space left on device", "RUN/index.jsonl")))
    assert "No space left on device: 'RUN/index.jsonl'" in fails(command, code=1)


def test_a_bug_keeps_its_traceback(pictures, tmp_path, monkeypatch):
    def bug(*args, **kwargs):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("d2v_fast.training.trainer.Data2VecTrainer.fit", bug)
    with pytest.raises(ZeroDivisionError):
        main(["pretrain", "vision-tiny", "--data", str(pictures), "--out", str(tmp_path / "run"), *SMALL])


def test_info_as_json(capsys):
    main(["info", "--json"])
    assert "operations" in json.loads(capsys.readouterr().out)


def test_the_installed_command_answers():
    result = subprocess.run(
        [os.path.join(os.path.dirname(sys.executable), "d2v-fast"), "nonsense"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.startswith("d2v-fast: there is no command 'nonsense'; choose one of pretrain, data, ")


def test_no_scale_keeps_the_presets_values(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    main(["pretrain", "vision-tiny", "--data", str(pictures), "--out", str(out), *SMALL, "--steps", "1", "--no-scale"])
    assert "instead of" not in capsys.readouterr().err
    config, preset = read_config(out), presets.vision_tiny()
    assert (config.optim, config.ema, config.monitor) == (preset.optim, preset.ema, preset.monitor)


def test_the_same_command_continues_after_the_rules_have_changed(pictures, tmp_path, monkeypatch, fails):
    out = tmp_path / "run"
    command = ["pretrain", "vision-tiny", "--data", str(pictures), "--out", str(out), *SMALL, "--steps"]
    main([*command, "1"])
    before = read_config(out)

    def changed() -> Config:
        tiny = presets.vision_tiny()
        return replace(tiny, optim=replace(tiny.optim, lr=0.5, weight_decay=0.0), ema=replace(tiny.ema, end=0.9))

    monkeypatch.setitem(presets.NAMES, "vision-tiny", changed)
    main([*command, "2"])
    assert replace(read_config(out), steps=1) == before
    assert (out / "checkpoints" / "step_00000002").is_dir()
    # What is given is compared: here the new preset's own value, which is not the run's.
    assert "optim.weight_decay: the run has 0.05, this command 0.0" in fails(
        [*command, "2", "--optim.weight-decay", "0"]
    )


def test_the_annealing_may_change_when_a_run_grows(pictures, tmp_path, fails):
    out = tmp_path / "run"
    command = ["pretrain", "vision-tiny", "--data", str(pictures), "--out", str(out), *SMALL, "--steps"]
    main([*command, "2"])
    assert read_config(out).ema.anneal_steps == 2
    annealing = ["--ema.anneal-steps", "3"]
    assert "ema.anneal_steps: the run has 2, this command 3 (it may change when steps grows)" in fails(
        [*command, "2", *annealing]
    )
    main([*command, "3", *annealing])
    main([*command, "3", *annealing])
    assert read_config(out).ema.anneal_steps == 3


def test_another_preset_is_refused(pictures, tmp_path, fails):
    out = tmp_path / "run"
    main(["pretrain", "vision-tiny", "--data", str(pictures), "--out", str(out), *SMALL, "--steps", "1"])
    message = fails(["pretrain", "vision-base", "--data", str(pictures), "--out", str(out)])
    assert f"{out} is a run of the preset vision-tiny, not of vision-base" in message


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (["--optim.lr", "0.002"], {"optim.lr": 0.002}),  # the preset's own value is given all the same
        (["--optim.lr=0.1", "--steps=3"], {"optim.lr": 0.1, "steps": 3}),
        (["--optim.no-decay-vectors"], {"optim.decay_vectors": False}),
        (["--optim.decay-vectors", "--log.wandb"], {"optim.decay_vectors": True, "log.wandb": True}),
        (["--optim.betas", "0.8", "0.9"], {"optim.betas": (0.8, 0.9)}),
        (["--mask.block", "2", "--optim.clip-norm", "None"], {"mask.block": 2, "optim.clip_norm": None}),
        (["--model.transformer.dim=32", "--out", "b"], {"model.transformer.dim": 32}),
        ([], {}),
    ],
)
def test_what_the_command_line_gives(monkeypatch, options, given):
    seen = []
    monkeypatch.setattr("d2v_fast.commands.pretrain._start", lambda preset, run, fields: seen.append(fields))
    main(["pretrain", "vision-tiny", "--data", "x", "--out", "a", *options])
    assert seen == [given]


def test_every_option_of_a_preset_is_known_when_it_is_given(monkeypatch):
    """None of tyro's names is spelled in a way that `given_fields` would miss."""
    seen = []
    monkeypatch.setattr("d2v_fast.commands.pretrain._start", lambda preset, run, fields: seen.append(fields))
    for preset in ("speech-tiny", "vision-tiny", "text-tiny"):
        options, wanted = [], {}
        for name, value in fields_of(presets.NAMES[preset]()):
            if value == ():
                continue
            option = f"--{name.replace('_', '-')}"
            section, _, field = option[2:].rpartition(".")
            if isinstance(value, bool):
                options.append(option if value else f"--{section}.no-{field}" if section else f"--no-{field}")
            else:
                options += [option, *map(str, np.ravel(value).tolist() if isinstance(value, tuple) else [value])]
            wanted[name] = value
        main(["pretrain", preset, "--data", "x", "--out", "a", *options])
        assert seen.pop() == wanted


def test_a_folder_in_use_is_refused_before_anything_heavy_is_imported(tmp_path, fails):
    run = tmp_path / "run"
    with RunDirectory(run):
        code = (
            "import sys; from d2v_fast.commands.cli import main\n"
            "try: main()\n"
            "finally: print('heavy:', sorted({'torch', 'numpy'} & set(sys.modules)))"
        )
        command = [sys.executable, "-c", code, "pretrain", "vision-tiny", "--data", "nowhere", "--out", str(run)]
        result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert f"{run} is in use by process {os.getpid()}" in result.stderr
    assert result.stdout == "heavy: []\n"


def test_python_m_is_the_command():
    result = subprocess.run([sys.executable, "-m", "d2v_fast", "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "0.1.0\n")


@pytest.mark.parametrize("data", ["", " "])
def test_empty_data_is_refused(tmp_path, fails, data):
    out = tmp_path / "run"
    assert "data is empty" in fails(["pretrain", "vision-tiny", "--data", data, "--out", str(out)])
    assert not out.exists()


def test_modalities_of_other_packages_are_found(monkeypatch, fails):
    class Point:
        name, value, dist = "points", "points.modality", None

        def load(self) -> None:
            raise ImportError("no module named numbers2")

    monkeypatch.setattr("d2v_fast.commands.entry_points.entry_points", lambda group: [Point()])
    for command in (["pretrain", "vision-tiny", "--data", "x", "--out", "y"], ["data", "show", "x"]):
        told = fails(command)
        assert "the modality 'points' of the package unknown cannot be imported (points.modality): ImportError" in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.transformer.heads", "3"], "model.transformer.heads is 3, but it must be a divisor of"),
        (["--model.embedding.image-size", "9"], "model.embedding.image_size is 9, but it must be a multiple of"),
        (["--mask.ratio", "1"], "mask.ratio is 1.0: of the 16 patches of the model nothing would be kept"),
        (["--seed", str(2**63)], "seed is 9223372036854775808, but it must be below 2**63"),
        (["--optim.lr", "nan"], "optim.lr is nan, but it must be a finite number above 0"),
        (["--init-from", "nothing"], "nothing is not a run"),
        (["--data", "nowhere"], "there is nothing at"),
    ],
)
def test_a_dry_run_has_the_errors_of_the_run(pictures, tmp_path, fails, options, words):
    command = ["pretrain", "vision-tiny", "--data", str(pictures), "--out", str(tmp_path / "run"), *SMALL, *options]
    told = fails([*command, "--dry-run"])
    assert words in told
    assert fails(command) == told
