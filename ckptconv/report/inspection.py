"""The screen of `inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ckptconv.report.terminal import Cut, Row, dims_text, facts, rows, shape_text, size
from ckptconv.report.tree import Line, module_tree
from ckptconv.text import printable

if TYPE_CHECKING:
    from ckptconv.commands.inspect import Inspection, OtherEntry, TensorInfo

_KEY = 2000  # characters: a key is cut only where nobody would read it


def screen(report: Inspection, depth: int | None, every_tensor: bool) -> Group:
    """The screen of `inspect`: the module tree down to `depth`, or every tensor."""
    tensors = _tensors(report) if every_tensor else _tree(report, depth)
    return Group(*_inspection_head(report), Text(), tensors, *_inspection_tail(report))


def counts(report: Inspection) -> list[tuple[str, str]]:
    """How much there is, in words."""
    return [
        ("tensors", f"{len(report.tensors):,}"),
        ("parameters", f"{report.unique:,}"),
        *([("counting each tied key", f"{report.stored:,}")] if report.stored != report.unique else []),
        ("size", size(report.bytes)),
        *((name, size(count)) for name, count in report.dtypes.items()),
    ]


def misfit(report: Inspection) -> str:
    """What doesn't fit the layout, in words; "" when all of it fits or none is recognised."""
    missing, left_over, mismatched = report.misfits
    if not (report.layout and any(report.misfits)):
        return ""
    return f"not all of it fits: {missing:,} missing, {left_over:,} left over, {mismatched:,} of another shape"


def other_row(entry: OtherEntry) -> tuple[str, str, str]:
    """Name, kind and tensors of an entry besides the state dict."""
    tensors = f"{entry.tensors:,} tensor{'s' * (entry.tensors != 1)}, {size(entry.bytes)}" if entry.tensors else ""
    return printable(entry.name), printable(entry.kind), tensors


def _inspection_head(report: Inspection) -> Iterator[Text]:
    head = Text(printable(report.path, _KEY), "bold")
    head.append(f"  {report.container}", "not bold")
    head.append(f" · {report.layout or 'unknown layout'}", "not bold green" if report.layout else "not bold yellow")
    if report.size:
        head.append(f" {report.size}", "not bold green")
    if report.entry:
        head.append(f" · under `{printable(report.entry)}`", "not bold")
    yield head
    if report.about:
        yield Text(report.about, "dim")
    if misfit(report):
        yield Text(misfit(report), "yellow")
    if report.dims:
        yield dims_text(report.dims)
    yield facts(counts(report))


def _tensors(report: Inspection) -> RenderableType:
    return rows([_tensor_row(info) for info in report.tensors], "left", "whole", "whole", "right")


def _tensor_row(info: TensorInfo) -> Row:
    key = printable(info.key, _KEY)
    tied = Text(key).append(f" = {printable(info.tied_to, _KEY)}", "cyan") if info.tied_to is not None else key
    return tied, shape_text(info.shape), info.dtype, size(info.bytes)


def _tree(report: Inspection, depth: int | None) -> RenderableType:
    mixed = len(report.dtypes) > 1
    lines = [(_name(line), f"{line.parameters:,}", _leaves(line, mixed)) for line in module_tree(report.tensors, depth)]
    return Cut(lines, ("left", "right", "left"), "all of them in a pipe, or with --tensors")


def _name(line: Line) -> Text:
    name = Text("  " * line.depth + printable(line.name, _KEY))
    return name.append(f"  {line.times:,} ×", "bold cyan") if line.times > 1 else name


def _leaves(line: Line, mixed: bool) -> Text:
    text = Text()
    for part, info in line.leaves:
        text.append("  " if text else "")
        text.append(f"{printable(part, _KEY)} " if part else "", "dim")
        text.append(shape_text(info.shape))
        if mixed:
            text.append(f" {info.dtype}", "dim")
        if info.tied_to is not None and line.times == 1:
            text.append(f" = {printable(info.tied_to, _KEY)}", "cyan")
    return text


def _inspection_tail(report: Inspection) -> Iterator[RenderableType]:
    if report.other:
        yield Text()
        yield Text("besides the state dict", "bold")
        yield Cut([other_row(entry) for entry in report.other], ("left", "left", "whole"), "all of them in a pipe")
    if report.metadata:
        yield Text()
        metadata: list[Row] = [
            (Text("metadata", "dim"), printable(name), printable(value)) for name, value in report.metadata.items()
        ]
        yield Cut(metadata, ("whole", "left", "left"), "all of them in a pipe")
    for note in report.notes:
        yield Text(f"note: {printable(note, 1000)}", "yellow")
