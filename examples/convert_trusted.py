"""Turn a pickled checkpoint that you trust into a safetensors file, which holds tensors and settings and no code.

python examples/convert_trusted.py checkpoint.pt checkpoint.safetensors --trust

A pickle may be a program, and this runs it: only where you trust its maker, best in a container. Needs torch and
safetensors; empty classes stand for those that are not installed.
"""

import json
import pickle
import sys
from types import SimpleNamespace

import torch
from safetensors.torch import save_file


class Unpickler(pickle.Unpickler):
    """Puts empty classes in the place of missing ones."""

    def find_class(self, module: str, name: str) -> object:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return type(name, (SimpleNamespace,), {"__init__": lambda self, *given, **others: None})


def plain(value: object) -> object:
    """Settings as JSON holds them: namespaces and the nodes of omegaconf are opened."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    inside = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    node = next((inside[key] for key in ("_content", "_val") if key in inside), None)
    return plain(node) if node is not None else {str(key): plain(inside[key]) for key in inside if str(key)[0] != "_"}


def tensors(state: dict, prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors by name; a teacher's begin with "_ema."."""
    found = {f"{prefix}{name}": value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    return found | (tensors(state["_ema"], f"{prefix}_ema.") if isinstance(state.get("_ema"), dict) else {})


def main() -> None:
    """Convert one file."""
    if len(sys.argv) != 4 or sys.argv[3] != "--trust":
        sys.exit(__doc__)
    reader = SimpleNamespace(Unpickler=Unpickler, load=pickle.load, __name__="pickle")
    content = torch.load(sys.argv[1], map_location="cpu", weights_only=False, pickle_module=reader)
    ema = content.get("model_ema")
    found = tensors(content.get("model", content)) | (tensors(ema, "_ema.") if isinstance(ema, dict) else {})
    settings = json.dumps(plain(content.get("cfg") or content.get("args") or {}))
    with open(sys.argv[2], "xb"):  # an error if it is there already
        save_file({name: value.contiguous() for name, value in found.items()}, sys.argv[2], {"settings": settings})
    print(f"{sys.argv[2]}: {len(found)} tensors")


if __name__ == "__main__":
    main()
