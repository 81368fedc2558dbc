"""`audit` as a screen, as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ckptconv.keys import collapsed, common_prefix
from ckptconv.report.markup import code, csv_cell, markdown_table
from ckptconv.report.terminal import Row, rows, shape_text
from ckptconv.text import printable

if TYPE_CHECKING:
    from ckptconv.commands.audit import Audit

_LONG = 1000
_NAMES = 6  # of one reason, layers as one
_ROWS = 20  # of one list
_STYLES = {
    "missing": "cyan",
    "unexpected": "yellow",
    "mismatched": "magenta",
    "dtype": "magenta",
    "tied": "green",
    "ignored": "dim",
}
_VERDICTS = {
    "exact": ("exact: every key and every shape fits", "bold green"),
    "as_expected": ("as expected: it can be used", "bold green"),
    "does_not_fit": ("does not fit", "bold red"),
}


@dataclass(frozen=True)
class _Line:
    """The keys of one list that have one reason. sizes: the first key's, in words, where it has others than wanted."""

    label: str
    reason: str
    expected: bool
    keys: tuple[str, ...]
    sizes: str

    @property
    def which(self) -> str:
        """The keys, in short."""
        return in_short(self.keys) + (f"  ({self.sizes})" if self.sizes else "")


def screen(report: Audit) -> Group:
    """A row per reason, what is wrong as a whole, and the verdict with what to do."""
    found = list(_rows(report))
    table: list[RenderableType] = [Text(), rows(found, "whole", "right", "whole", "left")] if found else []
    notes = [Text(f"note: {printable(note, _LONG)}", "yellow") for note in report.notes]
    diagnoses = [Text(printable(each.sentence, _LONG), "bold") for each in report.diagnoses]
    return Group(*_head(report), *table, *notes, Text(), *diagnoses, _verdict(report))


def _head(report: Audit) -> Iterator[Text]:
    head = Text(printable(report.path, _LONG), "bold")
    head.append(f"  {report.layout or 'unknown layout'}", "not bold green" if report.layout else "not bold yellow")
    yield head
    target = Text("against ", "dim").append(printable(report.target, _LONG), "default")
    if report.kind == "class":
        target.append(f"  {printable(report.against, _LONG)} · {report.loader}")
    yield target
    yield Text(_count(report), "dim")


def _count(report: Audit) -> str:
    ignored = f", {len(report.ignored):,} ignored" if report.ignored else ""
    return f"{report.fitting:,} of {report.keys:,} keys fit{ignored}"


def _verdict(report: Audit) -> Text:
    words, style = _VERDICTS[report.verdict]
    text = Text(words, style)
    joint = ": " if report.verdict == "does_not_fit" else "; "
    return text.append(f"{joint}{printable(report.advice, _LONG)}", "not bold default") if report.advice else text


def _rows(report: Audit) -> Iterator[Row]:
    """A row per reason, but no more than `_ROWS` of one list; what is wrong comes first."""
    lines = sorted(_lines(report), key=lambda line: (line.expected, list(_STYLES).index(line.label)))
    for (_, label), among in groupby(lines, key=lambda line: (line.expected, line.label)):
        listed = list(among)
        yield from map(_row, listed[:_ROWS])
        if len(listed) > _ROWS:
            count = sum(len(line.keys) for line in listed[_ROWS:])
            yield Text(label, _STYLES[label]), f"{count:,}", "", Text("more, for other reasons: --csv lists all", "dim")


def _row(line: _Line) -> Row:
    text = Text(printable(line.reason, _LONG), "default" if line.expected else "red")
    text.append(f"\n{line.which}", "dim")
    mark = Text("expected", "dim") if line.expected else Text("wrong", "bold red")
    return Text(line.label, _STYLES[line.label]), f"{len(line.keys):,}", mark, text


def _lines(report: Audit) -> Iterator[_Line]:
    """The lists by reason."""
    told: dict[tuple[str, str, bool], list[tuple[str, str]]] = {}
    for label, key, sizes, reason, expected in _all(report):
        told.setdefault((label, reason, expected), []).append((key, sizes))
    for about, keys in told.items():
        few = {sizes for _, sizes in keys}
        example = keys[0][1] if len(few) == 1 else f"{keys[0][1]}, and others"
        yield _Line(*about, tuple(key for key, _ in keys), example)


def _all(report: Audit) -> Iterator[tuple[str, str, str, str, bool]]:
    """(list, key, sizes in words, reason, expected) of everything."""
    for label, listed in (
        ("missing", report.missing_keys), ("unexpected", report.unexpected_keys), ("ignored", report.ignored),
    ):  # fmt: skip
        for each in listed:
            yield label, each.key, "", each.reason, each.expected
    for label, changed in (("mismatched", report.mismatched_keys), ("dtype", report.dtypes)):
        for one in changed:
            yield label, one.key, f"{_size(one.got)}, wanted {_size(one.wanted)}", one.reason, one.expected
    for tie in report.tied:
        yield "tied", f"{tie.key} = {tie.tied_to}", "", tie.reason, tie.expected


def _size(size: tuple[int, ...] | str) -> str:
    return size if isinstance(size, str) else shape_text(size)


def in_short(keys: Sequence[str]) -> str:
    """The keys, layers as one and the tensors of one module together; of many only what those of each part of the model
    begin with."""
    modules: dict[str, list[str]] = {}
    for key in collapsed(keys):
        head, dot, last = key.rpartition(".")
        modules.setdefault(head + dot, []).append(last)
    names = [f"{head}{{{','.join(last)}}}" if len(last) > 1 else f"{head}{last[0]}" for head, last in modules.items()]
    if len(names) > _NAMES:
        parts: dict[str, list[str]] = {}
        for name in names:
            parts.setdefault(name.partition(".")[0], []).append(name)
        names = [f"{common_prefix(among)}*" if len(among) > 1 else among[0] for among in parts.values()]
    more = f" … and {len(names) - _NAMES:,} more" if len(names) > _NAMES else ""
    return ", ".join(printable(name) for name in names[:_NAMES]) + more


def as_csv(report: Audit) -> str:
    """A row per key: list, key, got, wanted (shapes as `768x768`), tied_to, expected, reason."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("list", "key", "got", "wanted", "tied_to", "expected", "reason"))
    for label, listed in (
        ("missing", report.missing_keys), ("unexpected", report.unexpected_keys), ("ignored", report.ignored),
    ):  # fmt: skip
        for each in listed:
            writer.writerow((label, csv_cell(each.key), "", "", "", _yes(each.expected), csv_cell(each.reason)))
    for label, changed in (("mismatched", report.mismatched_keys), ("dtype", report.dtypes)):
        for one in changed:
            sizes = (size if isinstance(size, str) else "x".join(map(str, size)) for size in (one.got, one.wanted))
            writer.writerow((label, csv_cell(one.key), *sizes, "", _yes(one.expected), csv_cell(one.reason)))
    for tie in report.tied:
        writer.writerow(
            ("tied", csv_cell(tie.key), "", "", csv_cell(tie.tied_to), _yes(tie.expected), csv_cell(tie.reason))
        )
    return out.getvalue()


def _yes(value: bool) -> str:
    return "true" if value else "false"


def as_markdown(report: Audit) -> str:
    """The verdict with what to do, and a table with a line per reason."""
    lines = [f"# {code(report.path)} against {code(report.target)}", "", f"**{_VERDICTS[report.verdict][0]}**", ""]
    lines += [f"- {code(each.sentence)}" for each in report.diagnoses]
    lines += [f"- what to do: {code(report.advice)}"] if report.advice else []
    lines += [f"- {_count(report)}", *(f"- note: {code(note)}" for note in report.notes)]
    found = [
        (line.label, f"{len(line.keys):,}", "yes" if line.expected else "no", code(line.reason), code(line.which))
        for line in _lines(report)
    ]
    if found:
        lines += ["", *markdown_table(("list", "keys", "expected", "reason", "which"), found)]
    return "\n".join(lines) + "\n"
