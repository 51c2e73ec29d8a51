"""What a page shows of data: masks, maps of features, what is like what in a sample, predictions with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from d2v_fast import registry
from d2v_fast.config import Config
from d2v_fast.data import Openable
from d2v_fast.errors import DataError
from d2v_fast.finetuning.config import FinetuneConfig
from d2v_fast.finetuning.predict import Finetuned
from d2v_fast.modalities import open_data
from d2v_fast.report.maps import feature_maps
from d2v_fast.report.markup import text
from d2v_fast.report.masks import pictures
from d2v_fast.report.page import Section, Seen
from d2v_fast.report.results import tables
from d2v_fast.report.similarity import similarities
from d2v_fast.run.weights import Network, load

LARGEST = 1_200_000
"""Characters of all maps of what is like what."""


def looks(
    runs: Sequence[Seen],
    data: Openable,
    *,
    label: str | None = None,
    group: str | None = None,
    network: Network = "student",
    allow_roots: tuple[str, ...] = (),
) -> list[Section]:
    """Sections of the page about runs on data; nothing is written to a run.

    A run without a checkpoint has its masks only.

    Args:
        runs: From `seen.read`.
        data: What they were trained on, or the like; best with classes.
        label: See `maps.feature_maps`.
        group: See `maps.feature_maps`.
        network: See `maps.feature_maps`.
        allow_roots: See `data.open_source`.

    Raises:
        DataError: The data cannot be used.
        RunError: A run cannot be read.
    """
    pretrained = [seen for seen in runs if isinstance(seen.run.config, Config)]
    tuned = [seen for seen in runs if isinstance(seen.run.config, FinetuneConfig)]
    ready = [seen for seen in runs if seen.run.checkpoints()]
    sections = []
    if pretrained:
        sections.append(Section("masks", "Masks on samples", pictures(pretrained, data, allow_roots)))
    if ready:
        options: dict[str, Any] = {"label": label, "group": group, "network": network, "allow_roots": allow_roots}
        own = [seen for seen in ready if seen in pretrained]
        html = feature_maps(own, data, **options) if own else ""
        if others := [seen for seen in ready if seen in tuned]:  # they have no teacher
            html += feature_maps(others, data, **options | {"network": "student"})
        sections.append(Section("map", "Map of features", html))
        alike = ""
        for seen in own:
            title, one = f"{seen.name}: {network}", _similar(seen, data, network, allow_roots)
            fits = len(alike) + len(one) <= LARGEST
            alike += f"<h3>{text(title)}</h3>" + (one if fits else "<p>Left out, the page would be too large.</p>")
        if alike:
            sections.append(Section("similarity", "What is like what", _SIMILARITY + alike))
    judged = "".join(_judged(seen, data, label, group) for seen in tuned if seen in ready)
    if judged:
        sections.append(Section("predictions", "Predictions on these samples", judged))
    return sections


_SIMILARITY = (
    "<p>How alike the network finds the parts of one sample (cosine of their features, less the sample's mean): violet "
    '(−1), green (0), yellow (1)<span class="scale" style="background:linear-gradient(90deg,rgb(68,1,84),'
    'rgb(59,81,139),rgb(33,144,141),rgb(92,200,99),rgb(253,231,37))"></span>. After training, parts that mean the same '
    "are alike. All of one colour, or the same pattern in every sample, is what a collapse looks like.</p>"
)


def _similar(seen: Seen, data: Openable, network: Network, allow_roots: tuple[str, ...]) -> str:
    config = seen.run.config
    modality: Any = registry.get(config.model.modality)
    loader = replace(config.loader, allow_roots=allow_roots, holdout=0.0, max_skipped=1.0)
    config = replace(config, loader=loader, inputs=modality.for_features(config.inputs, seen.run.path))
    source = open_data(data, config, None)
    return similarities(load(seen.run.path, network), config, source, f"{seen.name}: {network}")


def _judged(seen: Seen, data: Openable, label: str | None, group: str | None) -> str:
    """Predictions of a fine-tuning beside the labels."""
    try:
        found = Finetuned(seen.run.path).evaluate(data, label=label, group=group)
    except DataError as error:  # data for the map need not have the labels of its task
        return f"<p>{text(seen.name)}: its predictions are not judged: {text(error)}</p>"
    words = "It is a test only if neither training nor the choice of the checkpoint has seen these samples."
    return tables(found.as_dict(), title=f"{seen.name} on these samples") + f"<p>{text(words)}</p>"
