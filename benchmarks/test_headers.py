"""The first index of a folder of small files, whose headers processes read: CPU time for each, and what that allows.

Clips of 0.1 s and pictures of 16 to 40 pixels, in folders of a thousand, freshly written and so in the system's cache;
the run that is timed is the second. CPU time is that of all processes, with their start, since the clock says nothing
on a busy machine; "on two cores" is what two cores without other work would do with it.

    OMP_NUM_THREADS=1 pytest benchmarks/test_headers.py --benchmark-only   # --quick: a few files, and threads
"""

from __future__ import annotations

import io
import resource
import shutil

import numpy as np
import pytest
import soundfile
from PIL import Image

from d2v_fast.data import open_source
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.vision.config import VisionInputs

COUNT, PROCESSES = 200_000, 2


def contents(ending: str) -> list[bytes]:
    """Fifty files."""
    draw, found = np.random.default_rng(0), []
    for _ in range(50):
        file = io.BytesIO()
        if ending == "wav":
            clip = draw.integers(-999, 999, int(draw.integers(1000, 2000))).astype(np.int16)
            soundfile.write(file, clip, 16_000, format="WAV")
        else:
            pixels = draw.integers(0, 256, (*draw.integers(16, 40, 2), 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file, {"png": "PNG", "jpg": "JPEG"}[ending])
        found.append(file.getvalue())
    return found


def cpu_seconds() -> float:
    """Of this process and those that it has waited for."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@pytest.mark.benchmark(group="headers")
@pytest.mark.parametrize("ending", ["wav", "png", "jpg"])
def test_first_index(ending, quick, benchmark, note, tmp_path):
    count, some = (200 if quick else COUNT), contents(ending)
    for i in range(count):
        folder = tmp_path / "data" / f"{i // 1000:04}"
        if i % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"{i:08}.{ending}").write_bytes(some[i % 50])
    modality, inputs = ("speech", SpeechInputs()) if ending == "wav" else ("vision", VisionInputs())

    def run() -> float:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        began = cpu_seconds()
        assert len(open_source(tmp_path / "data", modality, inputs, run=tmp_path / "run", threads=PROCESSES)) == count
        return cpu_seconds() - began

    run()
    seconds = benchmark.pedantic(run, rounds=1, iterations=1)
    note(
        f"{count:,} {ending}: {seconds:.2f} CPU s, {1e6 * seconds / count:.1f} us each; on {PROCESSES} cores "
        f"{PROCESSES * count / seconds:,.0f} a second",
        seconds,
    )
    shutil.rmtree(tmp_path / "data")
