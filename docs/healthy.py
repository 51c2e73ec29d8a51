"""Trains healthy and collapsed runs of the tiny presets, for docs/healthy.md and the curves behind those of reports.

    python docs/healthy.py runs/healthy

It writes docs/healthy-*.svg and d2v_fast/report/references/*.json of this source tree. Runs that are there already are
continued, so it can be stopped. On two quiet cores it takes about ten minutes; `--only vision` does one kind of input.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch

import d2v_fast
from d2v_fast.config_json import with_overrides
from d2v_fast.errors import RunStopped
from d2v_fast.report import references, svg
from d2v_fast.report.curves import KNOWN
from d2v_fast.report.markup import text
from d2v_fast.run.settings import Notes

ROOT = Path(__file__).parents[1]
COMMAND = "python docs/healthy.py runs/healthy"
SEEDS = {"vision": (0, 1, 2), "speech": (0,), "text": (0,)}
"""Of the healthy runs; more of them make a wider band."""

ABOUT = {
    "vision": "the demo's handwritten digits (scikit-learn)",
    "speech": "the demo's spoken words (eSpeak NG)",
    "text": "the demo's docstrings (Python's standard library)",
}

SAME = {"ema.start": 0.0, "ema.end": 0.0}
COLLAPSES = {
    "vision": {"teacher = student, lr 0.05": SAME | {"optim.lr": 0.05}},
    "speech": {"teacher = student, 150 steps": SAME | {"steps": 150}},
    "text": {"teacher = student": SAME},
}
"""Of each kind of input: what was done to a healthy run, and the fields that do it."""

CHARTS = {
    "loss": "Loss",
    "explained": "Explained variance",
    "target_std": "Standard deviation",
    "pred_std": "Standard deviation",
    "target_rank": "Effective rank",
    "pred_rank": "Effective rank",
}
"""Field of the log line to its chart."""


def train(folder: Path, modality: str) -> tuple[list[Path], dict[str, Path]]:
    """All runs of one kind of input: the healthy ones, and the collapsed ones by name."""
    task = import_module(f"d2v_fast.demo.{modality}").task()
    recipe, notes = d2v_fast.preset(task.preset), Notes(preset=task.preset)
    healthy = {f"seed {seed}": replace(recipe, seed=seed) for seed in SEEDS[modality]}
    collapsed = {name: with_overrides(recipe, fields) for name, fields in COLLAPSES[modality].items()}
    for name, config in (healthy | collapsed).items():
        out = folder / modality / name.replace(" ", "-").replace(",", "")
        try:
            d2v_fast.Data2VecTrainer(config, data=task.source, out=out, device="cpu", notes=notes).fit()
        except RunStopped as stop:
            print(f"{modality}, {name}: {stop}")
        (healthy if name in healthy else collapsed)[name] = out
    return list(healthy.values()), collapsed


def write_reference(modality: str, runs: list[Path]) -> references.Reference:
    """The package's file about a preset."""
    preset = f"{modality}-tiny"
    content = references.summarise(
        [d2v_fast.Run(run).metrics() for run in runs],
        preset=preset,
        about=f"{len(runs)} healthy run{'s' if len(runs) > 1 else ''} of {preset} on {ABOUT[modality]}",
        command=COMMAND,
        steps=d2v_fast.preset(preset).steps,
    )
    path = ROOT / "d2v_fast" / "report" / "references" / f"{preset}.json"
    path.write_text(json.dumps(content, ensure_ascii=False, indent=None, separators=(",", ":")) + "\n")
    references.reference_of.cache_clear()
    found = references.reference_of(preset)
    assert found is not None
    return found


def draw(path: Path, reference: references.Reference, collapsed: dict[str, Path]) -> None:
    """The healthy runs as a band and the collapsed ones as lines, six charts."""
    known = {curve.title: curve for curve in KNOWN}
    parts, names = [], list(collapsed)
    for k, (field, title) in enumerate(CHARTS.items()):
        curve = known[title]
        lines = []
        for i, name in enumerate(names):
            held = [line for line in d2v_fast.Run(collapsed[name]).metrics() if line.get(field) is not None]
            lines.append(
                svg.Line(name=name, x=[x["step"] for x in held], y=[max(x[field], -1) for x in held], colour=i, dash=i)
            )
        band = reference.band(field, reference.steps, "healthy")
        label = title if len(curve.fields) == 1 or k == 0 else f"{title} of the {curve.fields[field]}"
        chart = svg.chart(lines, title=title, x="optimizer step", y=curve.unit, bands=[band] if band else [], zero=True)
        chart = chart.replace("<svg ", '<svg y="24" width="560" height="260" ', 1)
        place = f"translate({k % 2 * 580} {k // 2 * 300 + 40})"
        parts.append(f'<g transform="{place}"><text class="title" x="80" y="14">{text(label)}</text>{chart}</g>')
    samples = [svg.sample(svg.Line(name=name, x=[], y=[], colour=i, dash=i)) for i, name in enumerate(names)]
    legend = ""
    for i, (name, key) in enumerate(zip(["healthy runs", *names], [svg.sample_of_band(), *samples], strict=True)):
        key = key.replace("<svg ", '<svg width="28" height="10" ', 1)
        words = f'<text class="title" x="36" y="10">{text(name)}</text>'
        legend += f'<g transform="translate({80 + 330 * i} 8)">{key}{words}</g>'
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1150 960" font-family="system-ui, sans-serif" '
        f'font-size="12"><style>{STYLE}</style><rect class="ground" width="1150" height="960"/>{legend}{"".join(parts)}'
        "</svg>\n"
    )


STYLE = (
    ":root{--soft:#59616b;--line:#dcdfe3;--ink:#1d2126;--ground:#fff;--s0:#0072b2;--s1:#c24e00;--s2:#00805a}"
    "@media(prefers-color-scheme:dark){:root{--soft:#a3abb4;--line:#363c43;--ink:#e6e9ec;--ground:#0d1117;"
    "--s0:#5ab4f0;--s1:#ff8f4d;--s2:#3ccb9b}}"
    ".ground{fill:var(--ground)}.grid line{stroke:var(--line)}.axis{stroke:var(--soft)}"
    ".tick text,.name{fill:var(--soft)}"
    ".title{fill:var(--ink);font-size:14px}.line{fill:none;stroke-width:1.8;stroke:currentColor}.dot{fill:currentColor}"
    ".band{fill:var(--soft);fill-opacity:.3;stroke:var(--soft);stroke-width:1.6;stroke-opacity:.8}"
    ".s0{color:var(--s0)}.s1{color:var(--s1)}.s2{color:var(--s2)}"
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=list(COLLAPSES))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for modality in [asked.only] if asked.only else list(COLLAPSES):
        healthy, collapsed = train(asked.folder, modality)
        found = write_reference(modality, healthy)
        draw(ROOT / "docs" / f"healthy-{modality}.svg", found, collapsed)
