"""What every screen shares: the console, sizes and shapes as people write them, grids without lines."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table as Grid
from rich.text import Text

_PIPE_WIDTH = 160
# Rows that rich may lay out (0.2 ms each); more are printed plainly.
_LAID_OUT = 2000
_IN_A_PIPE = 200
Row = tuple[str | Text, ...]


def console(stderr: bool = False) -> Console:
    """Where reports go: as wide as the terminal, or wide enough for long keys in a pipe."""
    out = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if out.is_terminal:
        return out
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=_PIPE_WIDTH, no_color=True)


def show(renderable: RenderableType) -> None:
    """Print to stdout, without the blanks that grids leave at the ends of lines."""
    out = console()
    with out.capture() as capture:
        out.print(renderable, crop=False)
    sys.stdout.write("\n".join(line.rstrip() for line in capture.get().split("\n")))
    sys.stdout.flush()


def size(count: int) -> str:
    """Bytes as people say them: `1.45 GB` (decimal, as disks and the Hub count)."""
    number = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{count} B" if unit == "B" else f"{number:.3g} {unit}"
        number /= 1000
    raise AssertionError("the loop returns")


def shape_text(shape: Iterable[int]) -> str:
    """`250001 × 768`, or `scalar`."""
    return " × ".join(str(number) for number in shape) or "scalar"


def facts(pairs: Iterable[tuple[str, object]]) -> Text:
    """`vocab 163 · d 64`: names dim, values plain."""
    text = Text()
    for number, (name, value) in enumerate(pairs):
        text.append(" · " if number else "", "dim")
        text.append(f"{name} ", "dim")
        text.append(str(value))
    return text


def dims_text(dims: Mapping[str, int]) -> Text:
    """The dims; a `tgt_` one only where it differs from the source side's."""
    return facts(
        (name, size)
        for name, size in dims.items()
        if size != dims.get(name.removeprefix("tgt_"), size) or not name.startswith("tgt_")
    )


def grid(*columns: str) -> Grid:
    """A table without lines or header; a column is `left` (folded where too long), or `whole` or `right` (never)."""
    made = Grid(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for kind in columns:
        made.add_column(justify="right" if kind == "right" else "left", overflow="fold", no_wrap=kind != "left")
    return made


def rows(found: Sequence[Row], *columns: str) -> RenderableType:
    """The rows as a grid (see there); as plain lines where they are too many for one."""
    return _Rows(found, columns)


@dataclass(frozen=True)
class _Rows:
    """A few rows, or on a terminal many, are laid out; more, or many in a pipe, are lines as wide as they are."""

    rows: Sequence[Row]
    columns: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A grid, or plain lines."""
        if len(self.rows) > (_LAID_OUT if options.is_terminal else _IN_A_PIPE):
            yield _Plain(self.rows, self.columns)
            return
        table = grid(*self.columns)
        for row in self.rows:
            table.add_row(*row)
        yield table


@dataclass(frozen=True)
class Cut:
    """Rows for reading: all of them in a pipe or a file, the first ones on a terminal, which forgets the others."""

    rows: Sequence[Row]
    columns: tuple[str, ...]
    advice: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The rows, and how many there are more."""
        shown = self.rows[:_LAID_OUT] if options.is_terminal else self.rows
        yield rows(shown, *self.columns)
        if len(shown) < len(self.rows):
            yield Text(f"… and {len(self.rows) - len(shown):,} more ({self.advice})", "yellow")


@dataclass(frozen=True)
class _Plain:
    """Rows as padded lines without style, as wide as they are."""

    rows: Sequence[Row]
    columns: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A line per row."""
        table = [[cell.plain if isinstance(cell, Text) else cell for cell in row] for row in self.rows]
        sizes = [[cell_len(cell) for cell in row] for row in table]
        widths = [max(column) for column in zip(*sizes, strict=True)]
        for row, lengths in zip(table, sizes, strict=True):
            blanks = [" " * (width - length) for width, length in zip(widths, lengths, strict=True)]
            cells = [
                blank + cell if kind == "right" else cell + blank
                for kind, cell, blank in zip(self.columns, row, blanks, strict=True)
            ]
            yield Segment("  ".join(cells).rstrip() + "\n")
