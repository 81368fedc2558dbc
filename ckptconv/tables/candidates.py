"""Every layout of every table tried on a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckptconv.tables.expand import KeyIndex
from ckptconv.tables.fit import Fit, Payload, Shapes, fit, key_index, no_fit
from ckptconv.tables.model import Table
from ckptconv.tables.spellings import Spelled, spellings

_SAMPLE = 100  # keys, evenly spread, that tell whether a layout is worth a look


def candidates(tables: tuple[Table, ...], entries: Mapping[str, Shapes]) -> list[Fit]:
    """Every layout of every table tried on every state dict of a checkpoint, the best first."""
    layouts = [(table, layout.name, key_index(table, layout.name)) for table in tables for layout in table.layouts]
    fits = [
        _candidate(table, layout, shapes, entry, index)
        for entry, shapes in entries.items()
        for table, layout, index in layouts
    ]
    return sorted(fits, key=lambda each: (-_likeness(each), len(each.missing) + len(each.mismatched)))


def _candidate(table: Table, layout: str, shapes: Shapes, entry: str, index: KeyIndex[Payload]) -> Fit:
    """The state dict seen as the layout, if that knows any key of a sample."""
    keys = tuple(shapes)
    if _knows_some(table, layout, keys[:: max(1, len(keys) // _SAMPLE)], index):
        return fit(table, layout, shapes, entry, index)
    return no_fit(table, layout, shapes, entry, Spelled({key: key for key in keys}))


def _knows_some(table: Table, layout: str, keys: Sequence[str], index: KeyIndex[Payload]) -> bool:
    """Whether the layout knows any of the keys, however they are read."""
    return any(index.find(key)[0] for spelled in spellings(table, layout, keys) for key in spelled.original)


def _likeness(found: Fit) -> float:
    """The keys that the layout knows, as a share of all keys that are there or should be."""
    keys = len(found.spelled.original)
    return found.coverage * keys / (keys + len(found.missing)) if keys else 0.0
