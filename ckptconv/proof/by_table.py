"""Two layouts of one family: each parameter of the output against the source's, as the table pairs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from ckptconv.containers.checkpoint import StateDict
from ckptconv.proof.found import Cut, Dropped, Proof, Proved
from ckptconv.proof.values import Values, parameter, rows
from ckptconv.tables.expand import KeyIndex, Param, Slot, fill_in
from ckptconv.tables.fit import Fit
from ckptconv.tables.lines import create_lines, drop_lines
from ckptconv.tables.model import Create, Drop, Fold


@dataclass(frozen=True)
class Side:
    """A checkpoint seen as a layout, and its tensors under the keys that the table calls them."""

    fit: Fit
    tensors: StateDict

    @cached_property
    def owners(self) -> dict[str, Param]:
        """Key → the parameter of the row that has it (of a fused one, its last part)."""
        return {slot.key: param for param, slot in self.fit.slots.items()}

    @cached_property
    def wrong(self) -> frozenset[str]:
        """Keys of a shape that the layout doesn't allow."""
        return frozenset(each.key for each in self.fit.mismatched)

    @cached_property
    def creates(self) -> KeyIndex[Create]:
        """The `create` lines of this layout, by key."""
        return create_lines(self.fit.table, self.fit.layout.name)

    @cached_property
    def drops(self) -> KeyIndex[Drop]:
        """The `drop` lines of this layout, by key."""
        return drop_lines(self.fit.table, self.fit.layout.name)

    def original(self, key: str) -> str:
        """The key as the file has it."""
        return self.fit.spelled.original.get(key, key)


def prove(source: Side, target: Side, values: Values) -> Proof:
    """Compare every key of the output with what the table says it is made of, and account for the rest of the source.

    Both are of one family. Whatever doesn't fit its layout differs, or isn't accounted for.
    """
    folded = _folds(source, target)
    checked = [_parameter(source, target, param, slot, values, folded) for param, slot in target.fit.slots.items()]
    found = [
        *_by_key(checked),
        *_aliases(target, values),
        *_constants(target, values),
        *_copies(target, values),
        *_misfits(target),
    ]
    return Proof(
        source.fit.name,
        target.fit.name,
        tuple(replace(each, key=target.original(each.key)) for each in found),
        tuple(replace(each, key=source.original(each.key)) for each in _dropped(source, target, values, folded)),
        tuple(_cuts(source, target)),
    )


# ------------------------------------------------------------------------------------------------ keys of the output
def _by_key(checked: list[Proved]) -> Iterator[Proved]:
    """The parts of a fused tensor as one: it is as good as the worst of them."""
    worst = {"equal": 0, "cast": 1, "folded": 2, "made_up": 3, "differ": 4}
    groups: dict[str, list[Proved]] = {}
    for each in checked:
        groups.setdefault(each.key, []).append(each)
    for key, parts in groups.items():
        bad = max(parts, key=lambda part: worst[part.status])
        sources = tuple(dict.fromkeys(name for part in parts for name in part.sources))
        yield Proved(key, sources, bad.status, bad.told)


def _parameter(
    source: Side, target: Side, param: Param, slot: Slot, values: Values, folded: dict[Param, Fold]
) -> Proved:
    theirs = source.fit.slots.get(param)
    if theirs is None:
        status, told = _made_up(target, slot.key, values)
        return Proved(slot.key, (), status, told)
    sources = (source.original(theirs.key),)
    if theirs.key in source.wrong or slot.key in target.wrong:
        return Proved(slot.key, sources, "differ", "its shape isn't what the other keys of its file imply")
    before, after = parameter(theirs, source.tensors), parameter(slot, target.tensors)
    if before.shape[1:] != after.shape[1:] or (before.shape != after.shape and not _resizable(target, slot)):
        return Proved(
            slot.key, sources, "differ", f"its shape is {list(after.shape)}, the source's {list(before.shape)}"
        )
    common = min(before.shape[0], after.shape[0]) if after.shape else 1
    fold = folded.get(param)
    added = rows(source.tensors[fold.key], 0, 1) if fold else None
    status, told = values.judge(rows(before, 0, common), rows(after, 0, common), added)
    if status != "differ" and after.shape and after.shape[0] > common:
        more = rows(after, common, after.shape[0] - common)
        if not values.filled(more, 0.0):
            status, told = "differ", f"rows {common}..{after.shape[0] - 1} aren't the source's, and hold no zeros"
    return Proved(slot.key, sources + ((fold.key,) if fold else ()), status, told)


def _resizable(target: Side, slot: Slot) -> bool:
    """Whether a `resize` line lets the first axis differ."""
    return bool(slot.symbols) and any(slot.symbols[0] in line.dims for line in target.fit.table.resizes)


def _made_up(target: Side, key: str, values: Values) -> tuple[str, str]:
    """Whether a `create` line makes the key up, and it holds what that line says."""
    lines, there = target.creates.find(key)
    if not lines:
        return "differ", "the source has no such parameter, and no line of the table makes it up"
    line, tensor = lines[0], target.tensors[key]
    where = target.fit.table.where(line.line)
    if line.source is None:
        held = values.filled(tensor, line.value)
        what = f"{line.value:g} everywhere"
    else:
        twin = fill_in(line.source, dict(there))
        held = twin in target.tensors and values.equal(tensor, target.tensors[twin])
        what = f"a copy of {twin}"
    return ("made_up", f"{what} ({where})") if held else ("differ", f"expected {what} ({where})")


def _aliases(target: Side, values: Values) -> Iterator[Proved]:
    """Keys without a row are another name of the next key of their tie line that has one: they must hold the same."""
    owners = target.owners
    for tie in target.fit.table.ties:
        if tie.layout != target.fit.layout.name:
            continue
        for at, key in enumerate(tie.keys):
            near = [each for each in (*tie.keys[at + 1 :], *reversed(tie.keys[:at])) if each in owners]
            if key in target.tensors and key not in owners and near:
                same = values.equal(target.tensors[key], target.tensors[near[0]])
                told = f"another name of {near[0]}" + ("" if same else ", but it holds other values")
                yield Proved(key, (), "equal" if same else "differ", told)


def _constants(target: Side, values: Values) -> Iterator[Proved]:
    for key, const in target.fit.consts.items():
        held = values.filled(target.tensors[key], const.value)
        told = f"{'' if held else 'expected '}the constant {const.value:g} ({target.fit.table.where(const.line)})"
        yield Proved(key, (), "made_up" if held else "differ", told)


def _copies(target: Side, values: Values) -> Iterator[Proved]:
    """Keys that are no parameters, but that a `create` line makes copies of other keys."""
    for key in target.fit.drops:
        if target.creates.find(key)[0]:
            yield Proved(key, (), *_made_up(target, key, values))


def _misfits(target: Side) -> Iterator[Proved]:
    """Keys that the output lacks, and that it has no place for."""
    for key in target.fit.missing:
        yield Proved(key, (), "differ", f"missing: {target.fit.name} has it")
    for key in target.fit.unexpected:
        yield Proved(key, (), "differ", f"{target.fit.name} has no such key")


def _cuts(source: Side, target: Side) -> Iterator[Cut]:
    for param, slot in target.fit.slots.items():
        theirs = source.fit.slots.get(param)
        if theirs is None or not slot.shape or theirs.shape[:1] == slot.shape[:1]:
            continue
        before, after = theirs.shape[0], slot.shape[0]
        low, high = min(before, after), max(before, after) - 1
        yield Cut(target.original(slot.key), before, after, f"{low}..{high} {'cut' if after < before else 'zeros'}")


# ------------------------------------------------------------------------------------------------ keys of the source
def _folds(source: Side, target: Side) -> dict[Param, Fold]:
    """The parameter of the output that gets a sum → the `fold` line, where the output lacks what is added."""
    owners = source.owners
    return {
        owners[line.into]: line
        for line in source.fit.table.folds
        if line.layout == source.fit.layout.name
        and line.key in owners
        and line.into in owners
        and owners[line.key] not in target.fit.slots
    }


def _dropped(source: Side, target: Side, values: Values, folded: dict[Param, Fold]) -> Iterator[Dropped]:
    """Every key of the source that no key of the output is made of."""
    kept = {slot.key for param, slot in source.fit.slots.items() if param in target.fit.slots}
    sums = {line.key: line for line in folded.values()}
    told: set[str] = set()
    for param, slot in source.fit.slots.items():
        if slot.key in kept or slot.key in told:
            continue
        told.add(slot.key)
        if slot.key in sums:
            yield _summed(source, sums[slot.key])
        else:
            yield _reason(source, target, param, slot, kept, values)
    for key in source.fit.unexpected:
        yield Dropped(key, f"{source.fit.name} has no such key", True, False)
    for key, const in source.fit.consts.items():
        if const.template not in {each.template for each in target.fit.consts.values()}:
            yield Dropped(key, f"a constant that {target.fit.name} lacks", False)
    for key, drop in source.fit.drops.items():
        zeros = drop.when != "zeros" or values.filled(source.tensors[key], 0.0)
        yield Dropped(key, drop.reason if zeros else f"{drop.reason}; expected zeros", not zeros, zeros)


def _summed(source: Side, line: Fold) -> Dropped:
    shape = source.tensors[line.key].shape
    more = f"; rows 1..{shape[0] - 1} are lost" if shape[0] > 1 else ""
    return Dropped(line.key, f"folded into {line.into} ({source.fit.table.where(line.line)}){more}", bool(more))


def _reason(source: Side, target: Side, param: Param, slot: Slot, kept: set[str], values: Values) -> Dropped:
    ties = [tie.keys for tie in source.fit.table.ties if tie.layout == source.fit.layout.name and slot.key in tie.keys]
    near = [key for keys in ties for key in keys if key in kept and key in source.tensors]
    twin = next((key for key in near if values.equal(source.tensors[slot.key], source.tensors[key])), None)
    why = _line(source, param, slot) or _name(source, target, param)
    if twin:
        return Dropped(slot.key, f"{why or 'the output has no such key'}; it equals {twin}, so nothing is lost", False)
    if why:
        return Dropped(slot.key, why, True)
    return Dropped(slot.key, f"{target.fit.name} lacks it, and no line of the table says why", True, False)


def _name(source: Side, target: Side, param: Param) -> str:
    """What the parameter is one of (its language), if a `select` line lets choose and the output hasn't chosen it."""
    places = {line.placeholder for line in source.fit.table.selects}
    kept = {value for other in target.fit.slots for value in other.values}
    gone = [name for place, name in param.values if place in places and (place, name) not in kept]
    return f"{gone[0]}, which was not selected" if gone else ""


def _line(source: Side, param: Param, slot: Slot) -> str:
    """Why the table lets the parameter be left behind."""
    table = source.fit.table
    lines, _ = source.drops.find(slot.key)
    if lines:
        return lines[0].reason
    option = next(row.option for row in table.rows if row.line == param.line)
    heads = {option for line in table.heads for option in line.options}
    return f"the {option} head, which the output has no copy of" if option in heads else ""
