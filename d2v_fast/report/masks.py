"""The masks of runs on samples of their data, as pictures inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from d2v_fast import registry
from d2v_fast.config import Config
from d2v_fast.data import Openable
from d2v_fast.errors import DataError
from d2v_fast.modalities import open_data
from d2v_fast.report.markup import text
from d2v_fast.report.samples import SAMPLES, drawing, render
from d2v_fast.report.seen import Seen

LARGEST = 2_500_000
"""Characters of all pictures together; those that do not fit are named, and left out."""


def pictures(runs: Sequence[Seen], data: Openable, allow_roots: tuple[str, ...] = ()) -> str:
    """The pictures that `d2v-fast data show` draws, with the masks of each run, as HTML. Nothing is written to a run.

    Texts are cut by the run's own tokenizer, each document by itself. Runs whose samples and masks are the same share a
    picture. A run that draws no masks, such as a fine-tuning, has none; without matplotlib, none has.

    Args:
        runs: From `seen.read`.
        data: What all of them were trained on, or the like.
        allow_roots: See `data.open_source`.

    Raises:
        DataError: The data cannot be used, or none of the runs draws masks.
    """
    shown: dict[str, tuple[list[str], Config]] = {}
    for seen in runs:
        config = seen.run.config
        if not isinstance(config, Config):
            continue
        modality: Any = registry.get(config.model.modality)
        loader = replace(config.loader, allow_roots=allow_roots, holdout=0.0, max_skipped=1.0)
        config = replace(config, loader=loader, inputs=modality.for_features(config.inputs, seen.run.path))
        key = repr((config.mask, config.inputs, config.model.embedding, config.seed))
        shown.setdefault(key, ([], config))[0].append(seen.name)
    if not shown:
        raise DataError("--data is for the masks of pretraining, and none of these runs has any: leave it out")
    parts, size = [], 0
    for names, config in shown.values():
        title = ", ".join(names)
        made = drawing(open_data(data, config, None), config, SAMPLES)
        file = io.BytesIO()
        try:
            render(made, file, title)
        except ImportError as error:
            parts.append(f"<p>{text(title)}: left out. {text(error)}</p>")
            continue
        picture = base64.b64encode(file.getvalue()).decode()
        size += len(picture)
        if size > LARGEST:
            size -= len(picture)
            parts.append(f"<p>{text(title)}: left out, the page would be too large.</p>")
            continue
        label = text(f"{title}: {made.title}. Samples as they are stored, and with what is masked in grey.")
        parts.append(f'<p class="card"><img src="data:image/png;base64,{picture}" alt="{label}"></p>')
    return "".join(parts)
