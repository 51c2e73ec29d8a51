"""What a path or an object may be: folders, manifests, tar shards, tables of `datasets`, arrays."""

from d2v_fast.data.formats.find import find
from d2v_fast.data.formats.kinds import Kind

__all__ = ["Kind", "find"]
