"""The page's charts: a card for each curve, with what is normal and, where there is one, the preset's reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from d2v_fast.report import curves, svg
from d2v_fast.report.markup import text
from d2v_fast.report.references import COMPARED, Reference, reference_of
from d2v_fast.report.seen import Seen

_NAMES = {
    "loss": "the loss",
    "explained": "the explained share",
    "target_std": "the standard deviation of the targets",
    "target_rank": "the rank of the targets",
}
"""Of `COMPARED`, in a sentence."""


def charts(runs: Sequence[Seen]) -> str:
    """HTML of all charts."""
    lines = {seen.name: seen.lines for seen in runs}
    reference = _shared_reference(runs)
    cards = []
    for curve in curves.present(lines.values()):
        drawn = curves.lines_of(curve, lines)
        if drawn:
            cards.append(_card(curve, drawn, runs, reference))
    if not cards:
        return "<p>There is no log line yet.</p>"
    return _about(runs, reference) + f'<div class="grid2">{"".join(cards)}</div>'


def _card(curve: curves.Curve, drawn: Sequence[svg.Line], runs: Sequence[Seen], reference: Reference | None) -> str:
    bands, keys, words = [], "", ""
    if reference is not None:
        steps = max(int(seen.run.config.steps) for seen in runs)
        fields = [name for name in curve.fields if name in reference.low]
        labels = {
            name: f"reference, {label}" if len(fields) > 1 else "reference" for name, label in curve.fields.items()
        }
        bands = [band for name in fields if (band := reference.band(name, steps, labels[name])) is not None]
        if bands:
            keys = f"<li>{svg.sample_of_band()}healthy runs of {text(reference.preset)}</li>"
            if fields[0] in COMPARED:
                words = "".join(_compared(seen, fields[0], reference, named=len(runs) > 1) for seen in runs)
    legend = "".join(f"<li>{svg.sample(line)}{text(line.name)}</li>" for line in drawn) + keys
    chart = svg.chart(drawn, title=curve.title, x="optimizer step", y=curve.unit, zero=curve.zero, bands=bands)
    return (
        f'<article class="card"><h3>{text(curve.title)}</h3><ul class="legend">{legend}</ul>{chart}'
        f'<p class="normal">{text(curve.normal)}</p>{words}</article>'
    )


def _compared(seen: Seen, name: str, reference: Reference, *, named: bool) -> str:
    """The last value of a run beside the reference."""
    held = [line for line in seen.lines if line.get(name) is not None]
    if not held or reference_of(seen.run.notes.preset) is not reference:
        return ""
    what = _NAMES[name]
    what = f"{seen.name}: {what}" if named else what[:1].upper() + what[1:]
    words = reference.sentence(name, held[-1]["step"], int(seen.run.config.steps), float(held[-1][name]))
    return f'<p class="normal"><strong>{text(what)}</strong> {text(words)}</p>'


def _shared_reference(runs: Sequence[Seen]) -> Reference | None:
    """That of the runs' preset; None if there is none, or if there are several presets."""
    found = [reference_of(seen.run.notes.preset) for seen in runs]
    several = [reference for reference in found if reference is not None]
    return several[0] if several and all(one is several[0] for one in several) else None


def _about(runs: Sequence[Seen], reference: Reference | None) -> str:
    if reference is None:
        presets: Mapping[Any, None] = dict.fromkeys(seen.run.notes.preset for seen in runs if seen.run.notes.preset)
        if not presets:
            return ""
        names = " and ".join(presets)
        why = "several presets share these charts" if len(presets) > 1 else f"there is none for {names}"
        return f"<p>No reference curve is drawn: {text(why)}.</p>"
    return (
        f"<p>Grey: the range of {text(reference.about)}, {reference.steps:,} steps each, over the same share of the "
        "steps. On other data, or with other settings, the shape of the curves is what to compare, not their "
        f"height. <code>{text(reference.command)}</code> makes them again.</p>"
    )
