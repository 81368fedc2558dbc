"""The screen of `verify`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ckptconv.report.naming import in_short
from ckptconv.report.terminal import Row, rows
from ckptconv.text import printable

if TYPE_CHECKING:
    from ckptconv.commands.verify import Verification
    from ckptconv.forward import Forward, Layer
    from ckptconv.proof.found import Proof

_VERDICTS = {
    "proved": ("proved: nothing was lost", "bold green"),
    "proved_with_losses": ("proved: all that DST has is right; of SRC, it lacks what is told above", "bold green"),
    "differs": ("not proved: DST isn't what SRC becomes", "bold red"),
    "not_run": ("not proved: the tensors are right, but the forward pass could not run", "bold yellow"),
    "intact": ("intact: every file is as it was written", "bold green"),
    "changed": ("changed: convert it again, or copy it again", "bold red"),
}
_STATUSES = {
    "equal": ("equal", "green", "bit for bit"),
    "cast": ("equal", "green", "once rounded to the dtype of DST"),
    "folded": ("equal", "green", "sums, rounded once"),
}
_SHOWN = 20
_LONG = 1000


def screen(report: Verification) -> Group:
    """Every kind of finding, and the verdict."""
    body: list[RenderableType] = []
    if report.proof is not None:
        body = [_head(report, report.proof), Text(), rows(list(_tensors(report)), "whole", "right", "left")]
    else:
        body = [
            Text(printable(report.path, _LONG), "bold"),
            Text(),
            rows(list(_files(report)), "whole", "left", "left"),
        ]
    body += [Text(f"note: {printable(note, _LONG)}", "yellow") for note in report.notes]
    if report.forward is not None:
        body += [Text(), *_forward(report.forward)]
    return Group(*body, Text(), Text(*_VERDICTS[report.verdict]))


def _head(report: Verification, proof: Proof) -> Text:
    text = Text(f"{proof.source} → {proof.target}" if proof.source else "same keys", "bold")
    return text.append(f"  {printable(report.path, _LONG)} → {printable(report.output or '', _LONG)}", "not bold dim")


def _tensors(report: Verification) -> Iterator[Row]:
    proof = report.proof
    assert proof is not None
    for status, (label, style, what) in _STATUSES.items():
        if proof.count(status):
            yield Text(label, style), f"{proof.count(status):,}", Text(what)
    yield from _grouped(
        "made up", "cyan", [(each.key, each.told) for each in proof.tensors if each.status == "made_up"]
    )
    for cut in proof.resized:
        what = f"{printable(cut.key)}: {cut.before:,} → {cut.after:,} rows, {cut.told}"
        yield Text("resized", "yellow"), "1", Text(what)
    for label, style, lost, accounted in (
        ("dropped", "yellow", False, True), ("lost", "yellow", True, True), ("lost", "bold red", True, False)
    ):  # fmt: skip
        told = [(e.key, e.reason) for e in proof.dropped if (e.lost, e.accounted) == (lost, accounted)]
        yield from _grouped(label, style, told)
    yield from _grouped(
        "differ", "bold red", [(each.key, each.told) for each in proof.tensors if each.status == "differ"]
    )
    for each in report.config:
        what = f"SRC has {each.source} = {each.source_value}, DST {each.target} = {each.target_value}"
        yield Text("config", "bold red"), "1", Text(printable(what, _LONG))


def _grouped(label: str, style: str, told: list[tuple[str, str]]) -> Iterator[Row]:
    """A row per reason, with its keys."""
    reasons: dict[str, list[str]] = {}
    for key, reason in told:
        reasons.setdefault(reason, []).append(key)
    for reason, keys in list(reasons.items())[:_SHOWN]:
        text = Text(in_short(keys))
        text.append(f"  {printable(reason, _LONG)}", "dim")
        yield Text(label, style), f"{len(keys):,}", text
    if len(reasons) > _SHOWN:
        more = sum(map(len, list(reasons.values())[_SHOWN:]))
        yield Text(label, style), f"{more:,}", Text("more (--json names them all)", "dim")


def _files(report: Verification) -> Iterator[Row]:
    for each in report.files:
        yield (
            Text(each.status, "green" if each.status == "same" else "bold red"),
            printable(each.name),
            Text(printable(each.told, _LONG), "dim"),
        )


def _engine(name: str) -> Text:
    return Text.assemble("in ", (printable(name), "bold")) if name else Text("did not run", "bold")


def _forward(found: Forward) -> Iterator[RenderableType]:
    """The table of layers, logits and decoding."""
    if found.source_engine or found.target_engine:
        head = Text.assemble("SRC ", _engine(found.source_engine), ", DST ", _engine(found.target_engine))
        yield head.append(f": {found.sentences} sentences, padded left and right", "dim")
    lines: list[Row] = [_layer(layer, found.tolerance) for layer in found.layers]
    if found.top1 is not None:
        lines.append((Text("top-1"), f"{found.top1:.2%}", Text("of the positions have the same most likely id", "dim")))
    if found.greedy is not None:
        same, total = found.greedy
        lines.append((Text("greedy"), f"{same}/{total}", Text("sentences are decoded alike", "dim")))
    if lines:
        yield rows(lines, "whole", "right", "left")
    for note in found.notes:
        yield Text(f"note: {printable(note, _LONG)}", "yellow")
    for reason in found.not_run:
        yield Text(f"not run: {printable(reason, _LONG)}", "yellow")


def _layer(layer: Layer, tolerance: float) -> Row:
    good = layer.max_abs <= tolerance * max(1.0, layer.scale)
    what = Text(f"largest difference, of values up to {layer.scale:.3g}", "dim")
    return printable(layer.name), Text(f"{layer.max_abs:.1e}", "green" if good else "bold red"), what
