"""How the keys and shapes of a state dict fit a layout: its dims, and everything that doesn't fit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from ckptconv.tables.expand import (
    Dims,
    KeyIndex,
    Param,
    Slot,
    Template,
    active,
    counted,
    expand,
    placeholders,
    row_names,
    templates,
    written_out,
)
from ckptconv.tables.model import Const, Drop, Index, Layout, Name, Table
from ckptconv.tables.readings import read
from ckptconv.tables.spellings import Spelled, spellings

Shapes = Mapping[str, tuple[int, ...]]
"""Key → shape, all that detection sees of a checkpoint."""


class Mismatch(NamedTuple):
    """A key of the wrong shape. `symbols` and `line` say what the table expects there."""

    key: str
    got: tuple[int, ...]
    expected: tuple[int, ...]
    symbols: tuple[str, ...]
    line: int


class Fit(NamedTuple):
    """A state dict seen as a layout.

    entry: the top-level entry that it lies under. spelled: how its keys were read (`spelled.original`: every key under
    the name that the table, and so all of this, calls it).
    dims: sizes and options, read off the shapes (the size that most keys agree on).
    slots: where each parameter lies, under the key that really holds it (ties of absent keys are resolved).
    present: every key that a row or a `tie` line knows.
    absent: key → the key that stands in for it, by a `tie` line.
    consts, drops: keys that a `const` or `drop` line knows.
    missing, unexpected, mismatched: what doesn't fit. coverage: the share of keys that the layout knows.
    could_be: the heads that its keys could be, the one that they are taken for first; () where there is no doubt.
    """

    table: Table
    layout: Layout
    entry: str
    spelled: Spelled
    dims: Dims
    slots: Mapping[Param, Slot]
    present: frozenset[str]
    absent: Mapping[str, str]
    consts: Mapping[str, Const]
    drops: Mapping[str, Drop]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    coverage: float
    could_be: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`family/layout`."""
        return f"{self.table.family}/{self.layout.name}"

    @property
    def notes(self) -> tuple[str, ...]:
        """How the keys were read, and what is missed by a file that lacks a constant."""
        there = {const.template for const in self.consts.values()}
        lacking = [
            f"{const.template} is absent: {const.without}"
            for const in self.table.consts
            if const.layout == self.layout.name and const.without and const.template not in there
        ]
        heads = ", ".join(self.could_be[1:])
        doubt = [f"its {self.could_be[0]} could as well be {heads}: they have the same keys"] if heads else []
        return (*self.spelled.notes, *lacking, *doubt)

    @property
    def exact(self) -> bool:
        """Whether nothing is missing, left over or of another shape."""
        return not (self.missing or self.unexpected or self.mismatched)

    @property
    def sizes(self) -> dict[str, int]:
        """The dims that are numbers."""
        return {name: size for name, size in self.dims.items() if not isinstance(size, bool)}


# Below this share of known keys a state dict is another model, not a damaged one.
RECOGNISED = 0.5
# A state dict with fewer than one in so many of a layout's parameters isn't in that layout, whatever its keys say.
_SPARSE = 10
_SAMPLE, _STEP = 100, 15_485_863

Payload = Template | Const | Drop | str


def fit(
    table: Table, layout: str, shapes: Shapes, entry: str = "", index: KeyIndex[Payload] | None = None, head: str = ""
) -> Fit:
    """See the state dict `shapes` as `layout` of `table`, read as it fits best; linear in the number of keys.

    index: the layout's `key_index`, where it serves several state dicts. head: what a name placeholder stands for, in
    a layout whose keys don't say, or which of several heads with the same keys it is; "" is the default.
    """
    index = index or key_index(table, layout)
    plain: Fit | None = None
    for spelled in spellings(table, layout, tuple(shapes)):
        if plain and known_share(index, sampled(tuple(spelled.original))) < RECOGNISED / 2:
            continue
        named = {key: shapes[original] for key, original in spelled.original.items()}
        found = _fit(table, layout, named, entry, index, head, spelled)
        plain = plain or found
        # Keys that have to be read differently must make most of a model.
        if found.coverage > RECOGNISED and (found is plain or len(found.missing) < len(found.slots)):
            return found
    assert plain is not None
    return plain


def sampled(keys: Sequence[str]) -> Sequence[str]:
    """Some of many keys; all of few. By steps of a large prime, so that it's not the same key of every layer."""
    return keys if len(keys) <= _SAMPLE else [keys[number * _STEP % len(keys)] for number in range(_SAMPLE)]


def known_share(index: KeyIndex[Payload], keys: Collection[str]) -> float:
    """The share of the keys that the layout knows."""
    return sum(bool(index.find(key)[0]) for key in keys) / len(keys) if keys else 0.0


def no_fit(table: Table, layout: str, shapes: Shapes, entry: str, spelled: Spelled) -> Fit:
    """What a state dict of another model is, seen as the layout."""
    none: dict[str, str] = {}
    return Fit(
        table, table.layout(layout), entry, spelled, {}, {}, frozenset(), none, {}, {}, (), tuple(shapes), (), 0.0
    )


def _fit(
    table: Table, layout: str, shapes: Shapes, entry: str, index: KeyIndex[Payload], head: str, spelled: Spelled
) -> Fit:
    payloads, values = _looked_up(shapes, index, table)
    known: dict[str, list[Template]] = {}
    consts: dict[str, Const] = {}
    drops: dict[str, Drop] = {}
    unexpected: list[str] = []
    aliases: set[str] = set()
    for key in shapes:
        first = payloads[key][0] if key in payloads else None
        if isinstance(first, Template):
            known[key] = [payload for payload in payloads[key] if isinstance(payload, Template)]
        elif isinstance(first, Const):
            consts[key] = first
        elif isinstance(first, Drop):
            drops[key] = first
        elif first is None:
            unexpected.append(key)
        else:
            aliases.add(key)
    if not known and not aliases:
        return no_fit(table, layout, shapes, entry, spelled)
    reading = read(table, layout, known, head)
    options = dict(reading.options)
    found = {key: there for key, rows in known.items() if (there := [t for t in rows if active(t.row.option, options)])}
    unexpected += [key for key in known if key not in found]
    absent = _stand_ins(table, layout, shapes)
    voters = dict(found)
    for key in absent:
        rows = [payload for payload in index.find(key)[0] if isinstance(payload, Template)]
        voters[key] = [template for template in rows if active(template.row.option, options)]
    seen = {**shapes, **{key: shapes[other] for key, other in absent.items()}}
    named = _names(table, layout, found, values, "" if head in options else head)
    dims = _dims(table, voters, seen, values) | _layers(table, found, values) | options | named
    if _expected(table, layout, dims) > _SPARSE * len(shapes) + 1000:
        return no_fit(table, layout, shapes, entry, spelled)
    slots, missing = _resolve(expand(table, layout, dims), shapes, absent)
    odd = [
        Mismatch(k, shapes[k], const.shape, (), const.line) for k, const in consts.items() if shapes[k] != const.shape
    ]
    mismatched = (*_mismatches(slots, shapes, aliases, table, layout), *odd)
    return Fit(
        table,
        table.layout(layout),
        entry,
        spelled,
        dims,
        slots,
        frozenset(found) | aliases,
        absent,
        consts,
        drops,
        tuple(missing),
        tuple(unexpected),
        mismatched,
        (len(shapes) - len(unexpected)) / len(shapes) if shapes else 0.0,
        reading.could_be,
    )


_Values = Mapping[str, tuple[tuple[str, str], ...]]


def _looked_up(
    shapes: Shapes, index: KeyIndex[Payload], table: Table
) -> tuple[dict[str, tuple[Payload, ...]], dict[str, tuple[tuple[str, str], ...]]]:
    """What the layout knows of each key, and the values of the placeholders in it; keys that it doesn't know are left
    out, and so are ones with an index beyond the number of keys."""
    payloads, values = {}, {}
    for key in shapes:
        found, where = index.find(key)
        if found and not any(
            isinstance(table.lets[name], Index) and int(value) >= len(shapes) for name, value in where
        ):
            payloads[key], values[key] = found, where
    return payloads, values


def _layers(table: Table, found: Mapping[str, list[Template]], values: _Values) -> dict[str, int | bool]:
    """How far each index counts."""
    counts: dict[str, int | bool] = {}
    for key in found:
        for name, value in values[key]:
            let = table.lets[name]
            if isinstance(let, Index):
                counts[let.dim] = max(counts.get(let.dim, 0), int(value) + 1)
    return {let.dim: counts[let.dim] for let in table.lets.values() if isinstance(let, Index) and let.dim in counts}


def _names(
    table: Table, layout: str, found: Mapping[str, list[Template]], values: _Values, head: str
) -> dict[str, bool]:
    """What every name placeholder stands for: what the keys say, or else `head`, or else its default."""
    said = {f"{name}={value}": True for key in found for name, value in values[key] if _is_name(table, name)}
    asked = {name for key in found for name, _ in values[key]}
    rows = {template.row.line: template.row for templates in found.values() for template in templates}
    silent = {
        f"{name}={head or let.default}": True
        for row in rows.values()
        for name in row_names(row, table.lets)
        if name not in asked and isinstance(let := table.lets[name], Name)
    }
    # A model whose names can be selected has one of them at least: without any, the default's keys are missing.
    needed = {line.placeholder for line in table.selects} - asked
    lacking = {f"{name}={let.default}": True for name in needed if isinstance(let := table.lets[name], Name)}
    return said | silent | lacking


def _is_name(table: Table, name: str) -> bool:
    return isinstance(table.lets[name], Name)


def _expected(table: Table, layout: str, dims: Dims) -> int:
    """How many parameters a complete checkpoint with these layers has."""
    total = 0
    for template in templates(table, layout):
        times = 1
        for name in placeholders(template.text):
            let = table.lets[name]
            times *= int(dims.get(let.dim, 0)) if isinstance(let, Index) else 1  # names come from keys that are there
        total += times
    return total


def key_index(table: Table, layout: str) -> KeyIndex[Payload]:
    """Every key that the layout knows: its rows, constants, drops and other names of tied keys."""
    index: KeyIndex[Payload] = KeyIndex(table.lets)
    there = templates(table, layout)
    for template in there:
        index.add(template.text, template)
    rows = {template.text for template in there}
    others: list[tuple[str, Payload]] = [(const.template, const) for const in table.consts if const.layout == layout]
    others += [(drop.template, drop) for drop in table.drops if drop.layout == layout]
    others += [(key, key) for tie in table.ties if tie.layout == layout for key in tie.keys]
    for text, payload in others:
        for key, _ in written_out(text, table.lets):
            if key not in rows:
                index.add(key, payload)
    return index


def _dims(table: Table, found: Mapping[str, list[Template]], shapes: Shapes, values: _Values) -> dict[str, int | bool]:
    """Each symbol's size: the one that most keys vote for, the first of equals.

    A symbol that only rows with a name placeholder have (the labels of a head) has a size for each name as well.
    """
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    owned = _owned(table)
    for key, matches in found.items():
        names = [value for name, value in values.get(key, ()) if _is_name(table, name)]
        for template in matches:
            logical = _logical(shapes[key], template)
            if len(logical) == len(template.symbols):
                for symbol, size in zip(template.symbols, logical, strict=True):
                    if not symbol.isdigit():
                        votes[symbol][size] += 1
                        for name in names if symbol in owned else ():
                            votes[f"{symbol}@{name}"][size] += 1
    symbols = dict.fromkeys(symbol for row in table.rows for symbol in row.shape)
    dims: dict[str, int | bool] = {symbol: votes[symbol].most_common(1)[0][0] for symbol in symbols if symbol in votes}
    own = {place: counter.most_common(1)[0][0] for place, counter in votes.items() if "@" in place}
    return dims | {place: size for place, size in own.items() if size != dims[place.partition("@")[0]]}


def _owned(table: Table) -> frozenset[str]:
    """The symbols that stand only in rows with a name placeholder."""
    named = {symbol for row in table.rows if row_names(row, table.lets) for symbol in row.shape}
    return frozenset(named - {symbol for row in table.rows if not row_names(row, table.lets) for symbol in row.shape})


def _logical(shape: tuple[int, ...], template: Template) -> tuple[int, ...]:
    """The shape of the parameter itself, given that of the tensor that it lies in (fused, transposed)."""
    if template.cell.transposed:
        shape = shape[::-1]
    return (shape[0] // template.cell.parts, *shape[1:]) if shape else ()


def _resolve(
    expected: Mapping[Param, Slot], shapes: Shapes, absent: Mapping[str, str]
) -> tuple[dict[Param, Slot], list[str]]:
    """The expected slots that are there, directly or through a tie; the rest is missing."""
    slots: dict[Param, Slot] = {}
    missing: dict[str, None] = {}
    for param, slot in expected.items():
        if slot.key in shapes:
            slots[param] = slot
        elif slot.key in absent:
            slots[param] = slot._replace(key=absent[slot.key])
        else:
            missing[slot.key] = None
    return slots, list(missing)


def _stand_ins(table: Table, layout: str, shapes: Shapes) -> dict[str, str]:
    """For each absent key of a tie line, the nearest earlier key that is there, or else the nearest later one."""
    found = {}
    for tie in table.ties:
        if tie.layout == layout:
            for at, key in enumerate(tie.keys):
                near = [other for other in (*reversed(tie.keys[:at]), *tie.keys[at + 1 :]) if other in shapes]
                if key not in shapes and near:
                    found[key] = near[0]
    return found


def tensor_shape(slot: Slot) -> tuple[int, ...]:
    """The shape of the tensor that the slot is a part of."""
    first, *rest = slot.shape
    shape = (first * slot.cell.parts, *rest)
    return shape[::-1] if slot.cell.transposed else shape


def _mismatches(
    slots: Mapping[Param, Slot], shapes: Shapes, aliases: set[str], table: Table, layout: str
) -> Iterator[Mismatch]:
    told = set()
    for slot in slots.values():
        if tensor_shape(slot) != shapes[slot.key] and slot.key not in told:
            told.add(slot.key)
            yield Mismatch(slot.key, shapes[slot.key], tensor_shape(slot), slot.symbols, slot.line)
    for tie in table.ties:
        known = [key for key in tie.keys if key in shapes and key not in aliases]
        for key in aliases.intersection(tie.keys if tie.layout == layout and known else ()):
            if shapes[key] != shapes[known[0]]:
                yield Mismatch(key, shapes[key], shapes[known[0]], (), tie.line)


def expected_keys(table: Table, layout: str, dims: Dims) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every key of a complete checkpoint of this layout at these dims, constants included, with its shape."""
    for slot in expand(table, layout, dims).values():
        if slot.cell.part == 0:
            yield slot.key, tensor_shape(slot)
    for const in table.consts:
        if const.layout == layout:
            for text, _ in written_out(const.template, table.lets):
                for key, _ in counted(text, placeholders(text), table.lets, dims):
                    yield key, const.shape
