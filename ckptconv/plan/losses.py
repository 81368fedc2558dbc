"""What a conversion loses or changes, in words: every source key that no target key is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ckptconv.plan.heads import Chosen
from ckptconv.plan.steps import Facts, Resized, Step, Told
from ckptconv.tables.expand import Param, Slot
from ckptconv.tables.fit import Fit
from ckptconv.tables.lines import drop_lines
from ckptconv.tables.model import Drop, Fold


def dropped(
    fit: Fit, wanted: Mapping[Param, Slot], steps: Iterable[Step], target: str, facts: Facts, chosen: Chosen
) -> Iterator[Told]:
    """Source keys that no target key is made of, or only in part; `LOST:` where values are gone."""
    used = {key for step in steps for key in step.sources}
    kept = {facts.same(key): key for key in sorted(used)}
    folded = {fold.key: fold for fold in folds(fit, wanted)}
    reasons = _Reasons(fit, chosen)
    for param, slot in {slot.key: (param, slot) for param, slot in fit.slots.items()}.values():
        key = slot.key
        if key in folded:
            yield from _folded(folded[key], slot, steps, facts)
        elif facts.same(key) not in kept:
            yield Told(key, f"LOST: {reasons.of(param, key)}, and no tensor that is kept equals it")
        elif key not in used:
            yield Told(key, f"{reasons.of(param, key)}; it equals {kept[facts.same(key)]}, so nothing is lost")
    yield from _other_names(fit, facts)
    consts = {const.template for const in fit.table.consts if const.layout == target}
    for key, const in fit.consts.items():
        value = facts.values.get(key, const.value)
        if const.template not in consts:
            unusual = "" if value == const.value else f"; it was {value:g}, {const.value:g} was expected"
            yield Told(key, f"a constant that {fit.table.family}/{target} lacks{unusual}")
    for key, drop in fit.drops.items():
        yield Told(key, drop.reason)


def folds(fit: Fit, wanted: Mapping[Param, Slot]) -> list[Fold]:
    """The `fold` lines that apply: the source has the key, and the target has no such parameter."""
    owners = {slot.key: param for param, slot in fit.slots.items()}
    return [
        line
        for line in fit.table.folds
        if line.layout == fit.layout.name and line.key in owners and owners[line.key] not in wanted
    ]


def _folded(line: Fold, slot: Slot, steps: Iterable[Step], facts: Facts) -> Iterator[Told]:
    if line.key in facts.zeros:
        yield Told(line.key, "the target has none; these are zeros, so nothing is lost")
        return
    dtype = next(step.dtype for step in steps if line.key in step.sources)
    yield Told(
        line.key, f"folded: its row 0 is added to every row of {line.into}; the sums are rounded once, to {dtype}"
    )
    if slot.shape[0] > 1:
        yield Told(line.key, f"LOST: rows 1..{slot.shape[0] - 1}, since the target has one kind of token only")


def _other_names(fit: Fit, facts: Facts) -> Iterator[Told]:
    """Keys that are another name of one with a row, but hold other values."""
    rows = {slot.key for slot in fit.slots.values()}
    for tie in fit.table.ties:
        here = [key for key in tie.keys if tie.layout == fit.layout.name and key in fit.present]
        same = {facts.same(key) for key in here if key in rows}
        for key in here:
            if key not in rows and same and facts.same(key) not in same:
                owner = next(other for other in here if other in rows)
                yield Told(key, f"another name of {owner}, whose values count; these are different and unused")


class _Reasons:
    """Why a parameter is left behind: its `drop` line, or the choice of heads."""

    def __init__(self, fit: Fit, chosen: Chosen) -> None:
        self._lines = drop_lines(fit.table, fit.layout.name)
        self._options = {row.line: row.option for row in fit.table.rows}
        self._chosen = chosen

    def of(self, param: Param, key: str) -> str:
        found, _ = self._lines.find(key)
        if found:
            return found[0].reason
        names = [why for place, why in self._chosen.deselected.items() if place in param.values]
        if names:
            return names[0]
        option = self._options[param.line]
        return self._chosen.reasons.get(option or "", "the target has no such key")


def refused_drops(fit: Fit, facts: Facts) -> tuple[tuple[str, Drop], ...]:
    """Keys that may only be dropped when they are all zeros, and aren't."""
    return tuple((key, drop) for key, drop in fit.drops.items() if drop.when == "zeros" and key not in facts.zeros)


def resizes(fit: Fit, wanted: Mapping[Param, Slot]) -> Iterator[Resized]:
    """Target keys whose first axis was cut or extended."""
    for param, slot in wanted.items():
        source = fit.slots.get(param)
        if source and source.shape[:1] != slot.shape[:1]:
            before, after = source.shape[0], slot.shape[0]
            low, high = min(before, after), max(before, after)
            what = "cut" if after < before else "made up, zeros"
            yield Resized(slot.key, before, after, f"{low}..{high - 1} {what}")
