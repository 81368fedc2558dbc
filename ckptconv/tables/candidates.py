"""Every layout of every table tried on a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from ckptconv.tables.fit import Fit, Shapes, fit, key_index
from ckptconv.tables.model import Table


def candidates(tables: tuple[Table, ...], entries: Mapping[str, Shapes]) -> list[Fit]:
    """Every layout of every table tried on every state dict of a checkpoint, the best first."""
    layouts = [(table, layout.name, key_index(table, layout.name)) for table in tables for layout in table.layouts]
    fits = [
        fit(table, layout, shapes, entry, index)
        for entry, shapes in entries.items()
        for table, layout, index in layouts
    ]
    return sorted(fits, key=lambda each: (-_likeness(each), len(each.missing) + len(each.mismatched)))


def _likeness(found: Fit) -> float:
    """The keys that the layout knows, as a share of all keys that are there or should be."""
    keys = len(found.spelled.original)
    return found.coverage * keys / (keys + len(found.missing)) if keys else 0.0
