"""Types of the compiled module (csrc/bind.cpp)."""

from typing import Any

compiler: str
instruction_sets: str

def isa() -> str: ...
def __getattr__(name: str) -> Any: ...
