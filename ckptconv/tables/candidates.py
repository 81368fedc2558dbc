"""The layouts of the tables tried on a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import tee
from typing import NamedTuple

from ckptconv.tables.expand import KeyIndex
from ckptconv.tables.fit import Fit, Payload, Shapes, fit, key_index, known_share, no_fit, sampled
from ckptconv.tables.model import Table
from ckptconv.tables.spellings import Spelled, spellings


class _Candidate(NamedTuple):
    """A layout for a state dict. share: of a sample of its keys, how many the layout knows."""

    table: Table
    layout: str
    entry: str
    known: KeyIndex[Payload]
    share: float


def candidates(tables: Iterable[Table], entries: Mapping[str, Shapes]) -> list[Fit]:
    """The first layout that fits a state dict exactly, alone: no table after its own is looked at.

    Where none does, every layout of every table tried on every state dict, the best first; those that know much less
    of it than another one aren't looked at closely.
    """
    tried: list[tuple[_Candidate, Fit | None]] = []
    for each in _in_turn(tables, entries):
        found = _looked_at(each, entries) if each.share == 1 else None  # else some of its keys are left over
        if found and found.exact:
            return [found]
        tried.append((each, found))
    tried.sort(key=lambda pair: pair[0].share, reverse=True)
    enough = tried[0][0].share / 2 if tried else 0.0
    plain = {entry: Spelled({key: key for key in shapes}) for entry, shapes in entries.items()}
    fits = [
        found
        or (
            _looked_at(each, entries)
            if each.share and each.share >= enough
            else no_fit(each.table, each.layout, entries[each.entry], each.entry, plain[each.entry])
        )
        for each, found in tried
    ]
    return sorted(fits, key=lambda each: (-_likeness(each), len(each.missing) + len(each.mismatched)))


def _in_turn(tables: Iterable[Table], entries: Mapping[str, Shapes]) -> Iterator[_Candidate]:
    layouts = ((table, layout.name, key_index(table, layout.name)) for table in tables for layout in table.layouts)
    for (entry, shapes), each in zip(entries.items(), tee(layouts, len(entries)), strict=True):
        keys = sampled(tuple(shapes))
        for table, layout, index in each:
            yield _Candidate(table, layout, entry, index, _known(table, layout, keys, index))


def _looked_at(each: _Candidate, entries: Mapping[str, Shapes]) -> Fit:
    return fit(each.table, each.layout, entries[each.entry], each.entry, each.known)


def _known(table: Table, layout: str, keys: Sequence[str], index: KeyIndex[Payload]) -> float:
    """The share of the keys that the layout knows, read as it knows most of them."""
    return max(known_share(index, spelled.original) for spelled in spellings(table, layout, keys))


def _likeness(found: Fit) -> float:
    """The keys that the layout knows, as a share of all keys that are there or should be."""
    keys = len(found.spelled.original)
    return found.coverage * keys / (keys + len(found.missing)) if keys else 0.0
