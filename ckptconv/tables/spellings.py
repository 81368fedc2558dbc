"""The ways in which a state dict's keys may be read: as they are, without a wrapper's prefix, with the bare model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ckptconv.tables.model import Table
from ckptconv.text import printable


class Spelled(NamedTuple):
    """One way to read the keys. original: key as the table has it → key in the file. notes: what was done, in words."""

    original: Mapping[str, str]
    notes: tuple[str, ...] = ()


def spellings(table: Table, layout: str, keys: Sequence[str]) -> Iterator[Spelled]:
    """Every way to read the keys in this layout, the plainest first. No two keys ever become one: then their last parts
    are left as they are."""
    for names, note in _prefixes(table, layout, keys):
        read, renamed = _last_parts(table, layout, names)
        if len(set(read)) < len(keys):
            read, renamed = names, ""
        yield Spelled(dict(zip(read, keys, strict=True)), tuple(filter(None, (note, renamed))))


def _prefixes(table: Table, layout: str, keys: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    bases = [line.prefix for line in table.bases if line.layout == layout]
    names, stripped = list(keys), ""
    while True:
        without = f"all keys begin with `{printable(stripped)}`: read without it" if stripped else ""
        yield names, without
        for base in bases:
            bare = f"a bare model: its keys are read with `{base}`"
            yield [base + name for name in names], "; ".join(filter(None, (without, bare)))
        firsts = {name.partition(".")[0] for name in names}
        if len(firsts) != 1 or not all("." in name for name in names):
            return
        stripped += f"{firsts.pop()}."
        names = [name.partition(".")[2] for name in names]


def _last_parts(table: Table, layout: str, names: Sequence[str]) -> tuple[Sequence[str], str]:
    """The names with their old last parts (`gamma`) as the table has them (`weight`)."""
    new = {line.old: line.new for line in table.spellings if line.layout == layout}
    if not new:
        return names, ""
    found = sorted({name.rpartition(".")[2] for name in names} & new.keys())
    if not found:
        return names, ""
    read = [f"{head}{dot}{new.get(last, last)}" for head, dot, last in (name.rpartition(".") for name in names)]
    return read, "old names: " + ", ".join(f"`{old}` is read as `{new[old]}`" for old in found)
