"""`inspect` as a table for other programs (CSV) and for issues and model cards (Markdown)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ckptconv.report.inspection import (
    certainty,
    counts,
    filtered,
    number,
    other_row,
    percent,
    producers,
    setting_text,
    shared_text,
)
from ckptconv.report.terminal import shape_text, size
from ckptconv.report.tree import Line, module_tree
from ckptconv.text import printable

if TYPE_CHECKING:
    from ckptconv.commands.inspect import Inspection, TensorInfo

_STATS = ("min", "max", "mean", "std", "zeros", "nan", "inf")


def tensors_csv(report: Inspection) -> str:
    """A row per tensor: key, shape (`768x768`, "" for a scalar), dtype, bytes, tied_to ("" for none), contiguous; and
    its statistics, if the report has any ("" for what isn't known)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = _STATS if _measured(report) else ()
    writer.writerow(["key", "shape", "dtype", "bytes", "tied_to", "contiguous", *names])
    for info in report.tensors:
        shape = "x".join(str(length) for length in info.shape)
        head = [_cell(info.key), shape, info.dtype, info.bytes, _cell(info.tied_to or ""), str(info.contiguous).lower()]
        writer.writerow([*head, *(getattr(info.stats, name) for name in names)])
    return text.getvalue()


def _measured(report: Inspection) -> bool:
    return any(info.stats for info in report.tensors)


def _cell(text: str) -> str:
    """Whole, but a spreadsheet must not take it for a formula (owasp.org: CSV Injection)."""
    shown = _whole(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def _whole(text: str) -> str:
    return printable(text, len(text))


def tree_markdown(report: Inspection, depth: int | None) -> str:
    """The facts, and a table of the module tree down to `depth`."""
    mixed = len(report.dtypes) > 1
    cells = (
        (_module(line), f"{line.parameters:,}", _leaves(line, mixed)) for line in module_tree(report.tensors, depth)
    )
    return _document(report, ("module", "parameters", "tensors"), cells)


def tensors_markdown(report: Inspection) -> str:
    """The facts, and a table of every tensor, with its statistics if the report has any."""
    names = _STATS if _measured(report) else ()
    cells = (
        (
            *(_code(info.key), shape_text(info.shape), info.dtype, size(info.bytes), _code(info.tied_to or "")),
            *(_value(info, name) for name in names),
        )
        for info in report.tensors
    )
    return _document(report, ("key", "shape", "dtype", "size", "tied to", *names), cells)


def _value(info: TensorInfo, name: str) -> str:
    """One of the statistics; zeros as a share."""
    found = info.stats
    if found is None:
        return ""
    if name == "zeros":
        return percent(found.zeros / found.count) if found.count else ""
    return number(getattr(found, name)).strip()


def _document(report: Inspection, names: tuple[str, ...], cells: Iterable[tuple[str, ...]]) -> str:
    lines = [f"# {_code(report.path)}", "", *(f"- {fact}" for fact in _facts(report)), "", *_table(names, cells)]
    if report.other:
        lines += ["", "Besides the state dict:", ""]
        others = (other_row(entry) for entry in report.other)
        lines += _table(("entry", "kind", "tensors"), ((_code(name), _code(kind), what) for name, kind, what in others))
    if report.config:
        settings = (
            (_code(each.document), _code(each.field), _code(setting_text(each.value))) for each in report.config
        )
        lines += ["", "Config:", "", *_table(("document", "field", "value"), settings)]
    return "\n".join(lines) + "\n"


def _facts(report: Inspection) -> Iterator[str]:
    yield f"container: {report.container}"
    yield f"layout: {report.layout or 'unknown'}" + (f", under {_code(report.entry)}" if report.entry else "")
    if certainty(report):
        yield certainty(report)
    if report.producer:
        yield f"as written by: {_code(producers(report))}"
    if report.dims:
        yield "dims: " + ", ".join(f"{_code(name)} {length}" for name, length in report.dims.items())
    if filtered(report):
        yield _code(filtered(report))
    for name, what in counts(report):
        yield f"{name}: {what}"
    for shared in report.shared:
        yield f"different views of one storage of {size(shared.bytes)}: {_code(shared_text(shared))}"
    for odd in report.odd_keys:
        yield f"keys that look wrong: {_code(odd.reason)}: " + ", ".join(map(_code, odd.keys))
    for name, value in report.metadata.items():
        yield f"metadata {_code(name)}: {_code(printable(value))}"
    for note in report.notes:
        yield f"note: {_code(note)}"


def _table(names: tuple[str, ...], cells: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield f"|{' --- |' * len(names)}"
    for row in cells:
        yield f"| {' | '.join(map(_piped, row))} |"


def _piped(cell: str) -> str:
    """Where there is a `|` to escape, backslashes are doubled, or one before it would undo that."""
    return cell.replace("\\", "\\\\").replace("|", "\\|") if "|" in cell else cell


def _module(line: Line) -> str:
    times = f" {line.times:,} ×" if line.times > 1 else ""
    # Markdown drops leading blanks.
    return "&emsp;" * line.depth + _code(line.name) + times


def _leaves(line: Line, mixed: bool) -> str:
    return ", ".join(_leaf(part, info, line.times, mixed) for part, info in line.leaves)


def _leaf(part: str, info: TensorInfo, times: int, mixed: bool) -> str:
    words = [_code(part), shape_text(info.shape), info.dtype if mixed else ""]
    if info.tied_to is not None and times == 1:
        words.append(f"= {_code(info.tied_to)}")
    return " ".join(filter(None, words))


def _code(text: str) -> str:
    """A code span, in which Markdown and HTML mean nothing; fenced by more backticks than it holds in a row."""
    if not text:
        return ""
    shown = _whole(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    blank = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{blank}{shown}{blank}{fence}"
