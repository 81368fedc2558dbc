"""The screen of `diff`, and the same as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from ckptconv.keys import collapsed, is_index
from ckptconv.report.diff_json import NUMBERS, numbers
from ckptconv.report.markup import code, csv_cell, markdown_table
from ckptconv.report.terminal import Row, rows, shape_text
from ckptconv.text import printable

if TYPE_CHECKING:
    from ckptconv.commands.difference import Compared, Comparison, Difference, Explained, Layer, Pair, Renamed, Tied

_KEYS = 8  # lines of keys under one heading
_LAYERS = 50
_TENSORS = 10
_WIDE = 110  # columns from which on a tensor's numbers stand beside its key
_BAR = 16
_NUMBERS = ("tensor", "change", "max abs", "max rel", "cosine", "values", "")
_EVERYTHING = "all of them with --json or --csv"


def screen(report: Difference) -> Group:
    """The screen of `diff`."""
    parts: list[RenderableType] = [_sides(report), Text(), Text(verdict(report), _verdict_style(report)), Text()]
    parts.append(rows([_finding_row(each) for each in _findings(report)], "whole", "right", "left"))
    moved = _moved(report)
    if moved:
        layers = [layer for layer in report.layers if layer.moved]
        parts += [Text(), Text("what moved, by layer: L2 of the change over that of A", "bold"), _layer_rows(layers)]
        parts += [Text(line, "dim") for line in _still(report)]
        parts += [Text(), Text("the tensors that moved most", "bold"), _Tensors(moved[:_TENSORS])]
        parts += [Text(line, "yellow") for line in _more(moved, _TENSORS)]
    parts += [Text(f"note: {printable(note, 1000)}", "yellow") for note in report.notes]
    return Group(*parts)


def verdict(report: Difference) -> str:
    """The outcome in one line."""
    if not report.different:
        if not report.values:
            return "no difference in keys, shapes and dtypes; values were not compared (--values)"
        close = f", {report.count('close'):,} close" if report.count("close") else ""
        return f"no difference: {_count(report.count('equal'), 'tensor')} equal, bit for bit{close}"
    gone, new = len(report.removed) - len(report.renamed), len(report.added) - len(report.renamed)
    rounded = sum(pair.rounded for pair in report.pairs)
    counts = (
        (gone, f"{_count(gone, 'key')} in A only"),
        (new, f"{_count(new, 'key')} in B only"),
        (len(report.renamed), f"{_count(len(report.renamed), 'key')} renamed"),
        (len(report.shape_changed), f"{len(report.shape_changed):,} of another shape"),
        (len(report.dtype_changed), f"{len(report.dtype_changed):,} of another dtype"),
        (rounded, f"{rounded:,} rounded"),
        (report.count("differ") - rounded, f"{report.count('differ') - rounded:,} with other values"),
    )
    return "different: " + ", ".join(text for count, text in counts if count)


def _verdict_style(report: Difference) -> str:
    return "bold red" if report.different else "bold green"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _sides(report: Difference) -> RenderableType:
    return rows([("A", *_side(report.a)), ("B", *_side(report.b))], "whole", "left", "left")


def _side(side: Compared) -> tuple[Text, Text]:
    what = Text(side.container)
    what.append(f" · {side.layout or 'unknown layout'}", "green" if side.layout else "yellow")
    if side.entry:
        what.append(f" · under `{printable(side.entry)}`")
    what.append(f" · {_count(side.tensors, 'tensor')}, {_count(side.parameters, 'parameter')}")
    return Text(printable(side.path, 2000), "bold"), what


# ------------------------------------------------------------------------------------------------------------ findings
@dataclass(frozen=True)
class _Finding:
    """A line of the report: how many of what, and which (a line for each). why: in words."""

    label: str
    style: str
    count: int
    lines: tuple[str, ...]
    why: str = ""


def _finding_row(found: _Finding) -> Row:
    text = Text(found.why)
    for line in found.lines:
        text.append("\n" if text else "").append(line, "dim" if found.why else "")
    return Text(found.label, found.style), f"{found.count:,}", text


def _findings(report: Difference) -> Iterator[_Finding]:
    before, after = ({getattr(each, end) for each in report.renamed} for end in ("before", "after"))
    gone = [each.key for each in report.removed if each.key not in before]
    new = [each.key for each in report.added if each.key not in after]
    if gone:
        yield _Finding("only in A", "red", len(gone), _keys(gone))
    if new:
        yield _Finding("only in B", "red", len(new), _keys(new))
    if report.renamed:
        why = "equal bytes under another key"
        yield _Finding("renamed", "red", len(report.renamed), _some(_renames(report.renamed)), why)
    yield from _by_reason("shape", "red", [(_shapes(pair), pair.key) for pair in report.shape_changed])
    yield from _dtypes(report)
    yield from _values(report)
    yield from _by_reason("tied", "cyan", [(_tie(each), each.key) for each in report.tied])
    yield from _by_reason("explained", "dim", [(_why(each), each.key) for each in report.explained])
    if report.ignored:
        yield _Finding("ignored", "dim", report.ignored, (), "left out by --ignore")


def _by_reason(label: str, style: str, told: Iterable[tuple[str, str]]) -> Iterator[_Finding]:
    """A finding for each of the first reasons, given as (reason, key) pairs, and one for the rest."""
    groups: dict[str, list[str]] = {}
    for reason, key in told:
        groups.setdefault(reason, []).append(key)
    for reason, keys in list(groups.items())[:_KEYS]:
        yield _Finding(label, style, len(keys), _keys(keys), reason)
    rest = [len(keys) for keys in list(groups.values())[_KEYS:]]
    if rest:
        yield _Finding(label, style, sum(rest), (), f"… and {len(rest):,} more kinds ({_EVERYTHING})")


def _shapes(pair: Pair) -> str:
    return f"{shape_text(pair.shape_a)} → {shape_text(pair.shape_b)}"


def _tie(tied: Tied) -> str:
    if tied.absent:
        return f"no such key in {tied.side}, where {printable(tied.to)} stands for it"
    other = "B" if tied.side == "A" else "A"
    return f"tied on one side only: one tensor with {printable(tied.to)} in {tied.side}, stored apart in {other}"


def _why(told: Explained) -> str:
    return f"in {told.side} only: {printable(told.reason, 1000)}"


def _dtypes(report: Difference) -> Iterator[_Finding]:
    groups: dict[str, list[Pair]] = {}
    for pair in report.dtype_changed:
        groups.setdefault(f"{pair.dtype_a} → {pair.dtype_b}", []).append(pair)
    for dtypes, pairs in groups.items():
        every = len(pairs) == len(report.pairs) > 1
        keys = ("every tensor",) if every else _keys([pair.key for pair in pairs])
        yield _Finding("dtype", "red", len(pairs), keys, dtypes + _cast(pairs))


def _values(report: Difference) -> Iterator[_Finding]:
    if not report.values:
        same = sum(pair.shape_a == pair.shape_b and pair.dtype_a == pair.dtype_b for pair in report.pairs)
        if same:
            yield _Finding("same", "green", same, (), "key, shape and dtype; values were not compared")
        return
    if report.count("equal"):
        mixed = any(pair.status == "equal" and pair.dtype_a != pair.dtype_b for pair in report.pairs)
        why = "bit for bit" + (", where the dtypes differ after a cast to the wider one" if mixed else "")
        yield _Finding("equal", "green", report.count("equal"), (), why)
    if report.count("close") and report.tolerance:
        why = f"|a - b| <= {report.tolerance.atol:g} + {report.tolerance.rtol:g} |b|"
        yield _Finding("close", "green", report.count("close"), (), why)
    if report.count("differ"):
        rounded = sum(pair.rounded for pair in report.pairs)
        why = f"{rounded:,} of them only by rounding" if rounded else ""
        yield _Finding("differ", "red", report.count("differ"), (), why)


def _cast(pairs: Sequence[Pair]) -> str:
    """What was found in the values of pairs whose dtype changed."""
    compared = [pair.comparison for pair in pairs if pair.comparison]
    if not compared:
        return ""
    words = [f"compared as {compared[0].compared_as}"] if compared[0].compared_as else []
    for dtype in dict.fromkeys(each.rounded_to for each in compared if each.rounded_to):
        count = sum(each.rounded_to == dtype for each in compared)
        which = "all" if count == len(pairs) else f"{count:,}"
        words.append(f"{which} equal bit for bit once rounded to {dtype}")
    return f": {'; '.join(words)}" if words else ""


def _keys(keys: Sequence[str]) -> tuple[str, ...]:
    """The keys, layers as one, but not thousands of them."""
    return _some(collapsed(keys))


def _some(names: Sequence[str]) -> tuple[str, ...]:
    shown = tuple(printable(name) for name in names[:_KEYS])
    more = len(names) - _KEYS
    return (*shown, f"… and {more:,} more ({_EVERYTHING})") if more > 0 else shown


def _renames(renamed: Sequence[Renamed]) -> list[str]:
    """`a → b`, layers as one where their numbers are the same on both sides."""
    alike: list[str] = []
    for each in renamed:
        numbers = [[part for part in key.split(".") if is_index(part)] for key in (each.before, each.after)]
        alike.append(f"{each.before} → {each.after}" if numbers[0] == numbers[1] else "")
    single = [f"{each.before} → {each.after}" for each, text in zip(renamed, alike, strict=True) if not text]
    return [*collapsed(filter(None, alike)), *single]


# -------------------------------------------------------------------------------------------------------- what moved
def _moved(report: Difference) -> list[Pair]:
    """The tensors that differ, the one that changed most first."""
    found = [pair for pair in report.pairs if pair.status == "differ" and pair.same_as is None and not pair.rounded]
    return sorted(found, key=lambda pair: -pair.comparison.rank if pair.comparison else 0.0)


def _more(found: Sequence[object], shown: int) -> Iterator[str]:
    if len(found) > shown:
        yield f"… and {len(found) - shown:,} more ({_EVERYTHING})"


def _layer_rows(layers: Sequence[Layer]) -> RenderableType:
    most = max((layer.relative for layer in layers if layer.relative is not None), default=0.0)
    found: list[Row] = [_layer_row(layer, most) for layer in layers[:_LAYERS]]
    more: list[RenderableType] = [Text(line, "yellow") for line in _more(layers, _LAYERS)]
    return Group(rows(found, "left", "right", "right", "left"), *more)


def _layer_row(layer: Layer, most: float) -> Row:
    odd = _odd(layer)
    part = 1.0 if odd or layer.relative is None else layer.relative / most if most else 0.0
    last = Text("█" * max(1, round(part * _BAR)), "cyan")
    if odd:
        last.append(f" {odd}", "red")
    return printable(layer.name), _of(layer), _change(layer), last


def _change(found: Layer | Comparison) -> str:
    """The relative L2 of the change, or what is worse."""
    return "NaN" if found.nan_mismatches else "Inf" if found.inf_mismatches else percent(found.relative)


def _odd(found: Layer | Comparison) -> str:
    """What is no number on one side."""
    words = [f"{found.nan_mismatches:,} NaN on one side only"] if found.nan_mismatches else []
    words += [f"{found.inf_mismatches:,} infinite and different"] if found.inf_mismatches else []
    return ", ".join(words)


def _of(layer: Layer) -> str:
    return f"{layer.moved:,} of {layer.tensors:,}"


def _still(report: Difference) -> Iterator[str]:
    names = [layer.name for layer in report.layers if not layer.moved]
    if names:
        rounded = ", but for rounding" if any(pair.rounded for pair in report.pairs) else ""
        yield f"unchanged{rounded}: {', '.join(_keys(names))}"


def percent(part: float | None) -> str:
    """`1.2 %`; `from 0` where there is nothing to compare with."""
    return "from 0" if part is None else f"{100 * part:.2g} %" if part < 1 else f"{100 * part:,.0f} %"


@dataclass(frozen=True)
class _Tensors:
    """Tensors with their numbers: beside the key where there is room, else below it."""

    pairs: Sequence[Pair]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A grid, or two lines for each."""
        cells = [(printable(pair.key, 2000), *_cells(pair)) for pair in self.pairs]
        if options.max_width >= _WIDE:
            heading: Row = tuple(Text(name, "dim") for name in _NUMBERS)
            whole = max(len(key) for key, *_ in cells) <= _WIDE // 2
            yield rows([heading, *cells], "whole" if whole else "left", *["right"] * 5, "left")
            return
        for key, *measured in cells:
            yield Text(key)
            told = [f"{name} {number}".strip() for name, number in zip(_NUMBERS[1:], measured, strict=True) if number]
            yield Text("  " + "  ".join(told), "dim")


def _cells(pair: Pair) -> tuple[str, ...]:
    """What stands under `_NUMBERS`, after the key."""
    found = pair.comparison
    if found is None or found.max_abs is None or found.changed is None:
        return "", "", "", "", "", "compared by its bytes only"
    return (
        _change(found),
        f"{found.max_abs:.3g}",
        percent(found.max_rel),
        "" if found.cosine is None else f"{found.cosine:.5f}",
        percent(found.changed / prod(pair.shape_a)),
        _odd(found) if found.changed else "only in the signs of zeros or the bits of NaN",
    )


# ------------------------------------------------------------------------------------------------------------ Markdown
def markdown(report: Difference) -> str:
    """The same for an issue or a model card."""
    lines = [f"# {code(report.a.path)} → {code(report.b.path)}", "", f"**{verdict(report)}**", ""]
    lines += [f"- {name}: {_side_text(side)}" for name, side in (("A", report.a), ("B", report.b))]
    for found in _findings(report):
        keys = ", ".join(line if line.startswith("… and ") else code(line) for line in found.lines)
        why = code(found.why) if found.why else ""
        lines.append(f"- {found.label}, {found.count:,}" + "".join(f": {text}" for text in (why, keys) if text))
    lines += [f"- note: {code(note)}" for note in report.notes]
    moved = _moved(report)
    if moved:
        layers = [layer for layer in report.layers if layer.moved]
        cells = [(code(layer.name), _of(layer), _change(layer)) for layer in layers[:_LAYERS]]
        lines += [
            "",
            *markdown_table(("layer", "moved", "L2 of the change over that of A"), cells),
            *_more(layers, _LAYERS),
        ]
        measured = [(code(pair.key), *_cells(pair)) for pair in moved[:_LAYERS]]
        lines += ["", *markdown_table(_NUMBERS, measured), *_more(moved, _LAYERS)]
    return "\n".join(lines) + "\n"


def _side_text(side: Compared) -> str:
    return f"{code(side.path)}, {_side(side)[1].plain}"


# ----------------------------------------------------------------------------------------------------------------- CSV
def tensors_csv(report: Difference) -> str:
    """A row per key. status: `equal`, `close` or `differ`, `shape` (not compared), `added`, `removed`, `renamed`,
    `explained`, or "" where only the headers were compared."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("key", "status", "a", "b", "shape_a", "shape_b", "dtype_a", "dtype_b", *NUMBERS)
    writer.writerow(names)
    for row in _csv_rows(report):
        writer.writerow([csv_cell(cell) if isinstance(cell, str) else cell for cell in row])
    return text.getvalue()


def _csv_rows(report: Difference) -> Iterator[list[Any]]:
    for pair in report.pairs:
        status = "shape" if pair.shape_a != pair.shape_b else pair.status or ""
        shapes = (_x(pair.shape_a), _x(pair.shape_b))
        yield [pair.key, status, " ".join(pair.a), " ".join(pair.b), *shapes, pair.dtype_a, pair.dtype_b] + [
            "" if number is None else number for number in numbers(pair).values()
        ]
    nothing = [""] * len(NUMBERS)
    before = {each.before: each.after for each in report.renamed}
    after = set(before.values())
    for each in report.removed:
        renamed = before.get(each.key)
        words = [each.key, "removed", each.key, ""] if renamed is None else [renamed, "renamed", each.key, renamed]
        second = ["", ""] if renamed is None else [_x(each.shape), each.dtype]
        yield [*words, _x(each.shape), second[0], each.dtype, second[1], *nothing]
    for each in report.added:
        if each.key not in after:
            yield [each.key, "added", "", each.key, "", _x(each.shape), "", each.dtype, *nothing]
    for told in report.explained:
        keys = (told.key, "") if told.side == "A" else ("", told.key)
        yield [told.key, "explained", *keys, "", "", "", "", *nothing]


def _x(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
