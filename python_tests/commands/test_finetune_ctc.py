"""Speech recognition from the command line: from a manifest with transcripts to words with times."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import soundfile
from tiny_runs import _config

from d2v_fast.commands import cli
from d2v_fast.run.reader import Run
from d2v_fast.training.trainer import Data2VecTrainer

TONES = {"a": 0.05, "b": 0.2, "c": 0.8}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Recordings of a letter or two, with their texts and speakers, as NeMo lists them; one has no text."""
    folder, random = tmp_path_factory.mktemp("spoken"), np.random.default_rng(0)
    rows = []
    for i in range(24):
        text = "abc"[i % 3] + ("abc"[(i + 1) % 3] if i % 2 else "")
        sound = np.concatenate([np.sin(np.arange(1920) * TONES[letter]) for letter in text])
        soundfile.write(folder / f"{i:02}.wav", 0.5 * sound + 0.02 * random.standard_normal(len(sound)), 16000)
        rows.append({"audio_filepath": f"{i:02}.wav", "text": "" if i == 7 else text, "speaker": f"s{i % 6}"})
    file = folder / "list.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_from_recordings_to_words(tmp_path, manifest, capsys):
    run = Data2VecTrainer(_config("speech", steps=1), data=str(manifest), out=tmp_path / "run").fit()
    out = tmp_path / "out"
    quick = ["--loader.batch-size", "4", "--loader.holdout", "0.3", "--steps", "4", "--log.validate-every", "2"]
    command = ["finetune", str(run), "--task", "ctc", "--data", str(manifest), "--group", "speaker", "--out", str(out)]
    cli.main([*command, *quick, "--recipe", "ctc-tiny"])
    told = capsys.readouterr().err
    assert "1 of 24 samples have no label that can be used: has an empty transcript (1)" in told
    opened = Run(out)
    assert opened.config.task.classes == ("<pad>", "a", "b", "c")
    assert math.isfinite(opened.metrics()[-1]["validation_cer"])
    cli.main(["predict", str(out), "--data", str(manifest), "--out", str(tmp_path / "said.jsonl")])
    records = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert len(records) == 24
    assert all({"name", "transcript", "words", "score"} == record.keys() for record in records)
    arpa = tmp_path / "letters.arpa"
    arpa.write_text("\\data\\\nngram 1=5\n\n\\1-grams:\n-99 <s>\n-1 </s>\n-1 a\n-1 b\n-1 c\n\n\\end\\\n")
    search = ["--beam", "8", "--language-model", str(arpa), "--lm-weight", "0.5"]
    cli.main(["evaluate", str(out), "--data", str(manifest), "--out", str(tmp_path / "numbers.json"), *search])
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["samples"] == 23
    assert numbers["metrics"]["cer"] >= 0
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", str(out), "--data", str(manifest), "--language-model", str(arpa)])
    assert stop.value.code == 2
    assert "ctc.beam" in capsys.readouterr().err.splitlines()[-1]
