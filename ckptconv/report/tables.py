"""Mapping tables for people: what there is, a family's layouts side by side, and lint's verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from ckptconv.keys import common_prefix
from ckptconv.tables.lint import Finding
from ckptconv.tables.model import Cell, Choice, Index, Let, Name, Row, Table

_SIDE_BY_SIDE = 30  # columns of the screen for each layout, and as many for the shapes


def summary(table: Table) -> dict[str, Any]:
    """A table as plain data."""
    return {
        "family": table.family,
        "path": str(table.path),
        "rows": len(table.rows),
        "layouts": [
            {"name": f"{table.family}/{layout.name}", "container": layout.container, "entry": layout.entry}
            for layout in table.layouts
        ],
    }


def listing(tables: Iterable[Table]) -> Grid:
    """`tables list`: a line per layout."""
    grid = Grid(box=None, header_style="bold", padding=(0, 3, 0, 0), pad_edge=False)
    for name in ("layout", "container", "entry", "keys"):
        grid.add_column(name)
    for table in tables:
        for column, layout in enumerate(table.layouts):
            held = sum(1 for row in table.rows if row.cells[column])
            grid.add_row(
                f"{table.family}/{layout.name}",
                layout.container,
                layout.entry or "",
                f"{held} rows of {len(table.rows)}",
            )
    return grid


def family(table: Table, width: int) -> Group:
    """`tables show`: rows in the order of the file, each block under the prefix that its keys share.

    The layouts stand side by side where `width` columns hold them, else below each other.
    """
    head = Text(f"{table.family}", "bold")
    head.append(f"  {len(table.rows)} rows, {len(table.layouts)} layouts; {table.path.name}", "not bold dim")
    lets = [Text(f"{{{let.name}}}  {_stands_for(let)}", "dim") for let in table.lets.values()]
    blocks = [_Block.of(rows) for rows in _blocks(table.rows)]
    grid = (
        _side_by_side(table, blocks)
        if width >= _SIDE_BY_SIDE * (len(table.layouts) + 1) - 10
        else _below_each_other(table, blocks)
    )
    return Group(head, *lets, Text(), grid, *_rest(table))


def _stands_for(let: Let) -> str:
    if isinstance(let, Choice):
        return " ".join(let.values)
    if isinstance(let, Index):
        return f"0..{let.dim}"
    return f"any one part ({let.default})" if isinstance(let, Name) else "the rest of any key"


@dataclass(frozen=True)
class _Block:
    """Rows of one kind of module, and the prefix that their keys share in each layout ("" for none)."""

    rows: tuple[Row, ...]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, rows: list[Row]) -> _Block:
        shared = tuple(_common(cells) for cells in zip(*(row.cells for row in rows), strict=True))
        useful = len(rows) > 1 and all(shared)
        return cls(tuple(rows), shared if useful else ("",) * len(shared))


def _side_by_side(table: Table, blocks: list[_Block]) -> Grid:
    grid = Grid(box=None, header_style="bold", padding=(0, 3, 0, 0), pad_edge=False)
    for name in ("shape", *(layout.name for layout in table.layouts)):
        grid.add_column(name, overflow="fold")
    for block in blocks:
        if any(block.prefixes):
            grid.add_row("", *(Text(prefix, "cyan") for prefix in block.prefixes))
        for row in block.rows:
            grid.add_row(Text(_shape(row), "dim"), *_cells(row, block))
        grid.add_row()
    return grid


def _below_each_other(table: Table, blocks: list[_Block]) -> Grid:
    """A layout that isn't named has what the one above it has, as `"` says in the file."""
    grid = Grid(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for block in blocks:
        if any(block.prefixes):
            for name, prefix in _differing(table, [Text(prefix or "-", "cyan") for prefix in block.prefixes]):
                grid.add_row(Text(name, "cyan"), prefix)
        for row in block.rows:
            grid.add_row(Text(_shape(row), "bold"))
            for name, cell in _differing(table, list(_cells(row, block))):
                grid.add_row(Text(f"  {name}", "dim"), cell)
        grid.add_row()
    return grid


def _differing(table: Table, cells: list[Text]) -> Iterator[tuple[str, Text]]:
    """The layouts' names and cells, without those that say the same as the one before."""
    for before, layout, cell in zip([None, *cells], table.layouts, cells, strict=False):
        if before is None or before.plain != cell.plain:
            yield layout.name, cell


def _shape(row: Row) -> str:
    return ",".join(row.shape) + (f" {_when(row.option)}" if row.option else "")


def _cells(row: Row, block: _Block) -> Iterator[Text]:
    for cell, prefix in zip(row.cells, block.prefixes, strict=True):
        if cell is None:
            yield Text("-", "dim")
        else:
            text = Text(("  " if prefix else "") + cell.template[len(prefix) :])
            if cell.parts > 1:
                text.append(f"[{cell.part}/{cell.parts}]", "magenta")
            if cell.transposed:
                text.append("^T", "magenta")
            yield text


def _when(option: str) -> str:
    return f"unless {option[1:]}" if option.startswith("!") else f"if {option}"


def _blocks(rows: tuple[Row, ...]) -> Iterator[list[Row]]:
    """Consecutive rows whose cells begin alike: those of one kind of layer, or those around the layers."""
    for _, block in groupby(rows, _counter):
        yield list(block)


def _counter(row: Row) -> str:
    """The first cell up to its index, `encoder.layers.{i}`; "" for a row without one."""
    first = next(cell.template for cell in row.cells if cell)
    head, dot_brace, rest = first.partition(".{")
    return f"{head}{dot_brace}{rest.partition('}')[0]}" if rest.partition("}")[2].startswith(".") else ""


def _common(cells: tuple[Cell | None, ...]) -> str:
    """The dotted prefix that all keys of a block share; "" for none."""
    return common_prefix(cell.template for cell in cells if cell)


def _rest(table: Table) -> Iterator[Text]:
    """A line for what differs between the layouts; layouts of which the same is said stand together."""
    merged: dict[tuple[str, str], list[str]] = {}
    for word, layout, said in _said(table):
        merged.setdefault((word, said), []).append(layout)
    for (word, said), layouts in merged.items():
        line = Text(f"{word:7}", "green")
        line.append(f"{', '.join(layouts)}: {said}", "default")
        yield line


def _said(table: Table) -> Iterator[tuple[str, str, str]]:
    """(word of the table language, layout, what it says)"""
    for tie in table.ties:
        yield "tie", tie.layout, " = ".join(tie.keys)
    for const in table.consts:
        yield "const", const.layout, f"{const.template} {const.dtype} {list(const.shape)} = {const.value:g}"
    for create in table.creates:
        made_of = f"{create.value:g}" if create.source is None else create.source
        yield "create", create.layout, f"{create.template} = {made_of}"
    for fold in table.folds:
        yield "fold", fold.layout, f"{fold.key} into {fold.into}"
    for heads in table.heads:
        yield "heads", heads.layout, f"one of {', '.join(heads.options)}"
    for has in table.has:
        yield "has", has.layout, has.option
    for lacks in table.lacks:
        yield "lacks", lacks.layout, f"{lacks.option}, {lacks.reason}"
    for drop in table.drops:
        yield "drop", drop.layout, f"{drop.template}, {drop.when}: {drop.reason}"
    for note in table.notes:
        for layout in note.layouts:
            yield "note", layout, note.text if note.condition == "1" else f"{note.text} (if {note.condition})"
    for listed in [table.words.listed] if table.words.listed else []:
        for layout in listed.layouts:
            yield "words", layout, f"listed in {listed.file}"
    for resize in table.resizes:
        yield "resize", resize.expression, ", ".join(resize.dims)


def verdict(table: Table, found: tuple[Finding, ...]) -> dict[str, Any]:
    """Lint's verdict as plain data."""
    return {
        "path": str(table.path),
        "sound": not found,
        "findings": [{"line": finding.line, "message": finding.message} for finding in found],
    }


def proof(table: Table, found: tuple[Finding, ...]) -> str:
    """Lint's verdict as text, a line per finding."""
    if found:
        return "\n".join(f"{table.where(finding.line)}: {finding.message}" for finding in found)
    pairs = len(table.layouts) * (len(table.layouts) - 1)
    return (
        f"{table.path.parent.name}/{table.path.name}: sound; {len(table.rows)} rows, {pairs} ordered pairs of layouts"
    )
