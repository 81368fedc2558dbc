"""What every screen shares: the console, sizes and shapes as people write them, grids without lines."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from rich.console import Console, RenderableType
from rich.table import Table as Grid
from rich.text import Text

_PIPE_WIDTH = 160


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
        out.print(renderable)
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
