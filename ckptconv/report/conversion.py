"""The screen of `convert`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ckptconv.report.naming import in_short, named
from ckptconv.report.terminal import Row, dims_text, rows
from ckptconv.text import printable

if TYPE_CHECKING:
    from ckptconv.commands.convert import Conversion
    from ckptconv.plan import Plan, Step, Told


def screen(report: Conversion, dry_run: bool) -> Group:
    """The screen of `convert`."""
    plan = report.plan
    head = Text(f"{plan.source} → {plan.target}" if plan.source != "same" else "same keys", "bold")
    head.append(f"  {printable(report.path)} → {printable(report.output)}", "not bold dim")
    lines: list[RenderableType] = [head]
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


def _changes(report: Conversion) -> RenderableType:
    found = [(Text(label, "green"), f"{count:,}", detail) for label, count, detail in _mapped(report.plan)]
    for label, style, told in (("dropped", "yellow", report.plan.dropped), ("created", "cyan", report.plan.created)):
        found += [_told_row(label, style, keys, reason) for reason, keys in _by_reason(told)]
        if not told:
            found.append((Text(label, style), "0", Text("nothing", "dim")))
    for key in report.plan.resized:
        what = f"{printable(key.key)}: {key.before:,} → {key.after:,} rows, {key.rows}"
        found.append((Text("resized", "yellow"), "1", Text(what)))
    for name, count in report.overflowed.items():
        what = f"value{'s' * (count != 1)} of {printable(name)} became infinite"
        found.append((Text("overflow", "red"), f"{count:,}", Text(what)))
    if report.files:
        names = Text(named(report.files))
        found.append((Text("wrote", "bold"), f"{len(report.files):,}", names))
    return rows(found, "whole", "right", "left")


def _mapped(plan: Plan) -> Iterator[tuple[str, int, Text]]:
    done: dict[str, int] = {}
    ties: dict[str, list[str]] = {}
    created = {told.key for told in plan.created}  # told on lines of their own
    for step in plan.steps:
        if step.tied_to is not None and step.key in created:
            continue
        if step.tied_to is not None:
            ties.setdefault(step.tied_to, []).append(step.key)
        elif step.sources:
            what = _what(step)
            done[what] = done.get(what, 0) + 1
    for what, count in done.items():
        yield "mapped", count, Text(what)
    for owner, keys in ties.items():
        yield "tied", len(keys), Text(f"{named(keys)} = {printable(owner)}")


def _what(step: Step) -> str:
    """How a target key is made of the source's, in words."""
    words = {
        "copy": "" if step.casts else "bit for bit",
        "slice": "rows of a tensor",
        "join": "several tensors one after another" if len(step.sources) > 1 else "extended with made-up rows",
        "transpose": "transposed",
        "add": "a row added to each of its rows",
    }
    how = words[step.op.partition("+")[0]]
    return ", ".join(filter(None, (how, f"cast to {step.dtype}" if step.casts else "")))


def _by_reason(told: tuple[Told, ...]) -> list[tuple[str, list[str]]]:
    """The keys by reason, losses first."""
    reasons: dict[str, list[str]] = {}
    for each in told:
        reasons.setdefault(each.reason, []).append(each.key)
    return sorted(reasons.items(), key=lambda item: not _is_loss(item[0]))


def _is_loss(reason: str) -> bool:
    """Whether the planner says that values are gone (ckptconv.plan: `LOST:`)."""
    return reason.startswith("LOST:")


def _told_row(label: str, style: str, keys: list[str], reason: str) -> tuple[Text, str, Text]:
    text = Text(in_short(keys))
    text.append(f"  {printable(reason, 1000)}", "bold red" if _is_loss(reason) else "dim")
    return Text(label, "bold red" if _is_loss(reason) else style), f"{len(keys):,}", text


def _config(report: Conversion) -> Iterator[RenderableType]:
    """A block per document: field, where its value comes from, the value."""
    for document in dict.fromkeys(value.document for value in report.config):
        yield Text()
        yield Text(document or "in the checkpoint", "bold")
        fields: list[Row] = [
            (printable(each.path), Text(each.origin, "dim"), printable(json.dumps(each.value, ensure_ascii=False)))
            for each in report.config
            if each.document == document
        ]
        yield rows(fields, "whole", "whole", "left")
