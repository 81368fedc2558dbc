"""Mapping tables for people: what there is, a family's layouts side by side, and lint's verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from ckptconv.tables.lint import Finding
from ckptconv.tables.model import Cell, Choice, Row, Table


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


def side_by_side(table: Table) -> Group:
    """`tables show`: rows in the order of the file, layouts as columns, each block under the prefix its keys share."""
    lets = "   ".join(
        f"{{{let.name}}} {'|'.join(let.values) if isinstance(let, Choice) else f'0..{let.dim}'}"
        for let in table.lets.values()
    )
    head = Text(f"{table.family}", "bold")
    head.append(f"  {len(table.rows)} rows, {len(table.layouts)} layouts; {table.path.name}", "not bold dim")
    parts: list[Any] = [head, Text(lets, "dim"), Text()]
    grid = Grid(box=None, header_style="bold", padding=(0, 3, 0, 0), pad_edge=False)
    for name in ("shape", *(layout.name for layout in table.layouts)):
        grid.add_column(name, overflow="fold")
    for block in _blocks(table.rows):
        prefixes = [_common(cells) for cells in zip(*(row.cells for row in block), strict=True)]
        if len(block) > 1 and all(prefixes):
            grid.add_row("", *(Text(prefix, "cyan") for prefix in prefixes))
        else:
            prefixes = [""] * len(table.layouts)
        for row in block:
            grid.add_row(Text(_shape(row), "dim"), *_cells(row, prefixes))
        grid.add_row()
    parts.append(grid)
    parts += list(_rest(table))
    return Group(*parts)


def _shape(row: Row) -> str:
    return ",".join(row.shape) + (f" if {row.option}" if row.option else "")


def _cells(row: Row, prefixes: list[str]) -> Iterator[Text]:
    for cell, prefix in zip(row.cells, prefixes, strict=True):
        if cell is None:
            yield Text("-", "dim")
        else:
            text = Text(("  " if prefix else "") + cell.template[len(prefix) :])
            if cell.parts > 1:
                text.append(f"[{cell.part}/{cell.parts}]", "magenta")
            if cell.transposed:
                text.append("^T", "magenta")
            yield text


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
    parts = [cell.template.split(".")[:-1] for cell in cells if cell]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(shared) + "." if shared else ""


def _rest(table: Table) -> Iterator[Text]:
    lines = [("tie", f"{tie.layout}: {' = '.join(tie.keys)}") for tie in table.ties]
    lines += [
        ("const", f"{const.layout}: {const.template} {const.dtype} {list(const.shape)} = {const.value:g}")
        for const in table.consts
    ]
    lines += [("create", f"{create.layout}: {create.key} = {create.source}") for create in table.creates]
    lines += [("drop", f"{drop.layout}: {drop.template}, {drop.when}: {drop.reason}") for drop in table.drops]
    lines += [("resize", f"{resize.expression}: {', '.join(resize.dims)}") for resize in table.resizes]
    for word, text in lines:
        line = Text(f"{word:7}", "green")
        line.append(text, "default")
        yield line


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
