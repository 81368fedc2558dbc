"""The screen of `convert`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from ckptconv.keys import collapsed
from ckptconv.report.terminal import dims_text
from ckptconv.report.terminal import grid as new_grid
from ckptconv.text import printable

if TYPE_CHECKING:
    from ckptconv.commands.convert import Conversion
    from ckptconv.plan import Plan, Told

_MANY = 50


def screen(report: Conversion, dry_run: bool) -> Group:
    """The screen of `convert`."""
    plan = report.plan
    head = Text(f"{plan.source} → {plan.target}" if plan.source != "same" else "same keys", "bold")
    head.append(f"  {printable(report.path)} → {printable(report.output)}", "not bold dim")
    lines: list[Text | Grid] = [head]
    if plan.dims:
        lines.append(dims_text(plan.dims))
    lines += [Text(), _changes(report)]
    if dry_run and report.config:
        lines += _config(report)
    for note in report.notes:
        lines.append(Text(f"note: {printable(note, 1000)}", "yellow"))
    if dry_run:
        lines += [Text(), Text("dry run: nothing was written", "bold")]
    return Group(*lines)


def _changes(report: Conversion) -> Grid:
    table = new_grid("whole", "right", "left")
    for op, count, detail in _mapped(report.plan):
        table.add_row(Text(op, "green"), f"{count:,}", detail)
    for label, style, told in (("dropped", "yellow", report.plan.dropped), ("created", "cyan", report.plan.created)):
        for reason, keys in _by_reason(told).items():
            table.add_row(Text(label, style), f"{len(keys):,}", _because(keys, reason))
    for key in report.plan.resized:
        what = f"{printable(key.key)}: {key.before:,} → {key.after:,} rows, {key.rows}"
        table.add_row(Text("resized", "yellow"), "1", what)
    for name, count in report.overflowed.items():
        table.add_row(Text("overflow", "red"), f"{count:,}", f"values of {printable(name)} became infinite")
    if report.files:
        table.add_row(
            Text("wrote", "bold"), f"{len(report.files)}", ", ".join(printable(name) for name in report.files)
        )
    return table


def _mapped(plan: Plan) -> Iterator[tuple[str, int, Text]]:
    words = {
        "copy": "bit for bit",
        "slice": "rows of a tensor",
        "join": "several tensors one after another",
        "transpose": "transposed",
    }
    ops: dict[str, list[str]] = {}
    for step in plan.steps:
        ops.setdefault(step.op, []).append(step.key)
    for op, keys in ops.items():
        plain, _, cast = op.partition("+")
        if plain in words:
            dtypes = {str(step.dtype) for step in plan.steps if step.op == op}
            detail = f"{words[plain]}, cast to {', '.join(sorted(dtypes))}" if cast else words[plain]
            yield "mapped", len(keys), Text(detail)
    ties: dict[str, list[str]] = {}
    for step in plan.steps:
        if step.tied_to:
            ties.setdefault(step.tied_to, []).append(step.key)
    for owner, keys in ties.items():
        yield "tied", len(keys), Text(f"{', '.join(map(printable, keys))} = {printable(owner)}")


def _by_reason(told: tuple[Told, ...]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for each in told:
        reasons.setdefault(each.reason, []).append(each.key)
    return reasons


def _because(keys: list[str], reason: str) -> Text:
    names = collapsed(keys)
    shown = ", ".join(printable(name) for name in names[:_MANY])
    more = f" … and {len(names) - _MANY:,} more" if len(names) > _MANY else ""
    text = Text(shown + more)
    text.append(f"  {printable(reason)}", "dim")
    return text


def _config(report: Conversion) -> Iterator[Text | Grid]:
    """A block per document: field, where its value comes from, the value."""
    for document in dict.fromkeys(value.document for value in report.config):
        yield Text()
        yield Text(document or "in the checkpoint", "bold")
        table = new_grid("whole", "whole", "left")
        for value in report.config:
            if value.document == document:
                shown = printable(json.dumps(value.value, ensure_ascii=False))
                table.add_row(printable(value.path), Text(value.origin, "dim"), shown)
        yield table
