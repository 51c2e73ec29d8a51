"""What a path holds, for commands that are not told the modality."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path

from d2v_fast import registry
from d2v_fast.data.formats import Kind, archives, manifest, tables
from d2v_fast.data.formats.entries import check_encoding, entries
from d2v_fast.data.formats.find import expand
from d2v_fast.data.listing import list_files
from d2v_fast.data.paths import expanded
from d2v_fast.data.protocol import modality_of
from d2v_fast.errors import DataError


def guess(path: str | Path) -> str:
    """The modality of most files at a path; of several shards, those of the first.

    Raises:
        DataError: There are pictures and sound, or neither these nor text.
    """
    place = expanded(path)
    if not place.exists() and "://" not in str(path):
        shards = expand(str(place))
        place = Path(shards[0]) if shards else place
    if not place.exists():
        raise DataError(f"data: cannot look at {path} to see what it holds: say --modality")
    found = _extensions(place)
    kinds = [kind for kind in _kinds() if kind.guessed]
    counts = {kind.modality: sum(found[e] for e in {*kind.extensions, *kind.remedies}) for kind in kinds}
    # a table or a list may lie beside pictures and clips: documents are what is there when nothing else is
    likely = [kind.modality for kind in kinds if counts[kind.modality] and not kind.documents]
    if len(likely) > 1:
        raise DataError(
            f"{path} has {' and '.join(f'{counts[name]} files of {name}' for name in likely)}: choose by --modality"
        )
    likely += [kind.modality for kind in kinds if counts[kind.modality] and kind.documents]
    if not likely:
        raise DataError(f"{path} has no files that are known by their names; say --modality")
    return likely[0]


def _kinds() -> list[Kind]:
    """Those of all modalities that read files."""
    kinds = []
    for name in registry.names():
        with contextlib.suppress(DataError):  # reads none
            kinds.append(modality_of(name).kind())
    return kinds


def _extensions(path: Path) -> Counter[str]:
    """How many files of each extension there are."""
    if path.is_dir():
        if tables.is_saved(path):
            raise DataError(f"{path} was saved by datasets and needs no manifest: pass it to pretrain as it is")
        found = list_files(path, (archives.EXTENSION,))
        shard = found.names[0] if found.names else None
        return found.ignored if shard is None else found.ignored + _members(path, shard)
    if path.suffix.lower() == archives.EXTENSION and path.is_file():
        return _members(path.parent, path.name)
    if path.suffix.lower() in manifest.EXTENSIONS and path.is_file():
        kinds = _kinds()
        check_encoding(path)
        if not all(manifest.is_manifest(path, kind) for kind in kinds):
            return Counter({path.suffix.lower(): 1})
        names = [entry.path for _, entry in entries(path, kinds[0]) if not isinstance(entry, str)]
        return Counter(os.path.splitext(name)[1].lower() for name in names)
    return Counter({path.suffix.lower(): 1})


def _members(root: Path, shard: str) -> Counter[str]:
    members, _ = archives.members(root, shard, (root / shard).stat().st_size)
    return Counter(os.path.splitext(name)[1].lower() for name, *_ in members)
