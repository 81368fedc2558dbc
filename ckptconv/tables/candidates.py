"""Every layout of every table tried on a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckptconv.tables.expand import KeyIndex
from ckptconv.tables.fit import Fit, Payload, Shapes, fit, key_index, known_share, no_fit, sampled
from ckptconv.tables.model import Table
from ckptconv.tables.spellings import Spelled, spellings


def candidates(tables: tuple[Table, ...], entries: Mapping[str, Shapes]) -> list[Fit]:
    """Every layout of every table tried on every state dict of a checkpoint, the best first. Those that know much less
    of it than another one aren't looked at closely."""
    layouts = [(table, layout.name, key_index(table, layout.name)) for table in tables for layout in table.layouts]
    tried = [
        (_known(table, layout, sampled(tuple(shapes)), index), table, layout, shapes, entry, index)
        for entry, shapes in entries.items()
        for table, layout, index in layouts
    ]
    most = max((share for share, *_ in tried), default=0.0)
    fits = [
        fit(table, layout, shapes, entry, index)
        if share and share >= most / 2
        else no_fit(table, layout, shapes, entry, Spelled({key: key for key in shapes}))
        for share, table, layout, shapes, entry, index in tried
    ]
    return sorted(fits, key=lambda each: (-_likeness(each), len(each.missing) + len(each.mismatched)))


def _known(table: Table, layout: str, keys: Sequence[str], index: KeyIndex[Payload]) -> float:
    """The share of the keys that the layout knows, read as it knows most of them."""
    return max(known_share(index, spelled.original) for spelled in spellings(table, layout, keys))


def _likeness(found: Fit) -> float:
    """The keys that the layout knows, as a share of all keys that are there or should be."""
    keys = len(found.spelled.original)
    return found.coverage * keys / (keys + len(found.missing)) if keys else 0.0
