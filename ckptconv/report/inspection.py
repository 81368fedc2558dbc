"""The screen of `inspect`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from ckptconv.keys import collapsed
from ckptconv.report.terminal import Cut, Row, dims_text, facts, rows, shape_text, size
from ckptconv.report.tree import Line, module_tree
from ckptconv.text import printable

if TYPE_CHECKING:
    from ckptconv.commands.inspect import Inspection, OddKeys, OtherEntry, SharedStorage, TensorInfo
    from ckptconv.values.stats import Stats

_KEY = 2000  # characters: a key is cut only where nobody would read it
_MOST = 2000  # tensors with statistics on a terminal, which forgets the others
_NAMED = 4  # keys that a line names


def screen(report: Inspection, depth: int | None, every_tensor: bool) -> Group:
    """The screen of `inspect`: the module tree down to `depth`, or every tensor, or all with their statistics; and the
    config, if the report has it."""
    if any(info.stats for info in report.tensors):
        tensors: RenderableType = _Measured(report.tensors, every_tensor)
    else:
        tensors = _tensors(report) if every_tensor else _tree(report, depth)
    return Group(*_head(report), Text(), tensors, *_tail(report))


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


def certainty(report: Inspection) -> str:
    """How sure the layout is, in words; "" where nothing is known."""
    if report.layout:
        known = f"{percent(report.coverage)} of the keys are known"
        return f"{known}; {misfit(report)}" if misfit(report) else f"all {report.keys:,} keys and their shapes fit"
    if report.closest:
        return f"closest: {report.closest.layout}, which knows {percent(report.closest.coverage)} of the keys"
    return ""


def filtered(report: Inspection) -> str:
    """Which tensors are looked at, in words; "" where it is all of them."""
    if report.match is None:
        return ""
    return f"{len(report.tensors):,} of {report.keys:,} keys match `{printable(report.match)}`: the totals are theirs"


def producers(report: Inspection) -> str:
    """What writes such files, and what tells so; "" where nothing does."""
    told = (f"{f'{each.name} {each.version}'.rstrip()} ({each.evidence})" for each in report.producer)
    return ", ".join(map(printable, told))


def shared_text(shared: SharedStorage) -> str:
    """Which keys view a storage, and whether they overlap."""
    names = collapsed(shared.keys)
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    keys = ", ".join(map(printable, names[:_NAMED])) + more
    overlap = " and ".join(map(printable, shared.overlapping))
    return f"{keys}: {f'{overlap} overlap' if overlap else 'side by side'}"


def other_row(entry: OtherEntry) -> tuple[str, str, str]:
    """Name, kind and tensors of an entry besides the state dict."""
    tensors = f"{entry.tensors:,} tensor{'s' * (entry.tensors != 1)}, {size(entry.bytes)}" if entry.tensors else ""
    return printable(entry.name), printable(entry.kind), tensors


def percent(share: float) -> str:
    """`12.5%`; what isn't none or all isn't called so."""
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{share:.0%}" if share in (0, 1) else f"{share:.1%}"


def number(value: float | None) -> str:
    """At most four digits, `1.234e-5`; integers whole; positive ones with a blank, so that digits stand below digits; a
    dash for None."""
    if value is None or isinstance(value, int):
        return " -" if value is None else f"{value: d}"
    digits, e, exponent = f"{value: .3e}".partition("e") if 0 < abs(value) < 0.001 else f"{value: .4g}".partition("e")
    return f"{digits}e{int(exponent)}" if e else digits


def setting_text(value: Any) -> str:
    """A config's value as JSON has it, texts without quotes."""
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _head(report: Inspection) -> Iterator[Text]:
    head = Text(printable(report.path, _KEY), "bold")
    head.append(f"  {report.container}", "not bold")
    head.append(f" · {report.layout or 'unknown layout'}", "not bold green" if report.layout else "not bold yellow")
    if report.size:
        head.append(f" {report.size}", "not bold green")
    if report.entry:
        head.append(f" · under `{printable(report.entry)}`", "not bold")
    yield head
    if certainty(report):
        yield Text(certainty(report), "yellow" if misfit(report) or not report.layout else "dim")
    if report.about:
        yield Text(report.about, "dim")
    if report.producer:
        yield facts([("as written by", producers(report))])
    if report.dims:
        yield dims_text(report.dims)
    if filtered(report):
        yield Text(filtered(report), "yellow")
    yield facts(counts(report))


def _tensors(report: Inspection) -> RenderableType:
    return rows([_tensor_row(info) for info in report.tensors], "left", "whole", "whole", "right")


def _tensor_row(info: TensorInfo) -> Row:
    key = printable(info.key, _KEY)
    tied = Text(key).append(f" = {printable(info.tied_to, _KEY)}", "cyan") if info.tied_to is not None else key
    return tied, shape_text(info.shape), info.dtype, size(info.bytes)


@dataclass(frozen=True)
class _Measured:
    """Tensors with their statistics, two lines each, which fit any terminal; with `whole` all of them everywhere."""

    tensors: Sequence[TensorInfo]
    whole: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines, and how many tensors there are more."""
        shown = self.tensors[:_MOST] if options.is_terminal and not self.whole else self.tensors
        bold, dim, cyan, red = map(Style.parse, ("bold", "dim", "cyan", "bold red"))
        for info in shown:
            yield Segment(printable(info.key, _KEY), bold)
            yield Segment(f" = {printable(info.tied_to, _KEY)}" if info.tied_to is not None else "", cyan)
            yield Segment(f"  {shape_text(info.shape)}  {info.dtype}  {size(info.bytes)}\n", dim)
            if info.stats:
                yield Segment(f"    {_numbers(info.stats)}")
                yield Segment(f"{_not_finite(info.stats)}\n", red)
        if len(shown) < len(self.tensors):
            left = len(self.tensors) - len(shown)
            yield Text(f"… and {left:,} more (all of them in a pipe, or with --tensors)", "yellow")


def _numbers(found: Stats) -> str:
    if found.unsupported or not found.count:
        return found.unsupported or "empty"
    four = ((name, getattr(found, name)) for name in ("min", "max", "mean", "std"))
    return (
        "  ".join(f"{name} {number(value):<10}" for name, value in four)
        + f"  zeros {percent(found.zeros / found.count)}"
    )


def _not_finite(found: Stats) -> str:
    return f"  {found.nan:,} NaN" * (found.nan > 0) + f"  {found.inf:,} Inf" * (found.inf > 0)


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


def _tail(report: Inspection) -> Iterator[RenderableType]:
    if report.shared:
        shared = [(size(each.bytes), shared_text(each)) for each in report.shared]
        yield from _section("different views of one storage", shared, "right", "left")
    if report.odd_keys:
        odd = [row for each in report.odd_keys for row in _odd_rows(each)]
        yield from _section("keys that look wrong", odd, "right", "left")
    if report.other:
        others = [other_row(entry) for entry in report.other]
        yield from _section("besides the state dict", others, "left", "left", "whole")
    for document, settings in groupby(report.config, lambda setting: setting.document):
        told = [(Text(printable(each.field), "dim"), setting_text(each.value)) for each in settings]
        yield from _section(printable(document), told, "left", "left")
    if report.metadata:
        yield Text()
        metadata: list[Row] = [
            (Text("metadata", "dim"), printable(name), printable(value)) for name, value in report.metadata.items()
        ]
        yield Cut(metadata, ("whole", "left", "left"), "all of them in a pipe")
    for note in report.notes:
        yield Text(f"note: {printable(note, 1000)}", "yellow")


def _odd_rows(odd: OddKeys) -> Iterator[Row]:
    yield f"{len(odd.keys):,}", Text(odd.reason, "yellow")
    names = collapsed(odd.keys)
    yield from (("", printable(name)) for name in names[:_NAMED])
    if len(names) > _NAMED:
        yield "", Text(f"… and {len(names) - _NAMED:,} more", "dim")


def _section(title: str, found: Sequence[Row], *columns: str) -> Iterator[RenderableType]:
    yield Text()
    yield Text(title, "bold")
    yield Cut(found, columns, "all of them in a pipe")
