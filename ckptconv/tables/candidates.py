"""Every layout of every table tried on a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter

from ckptconv.tables.expand import KeyIndex
from ckptconv.tables.fit import Fit, Payload, Shapes, fit, key_index, known_share, no_fit, sampled
from ckptconv.tables.model import Table
from ckptconv.tables.spellings import Spelled, spellings


def candidates(tables: tuple[Table, ...], entries: Mapping[str, Shapes]) -> list[Fit]:
    """Every layout of every table tried on every state dict of a checkpoint, the best first. Those that know much less
    of it than another one aren't looked at closely, and once one fits exactly, none is."""
    layouts = [(table, layout.name, key_index(table, layout.name)) for table in tables for layout in table.layouts]
    samples = {entry: sampled(tuple(shapes)) for entry, shapes in entries.items()}
    plain = {entry: Spelled({key: key for key in shapes}) for entry, shapes in entries.items()}
    tried = [
        (_known(table, layout, sample, index), table, layout, entry, index)
        for entry, sample in samples.items()
        for table, layout, index in layouts
    ]
    tried.sort(key=itemgetter(0), reverse=True)
    fits: list[Fit] = []
    for share, table, layout, entry, index in tried:
        if share and share >= tried[0][0] / 2 and not any(each.exact for each in fits):
            fits.append(fit(table, layout, entries[entry], entry, index))
        else:
            fits.append(no_fit(table, layout, entries[entry], entry, plain[entry]))
    return sorted(fits, key=lambda each: (-_likeness(each), len(each.missing) + len(each.mismatched)))


def _known(table: Table, layout: str, keys: Sequence[str], index: KeyIndex[Payload]) -> float:
    """The share of the keys that the layout knows, read as it knows most of them."""
    return max(known_share(index, spelled.original) for spelled in spellings(table, layout, keys))


def _likeness(found: Fit) -> float:
    """The keys that the layout knows, as a share of all keys that are there or should be."""
    keys = len(found.spelled.original)
    return found.coverage * keys / (keys + len(found.missing)) if keys else 0.0
