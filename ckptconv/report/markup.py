"""Text that a file chose, as cells of CSV and Markdown tables: shown whole, obeyed by nobody."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ckptconv.text import printable


def csv_cell(text: str) -> str:
    """Whole, but a spreadsheet must not take it for a formula (owasp.org: CSV Injection)."""
    shown = _whole(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def code(text: str) -> str:
    """A code span, in which Markdown and HTML mean nothing; fenced by more backticks than it holds in a row."""
    if not text:
        return ""
    shown = _whole(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    blank = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{blank}{shown}{blank}{fence}"


def prose(text: str) -> str:
    """Running text on one line, with what Markdown and HTML would take for markup escaped."""
    escaped = "".join(f"\\{char}" if char in "\\`*_<>[]#" else char for char in _whole(text))
    return escaped.replace("|", "&#124;")


def markdown_table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """The lines of a table whose cells are `code`, `prose` or plain words."""
    heads = tuple(names)
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(map(_piped, row))} |"


def _whole(text: str) -> str:
    return printable(text, len(text))


def _piped(cell: str) -> str:
    """Where there is a `|` to escape, backslashes are doubled, or one before it would undo that."""
    return cell.replace("\\", "\\\\").replace("|", "\\|") if "|" in cell else cell
