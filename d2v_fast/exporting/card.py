"""What a reader of an export has to know, as a model card and as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from torch import Tensor

from d2v_fast.config_json import to_dict
from d2v_fast.finetuning.tasks import TASKS
from d2v_fast.interop.outputs import pipeline
from d2v_fast.interop.trained import Trained
from d2v_fast.run.reader import Run

FILE = "d2v_fast.json"
"""The facts about an export, by which a folder is known as one."""

_SHOWN = 20
"""How many labels the card names."""

_ABOUT = {
    False: "The {network} of a data2vec run (Baevski et al., 2022), pretrained without labels. It gives features; for\n"
    "labels it has to be fine-tuned.",
    True: "A data2vec network (Baevski et al., 2022) that was fine-tuned on labels, with its outputs for them.",
}


def facts(run: Run, to: str, network: str, trained: Trained) -> dict[str, Any]:
    """Where the weights are from, as JSON can hold it.

    Args:
        run: The run, of whose folder only the name is taken.
        to: The format.
        network: "student" or "teacher".
        trained: What is written.

    Raises:
        RunError: The run cannot be read.
    """
    outputs, state = trained.outputs, trained.network.state_dict()
    chosen = run.best()
    return {
        "format": to,
        "run": run.path.resolve().name,
        "step": chosen.step,
        "steps": run.config.steps,
        "network": network,
        "preset": run.notes.preset,
        "modality": run.config.model.modality,
        "fine_tuned": outputs is not None,
        "pipeline": pipeline(trained.config.modality, outputs),
        "task": None if outputs is None else outputs.task,
        "labels": None if outputs is None else list(outputs.labels),
        "validation": None if outputs is None else _validation(run, chosen.state),
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
        **_labels(known),
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
pipeline_tag: {known["pipeline"]}
tags: [data2vec, d2v_fast, {known["modality"]}]
---

# data2vec {"network, fine-tuned" if known["fine_tuned"] else "encoder"} ({known["modality"]})

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


def _labels(known: Mapping[str, Any]) -> dict[str, str]:
    """Rows about the outputs of a fine-tuned network."""
    if known["task"] is None:
        return {}
    labels, best = known["labels"], known["validation"]
    names = ", ".join(labels[:_SHOWN]) + (f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else "")
    what = {"ctc": "Symbols", "regress": "Output"}.get(known["task"], "Classes")
    measured = "not measured" if best["value"] is None else f"{best['metric']} {best['value']:.4g}"
    return {"Task": known["task"], what: f"{len(labels)}: {names}", "Validation that chose the checkpoint": measured}


def _validation(run: Run, state: Mapping[str, Any]) -> dict[str, Any]:
    """The number that chose the checkpoint, as far as it is known."""
    task = run.config.task
    selection = state.get("selection", {})
    return {"metric": task.metric or TASKS[task.name].chooses, "value": selection.get("value")}


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
