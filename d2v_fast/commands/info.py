"""`d2v-fast info`: versions, what was compiled, and which code serves each operation on each kind of device."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from typing import Any

import torch

from d2v_fast import _C, ops

OPTIONAL = {
    "triton": "GPU kernels (comes with torch on Linux)",
    "xformers": "extra xformers",
    "nvidia-dali-cuda130": "extra dali",
    "transformers": "extras hf, export",
    "timm": "extra export",
    "onnx": "extra export",
    "onnxscript": "extra export",
    "onnxruntime": "extra export",
    "datasets": "extra hf",
    "pyarrow": "extra parquet",
    "torchcodec": "for MP3 and M4A",
    "tensorboard": "extra tensorboard",
    "wandb": "extra wandb",
    "scikit-learn": "extra demo",
    "matplotlib": "extra demo",
    "espeakng-loader": "extra demo",
}
REQUIRED = (
    "d2v_fast",
    "torch",
    "torchvision",
    "numpy",
    "safetensors",
    "tokenizers",
    "soundfile",
    "soxr",
    "tyro",
    "rich",
)


_VARIABLES = (
    "D2V_FAST_ISA",
    "D2V_FAST_GPU",
    "D2V_FAST_DEBUG",
    "D2V_FAST_KEEP_MEMORY",
    "D2V_FAST_CACHE",
    "D2V_FAST_CACHE_GB",
)
"""What a user can say by the environment."""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def collect() -> dict[str, Any]:
    """Everything that `d2v-fast info` prints, as plain data that JSON can hold.

    Returns:
        Sections "versions", "optional", "build", "machine" and "operations"; the last maps operation -> device type ->
        {"implementation", "reason"}.
    """
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in REQUIRED}},
        "optional": {name: _version(name) for name in OPTIONAL},
        "build": {
            "compiler": _C.compiler,
            "instruction sets": _C.instruction_sets,
            "CUDA C++": _C.cuda,
            "file": _C.__file__,
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "torch threads": torch.get_num_threads(),
            "instruction set": _C.isa(),
            "GPUs": devices,
            **{name: os.environ.get(name) for name in _VARIABLES},
        },
        "operations": {
            operation: {device: backend._asdict() for device, backend in served.items()}
            for operation, served in ops.backends().items()
        },
    }


def main(as_json: bool = False) -> None:
    """Prints the report, as tables or as JSON on standard output."""
    report = collect()
    if as_json:
        json.dump(report, sys.stdout, indent=2)
        print()
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for section in ("versions", "optional", "build", "machine"):
        table = Table(title=section, title_justify="left", show_header=False)
        for name, value in report[section].items():
            if section == "optional":
                text = value or f"not installed ({OPTIONAL[name]})"
            elif isinstance(value, list):
                text = ", ".join(value) or "none"
            else:
                text = "not set" if value is None else str(value)
            table.add_row(name, text)
        console.print(table)
    table = Table("operation", "device", "served by", "because", title="operations", title_justify="left")
    for operation, served in report["operations"].items():
        for device, backend in served.items():
            table.add_row(operation, device, backend["implementation"], backend["reason"])
    console.print(table)
