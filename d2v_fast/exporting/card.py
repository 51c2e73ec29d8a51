"""What a reader of an export has to know, as a model card and as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from torch import Tensor

from d2v_fast.config import Config
from d2v_fast.config_json import to_dict
from d2v_fast.run.reader import Run

FILE = "d2v_fast.json"
"""The facts about an export, by which a folder is known as one."""


_ABOUT = {
    False: "The {network} of a data2vec run (Baevski et al., 2022), pretrained without labels. It gives features; for\n"
    "labels it has to be fine-tuned.",
    True: "The encoder of a data2vec network (Baevski et al., 2022) that was fine-tuned on labels. It gives features:\n"
    "the outputs for the labels are not in it.",
}


def facts(run: Run, to: str, network: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Where the weights are from, as JSON can hold it.

    Args:
        run: The run, of whose folder only the name is taken.
        to: The format.
        network: "student" or "teacher".
        state: The weights.

    Raises:
        RunError: The run cannot be read.
    """
    return {
        "format": to,
        "run": run.path.resolve().name,
        "step": run.best().step,
        "steps": run.config.steps,
        "network": network,
        "preset": run.notes.preset,
        "modality": run.config.model.modality,
        "fine_tuned": not isinstance(run.config, Config),
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "weights": _digest(state),
        "data": run.data,
        "versions": {"d2v_fast": version("d2v_fast"), "trained with": run.versions},
        "config": to_dict(run.config),
    }


def card(known: Mapping[str, Any], usage: str, notes: str) -> str:
    """The text of README.md.

    Args:
        known: From `facts`.
        usage: Lines of Python that load the model.
        notes: What is special about the format.
    """
    data, trained = known["data"], known["versions"]["trained with"]
    library = {"hf": "transformers", "timm": "timm"}.get(known["format"], known["format"])
    rows = {
        "Run": known["run"],
        "Preset": known["preset"] or "none: settings of its own",
        "Step": f"{known['step']:,} of {known['steps']:,}",
        "Network": known["network"],
        "Parameters": f"{known['parameters']:,}",
        "Weights (BLAKE2b)": known["weights"],
        "Data (fingerprint)": data.get("fingerprint", "not known"),
        "Decoded by": data.get("engine", "not known"),
        "Trained with": ", ".join(f"{name} {number}" for name, number in trained.items()) or "not known",
        "Exported with": f"d2v_fast {known['versions']['d2v_fast']}",
    }
    table = "\n".join(f"| {what} | {_cell(value)} |" for what, value in rows.items())
    settings = json.dumps(known["config"], indent=2)
    return f"""---
library_name: {library}
pipeline_tag: feature-extraction
tags: [data2vec, d2v_fast, {known["modality"]}]
---

# data2vec encoder ({known["modality"]})

{_ABOUT[known["fine_tuned"]].format(**known)}

```python
{usage.strip()}
```

{notes.strip()}

## Where it is from

| | |
|---|---|
{table}

Not filled in: what the data was, who may use it, and what the model should not be used for.

## Settings

```json
{settings}
```
"""


def _cell(value: Any) -> str:
    """A value as a cell of a table, on one line and without marks of its own."""
    return "".join(char if char.isprintable() else " " for char in str(value)).replace("|", "\\|").replace("<", "&lt;")


def _digest(state: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes and values."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in state.items():
        found.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().data)
    return found.hexdigest()
