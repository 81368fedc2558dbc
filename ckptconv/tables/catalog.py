"""The tables that ship with the package, and a user's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path

from ckptconv.errors import BadTable, WrongUse
from ckptconv.tables.model import Table
from ckptconv.tables.parse import read_table
from ckptconv.text import printable


def folder() -> Path:
    """Where the tables lie: in the package (wheels), else in the sibling folder `mappings/` (editable installs)."""
    package = Path(__file__).parent.parent
    for candidate in (package / "mappings", package.parent / "mappings"):
        if any(candidate.glob("*.tbl")):
            return candidate
    raise BadTable(f"No mapping tables found in {package / 'mappings'}: reinstall ckptconv.", package)


class Tables:
    """The tables of these files, each read when it is first come to: most checkpoints fit the first ones."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths, self._read = tuple(paths), cache(read_table)

    def __iter__(self) -> Iterator[Table]:
        """In the order of the files. Raises BadTable."""
        return map(self._read, self._paths)


def tables(own: Path | None = None) -> Tables:
    """A user's own table; by default every table that ships, by family."""
    return Tables([own] if own else sorted(folder().glob("*.tbl")))


def layout_named(name: str, among: Iterable[Table]) -> tuple[Table | None, str]:
    """`family/layout` or `layout` alone → (its table, or None where several families have it; the layout's name).

    Raises WrongUse, with what there is, for a name that no table has.
    """
    family, slash, layout = name.rpartition("/")
    having = (
        table
        for table in among
        if (not slash or table.family == family) and layout in [each.name for each in table.layouts]
    )
    found = [*islice(having, 1 if slash else None)]
    if not found:
        known = ", ".join(f"{table.family}/{each.name}" for table in among for each in table.layouts)
        raise WrongUse(f"There is no layout `{printable(name)}`; expected one of {known}, or same.")
    return (found[0] if slash or len(found) == 1 else None), layout
