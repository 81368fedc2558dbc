"""`inspect` as a table for other programs (CSV) and for issues and model cards (Markdown)."""

from __future__ import annotations

import csv
import io
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
from ckptconv.report.markup import code, csv_cell, markdown_table
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
        head = [
            csv_cell(info.key),
            shape,
            info.dtype,
            info.bytes,
            csv_cell(info.tied_to or ""),
            str(info.contiguous).lower(),
        ]
        writer.writerow([*head, *(getattr(info.stats, name) for name in names)])
    return text.getvalue()


def _measured(report: Inspection) -> bool:
    return any(info.stats for info in report.tensors)


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
            *(code(info.key), shape_text(info.shape), info.dtype, size(info.bytes), code(info.tied_to or "")),
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
    lines = [f"# {code(report.path)}", "", *(f"- {fact}" for fact in _facts(report)), "", *markdown_table(names, cells)]
    if report.other:
        lines += ["", "Besides the state dict:", ""]
        others = (other_row(entry) for entry in report.other)
        lines += markdown_table(
            ("entry", "kind", "tensors"), ((code(name), code(kind), what) for name, kind, what in others)
        )
    if report.config:
        settings = ((code(each.document), code(each.field), code(setting_text(each.value))) for each in report.config)
        lines += ["", "Config:", "", *markdown_table(("document", "field", "value"), settings)]
    return "\n".join(lines) + "\n"


def _facts(report: Inspection) -> Iterator[str]:
    yield f"container: {report.container}"
    yield f"layout: {report.layout or 'unknown'}" + (f", under {code(report.entry)}" if report.entry else "")
    if certainty(report):
        yield certainty(report)
    if report.producer:
        yield f"as written by: {code(producers(report))}"
    if report.dims:
        yield "dims: " + ", ".join(f"{code(name)} {length}" for name, length in report.dims.items())
    if filtered(report):
        yield code(filtered(report))
    for name, what in counts(report):
        yield f"{name}: {what}"
    for shared in report.shared:
        yield f"different views of one storage of {size(shared.bytes)}: {code(shared_text(shared))}"
    for odd in report.odd_keys:
        yield f"keys that look wrong: {code(odd.reason)}: " + ", ".join(map(code, odd.keys))
    for name, value in report.metadata.items():
        yield f"metadata {code(name)}: {code(printable(value))}"
    for note in report.notes:
        yield f"note: {code(note)}"


def _module(line: Line) -> str:
    times = f" {line.times:,} ×" if line.times > 1 else ""
    # Markdown drops leading blanks.
    return "&emsp;" * line.depth + code(line.name) + times


def _leaves(line: Line, mixed: bool) -> str:
    return ", ".join(_leaf(part, info, line.times, mixed) for part, info in line.leaves)


def _leaf(part: str, info: TensorInfo, times: int, mixed: bool) -> str:
    words = [code(part), shape_text(info.shape), info.dtype if mixed else ""]
    if info.tied_to is not None and times == 1:
        words.append(f"= {code(info.tied_to)}")
    return " ".join(filter(None, words))
