"""The screen of `inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from ckptconv.report.terminal import dims_text, facts, shape_text, size
from ckptconv.report.terminal import grid as new_grid
from ckptconv.report.tree import Line, module_tree
from ckptconv.text import printable

if TYPE_CHECKING:
    from ckptconv.commands.inspect import Inspection, TensorInfo


def screen(report: Inspection, depth: int | None, every_tensor: bool) -> Group:
    """The screen of `inspect`."""
    tensors = _tensor_grid(report.tensors) if every_tensor else _tree_grid(report, depth)
    return Group(*_inspection_head(report), Text(), tensors, *_inspection_tail(report))


def _inspection_head(report: Inspection) -> Iterator[Text]:
    head = Text(printable(report.path), "bold")
    head.append(f"  {report.container}", "not bold")
    head.append(f" · {report.layout or 'unknown layout'}", "not bold green" if report.layout else "not bold yellow")
    if report.entry:
        head.append(f" · under `{printable(report.entry)}`", "not bold")
    yield head
    if report.layout and any(report.misfits):
        missing, left_over, mismatched = report.misfits
        yield Text(
            f"not all of it fits: {missing} missing, {left_over} left over, {mismatched} of another shape", "yellow"
        )
    if report.dims:
        yield dims_text(report.dims)
    yield facts(
        [
            ("tensors", f"{len(report.tensors):,}"),
            ("parameters", f"{report.unique:,}"),
            *([("with ties counted twice", f"{report.stored:,}")] if report.stored != report.unique else []),
            ("size", size(report.bytes)),
            *((name, size(count)) for name, count in report.dtypes.items()),
        ]
    )


def _tensor_grid(tensors: tuple[TensorInfo, ...]) -> Grid:
    table = new_grid("left", "whole", "whole", "right")
    for info in tensors:
        key = Text(printable(info.key))
        key.append(f" = {printable(info.tied_to)}" if info.tied_to else "", "cyan")
        table.add_row(key, shape_text(info.shape), info.dtype, size(info.bytes))
    return table


def _tree_grid(report: Inspection, depth: int | None) -> Grid:
    table = new_grid("left", "right", "left")
    mixed = len(report.dtypes) > 1
    for line in module_tree(report.tensors, depth):
        times = f"  {line.times} ×" if line.times > 1 else ""
        name = Text("  " * line.depth + printable(line.name))
        name.append(times, "bold cyan")
        table.add_row(name, f"{line.parameters:,}", _leaves(line, mixed))
    return table


def _leaves(line: Line, mixed: bool) -> Text:
    text = Text()
    for part, info in line.leaves:
        text.append("  " if text else "")
        text.append(f"{printable(part)} " if part else "", "dim")
        text.append(shape_text(info.shape))
        if mixed:
            text.append(f" {info.dtype}", "dim")
        if info.tied_to and line.times == 1:
            text.append(f" = {printable(info.tied_to)}", "cyan")
    return text


def _inspection_tail(report: Inspection) -> Iterator[Text | Grid]:
    if report.other:
        yield Text()
        yield Text("besides the state dict", "bold")
        table = new_grid("left", "left", "whole")
        for entry in report.other:
            tensors = f"{entry.tensors:,} tensors, {size(entry.bytes)}" if entry.tensors else ""
            table.add_row(printable(entry.name), printable(entry.kind), tensors)
        yield table
    for name, value in report.metadata.items():
        yield facts([(printable(name), printable(value))])
    for note in report.notes:
        yield Text(f"note: {printable(note, 1000)}", "yellow")
