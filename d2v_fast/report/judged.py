"""What `d2v-fast probe` and `d2v-fast evaluate` have found, as charts and tables; None for any other object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from d2v_fast.report import svg
from d2v_fast.report.markup import table, text

_MOST_CLASSES = 30
"""Of a confusion matrix that is drawn; of larger ones the most frequent mistakes are named."""

_MISTAKES = 25


def probing(content: Mapping[str, Any], title: str) -> str | None:
    """The page's part about a `Probing` as JSON: accuracy by layer, the comparisons as sentences, all numbers."""
    scores, compared = content.get("scores"), content.get("comparisons")
    if not (_objects(scores) and _objects(compared, least=0) and isinstance(content.get("chance"), int | float)):
        return None
    assert isinstance(scores, list)
    assert isinstance(compared, list)
    try:
        names = list(scores[0]["values"])
        charts = "".join(_by_layer(scores, name, float(content["chance"]), title) for name in names)
        sentences = "".join(f"<li>{text(_compared(one))}</li>" for one in compared)
        free = list(dict.fromkeys(name for score in scores for name in score.get("label_free", {})))
        rows = [
            [score["network"], str(score["layer"])]
            + [_with_interval(score["values"][name], score["intervals"].get(name)) for name in names]
            + [_number(score.get("label_free", {}).get(name)) for name in free]
            for score in scores
        ]
        head = ["network", "layer", *names, *free]
        made = table(head, rows, caption=f"{title}: each network and layer, with 95 % intervals")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):  # another program's file of the same fields
        return None
    return f'<h3>{text(title)}</h3><div class="grid2">{charts}</div><ul>{sentences}</ul>{made}'


def evaluation(content: Mapping[str, Any], title: str) -> str | None:
    """The page's part about an `Evaluation` as JSON: measures with their intervals, and the confusion matrix."""
    measures, intervals = content.get("metrics"), content.get("intervals")
    if not (isinstance(measures, Mapping) and isinstance(intervals, Mapping) and "samples" in content):
        return None
    rows = [[name, _number(value), _interval(intervals.get(name))] for name, value in measures.items()]
    made = table(["measure", "value", "95 % interval"], rows, caption=f"{title}: {_number(content['samples'])} samples")
    classes, counts = content.get("classes"), content.get("confusion")
    if isinstance(classes, list) and _square(counts, len(classes)):
        assert isinstance(counts, list)
        names = [str(name) for name in classes]
        made += _matrix(names, counts, title) if len(names) <= _MOST_CLASSES else _mistakes(names, counts, title)
    return made


def _by_layer(scores: Sequence[Mapping[str, Any]], name: str, chance: float, title: str) -> str:
    networks = list(dict.fromkeys(str(score["network"]) for score in scores))
    lines, bands = [], []
    for i, network in enumerate(networks):
        own = sorted((score for score in scores if score["network"] == network), key=lambda score: int(score["layer"]))
        layers = [float(score["layer"]) for score in own]
        lines.append(svg.Line(name=network, x=layers, y=[float(s["values"][name]) for s in own], colour=i))
        pairs = [score["intervals"].get(name) for score in own]
        if all(pair is not None for pair in pairs) and len(own) > 1:
            bands.append(
                svg.Band(
                    name=network,
                    x=layers,
                    low=[float(pair[0]) for pair in pairs],
                    high=[float(pair[1]) for pair in pairs],
                )
            )
    layers = sorted({x for line in lines for x in line.x})
    lines.append(svg.Line(name="chance", x=layers, y=[chance] * len(layers), colour=6, dash=2))
    legend = "".join(f"<li>{svg.sample(line)}{text(line.name)}</li>" for line in lines)
    legend += f"<li>{svg.sample_of_band()}95 % interval</li>" if bands else ""
    chart = svg.chart(lines, title=f"{title}, {name}", x="layer", y=name, zero=True, bands=bands)
    return f'<article class="card"><h3>{text(name)} by layer</h3><ul class="legend">{legend}</ul>{chart}</article>'


def _compared(one: Mapping[str, Any]) -> str:
    low, high = (float(value) for value in one["interval"])
    (a, b), (x, y) = one["values"], one["layers"]
    better = one["first"] if low > 0 else one["second"] if high < 0 else None
    verdict = "no difference is shown" if better is None else f"the {better} is better"
    return (
        f"{one['what']}: {one['first']} {a:.3f} (layer {x}), {one['second']} {b:.3f} (layer {y}); "
        f"difference {a - b:+.3f} [{low:+.3f}, {high:+.3f}]: {verdict}."
    )


def _matrix(names: Sequence[str], counts: Sequence[Sequence[int]], title: str) -> str:
    """Rows are what the samples are; the darker, the larger the share of its row."""
    rows = ""
    for name, row in zip(names, counts, strict=True):
        total = max(1, sum(row))
        cells = "".join(
            f'<td class="h" style="background:rgba(0,114,178,{0.6 * count / total:.2f})">{count:,}</td>'
            for count in row
        )
        rows += (
            f'<tr><th scope="row">{text(name)}</th>{cells}<td class="h">{row[names.index(name)] / total:.0%}</td></tr>'
        )
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in ("is, taken for", *names, "right"))
    caption = f"{title}: how often each class is taken for which"
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _mistakes(names: Sequence[str], counts: Sequence[Sequence[int]], title: str) -> str:
    wrong = [(count, i, j) for i, row in enumerate(counts) for j, count in enumerate(row) if i != j and count]
    wrong = sorted(wrong, key=lambda one: (-one[0], one[1:]))[:_MISTAKES]
    rows = [[names[i], names[j], f"{count:,}", f"{count / max(1, sum(counts[i])):.0%}"] for count, i, j in wrong]
    return table(["is", "taken for", "samples", "of its class"], rows, caption=f"{title}: the most frequent mistakes")


def _objects(value: Any, least: int = 1) -> bool:
    return isinstance(value, list) and len(value) >= least and all(isinstance(one, Mapping) for one in value)


def _square(value: Any, size: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == size
        and all(isinstance(row, list) and len(row) == size for row in value)
        and all(type(count) is int for row in value for count in row)
    )


def _number(value: Any) -> str:
    return "—" if not isinstance(value, int | float) else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _interval(pair: Any) -> str:
    good = isinstance(pair, list | tuple) and len(pair) == 2
    return f"{_number(pair[0])} to {_number(pair[1])}" if good else "—"


def _with_interval(value: Any, pair: Any) -> str:
    good = isinstance(pair, list | tuple) and len(pair) == 2
    return f"{value:.3f} [{pair[0]:.3f}, {pair[1]:.3f}]" if good else f"{value:.3f}"
