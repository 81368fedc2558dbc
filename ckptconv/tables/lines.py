"""The `create` and `drop` lines of a layout, looked up by key."""

from __future__ import annotations

from ckptconv.tables.expand import KeyIndex, fill_in, written_out
from ckptconv.tables.model import Create, Drop, Table


def create_lines(table: Table, layout: str) -> KeyIndex[Create]:
    """How each key of the layout is made up that a source may lack; alternatives in `source` are written out too."""
    index: KeyIndex[Create] = KeyIndex(table.lets)
    for line in table.creates:
        for text, values in written_out(line.template, table.lets) if line.layout == layout else ():
            source = None if line.source is None else fill_in(line.source, dict(values))
            index.add(text, line._replace(source=source))
    return index


def drop_lines(table: Table, layout: str) -> KeyIndex[Drop]:
    """Why each key of the layout may be lost to targets that lack it."""
    index: KeyIndex[Drop] = KeyIndex(table.lets)
    for line in table.drops:
        for text, _ in written_out(line.template, table.lets) if line.layout == layout else ():
            index.add(text, line)
    return index
