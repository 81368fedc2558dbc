"""Tables + keys → Plan: what each target key is made of. Sees keys, shapes and facts about values, never bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from ckptconv.dtypes import BY_NAME, FLOATS, DType
from ckptconv.tables.expand import Dims, Param, Slot, counted, expand, written_out
from ckptconv.tables.fit import Fit, tensor_shape
from ckptconv.tables.model import Drop, Table


@dataclass(frozen=True)
class Rows:
    """Rows [start, stop) of the `of` along axis 0 of a source tensor (a 0-d one counts as one row).

    transposed: the rows are those of its transpose.
    """

    key: str
    start: int
    stop: int
    of: int
    transposed: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is the whole tensor."""
        return self.start == 0 and self.stop == self.of


@dataclass(frozen=True)
class Fill:
    """`rows` rows along axis 0 that no source has, all `value`."""

    rows: int
    value: float


@dataclass(frozen=True)
class Step:
    """One target key: the parts that lie one after another along axis 0.

    op: `copy`, `slice`, `join`, `transpose`, `fill` or `tie`; `+cast` where the dtype changes.
    tied_to: the target key that is the same tensor, or None.
    """

    key: str
    dtype: DType
    shape: tuple[int, ...]
    parts: tuple[Rows | Fill, ...]
    casts: bool = False
    tied_to: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the target tensor."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def sources(self) -> tuple[str, ...]:
        """The source keys that it is made of, each once."""
        return tuple(dict.fromkeys(part.key for part in self.parts if isinstance(part, Rows)))

    @property
    def op(self) -> str:
        """The word for what happens."""
        if self.tied_to is not None:
            return "tie"
        first = self.parts[0] if self.parts else Fill(0, 0.0)
        if not self.sources:
            word = "fill"
        elif len(self.parts) > 1:
            word = "join"
        elif isinstance(first, Rows) and first.transposed:
            word = "transpose"
        else:
            word = "copy" if isinstance(first, Rows) and first.whole else "slice"
        return f"{word}+cast" if self.casts else word


@dataclass(frozen=True)
class Told:
    """A key that the target lost or got, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Resized:
    """A target key whose first axis was cut or extended. `rows` names them: `163..169 cut`."""

    key: str
    before: int
    after: int
    rows: str


@dataclass(frozen=True)
class Plan:
    """Everything that a conversion does to the tensors, before a byte is written.

    source, target: `family/layout`, or `same`. dims: the target's sizes.
    """

    source: str
    target: str
    dims: Mapping[str, int]
    steps: tuple[Step, ...]
    dropped: tuple[Told, ...] = ()
    created: tuple[Told, ...] = ()
    resized: tuple[Resized, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What was read off the values: equal[key] is the first key of its tie line with the same bytes;
    zeros: keys that a `drop … zeros` line asks about and that hold nothing but zeros;
    values: the number that a constant's key really holds."""

    equal: Mapping[str, str]
    zeros: frozenset[str]
    values: Mapping[str, float]

    def same(self, key: str) -> str:
        """The key that stands for all keys with these bytes."""
        return self.equal.get(key, key)


def ask(fit: Fit) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...], tuple[str, ...]]:
    """What a plan must know of the values: groups of keys to compare, keys to test for zeros, constants to read."""
    groups = []
    for tie in fit.table.ties:
        if tie.layout == fit.layout.name:
            groups.append(tuple(key for key in tie.keys if key in fit.present))
    zeros = tuple(key for key, drop in fit.drops.items() if drop.when == "zeros")
    return tuple(groups), zeros, tuple(fit.consts)


def ties(fit: Fit, facts: Facts, dims: Dims) -> dict[str, bool]:
    """The `equal` lines of the table, judged on the values, for tensors of the sizes `dims`."""
    verdicts = {}
    for line in fit.table.equals:
        there = {slot.key: (param, slot.shape) for param, slot in expand(fit.table, line.layout, dims).items()}
        (one, shape), (other, other_shape) = (there[key] for key in line.keys)
        # A parameter that the source's layout lacks is created as a copy of the other.
        created = one not in fit.slots or other not in fit.slots
        equal = created or facts.same(fit.slots[one].key) == facts.same(fit.slots[other].key)
        verdicts[line.name] = equal and shape == other_shape
    return verdicts


def resized_dims(dims: Dims, wanted: Mapping[str, int]) -> Dims:
    """The dims after the options `wanted` (`vocab`, `max_positions`: dim → rows) are applied."""
    return {**dims, **{dim: rows for dim, rows in wanted.items() if dim in dims}}


def make_plan(
    fit: Fit, target: str, facts: Facts, after: Dims, dtypes: Mapping[str, DType], cast: DType | None
) -> Plan:
    """The plan from a fitting state dict to the layout `target` of its family, at the dims `after`.

    dtypes: of every source key. cast: the dtype that floating tensors get, or None to keep theirs.
    """
    table = fit.table
    wanted = expand(table, target, after)
    steps, created = _steps(fit, wanted, target, dtypes)
    steps += _constants(table, target, after)
    steps = _with_aliases(table, target, steps)
    steps = _with_ties(table, target, steps, facts)
    steps = [_cast(step, cast) for step in steps]
    created += [
        Told(step.key, f"{table.family}/{target} has it, with this constant value")
        for step in steps
        if not step.sources and step.parts and not any(told.key == step.key for told in created)
    ]
    return Plan(
        fit.name,
        f"{table.family}/{target}",
        {name: size for name, size in after.items() if not isinstance(size, bool)},
        tuple(steps),
        tuple(_dropped(fit, steps, target, facts)),
        tuple(created),
        tuple(_resizes(fit, wanted)),
    )


def same_plan(
    tensors: Mapping[str, tuple[DType, tuple[int, ...]]], ties: Mapping[str, str], cast: DType | None
) -> Plan:
    """The plan that keeps every key: only the container, the dtype or the sharding changes."""
    steps = []
    for key, (dtype, shape) in tensors.items():
        rows = shape[0] if shape else 1
        step = Step(key, dtype, shape, (Rows(key, 0, rows, rows),), tied_to=ties.get(key))
        steps.append(_cast(step, cast))
    return Plan("same", "same", {}, tuple(steps))


def _steps(
    fit: Fit, wanted: Mapping[Param, Slot], target: str, dtypes: Mapping[str, DType]
) -> tuple[list[Step], list[Told]]:
    """One step per target key, its parts in order; keys that the source lacks come from their `create` line."""
    by_key: dict[str, list[tuple[Param, Slot]]] = {}
    for param, slot in wanted.items():
        by_key.setdefault(slot.key, []).append((param, slot))
    steps: dict[str, Step] = {}
    late: list[str] = []
    for key, members in by_key.items():
        if all(param in fit.slots for param, _ in members):
            members.sort(key=lambda member: member[1].cell.part)
            parts = _coalesced([part for param, slot in members for part in _parts(fit.slots[param], slot)])
            steps[key] = Step(key, dtypes[fit.slots[members[0][0]].key], tensor_shape(members[0][1]), tuple(parts))
        else:
            late.append(key)
    created = []
    for key in late:
        source = next(each.source for each in fit.table.creates if each.layout == target and each.key == key)
        steps[key] = replace(steps[source], key=key)
        created.append(Told(key, f"{fit.name} has none: tied to {source}"))
    return [steps[key] for key in by_key], created


def _parts(source: Slot, target: Slot) -> Iterator[Rows | Fill]:
    """The rows that one parameter takes in its source tensor, cut or extended to the target's size."""
    if source.cell.transposed or target.cell.transposed:
        # Whole matrices only: lint allows neither parts of a transposed cell nor resizing one.
        rows = tensor_shape(target)[0]
        yield Rows(source.key, 0, rows, rows, source.cell.transposed != target.cell.transposed)
        return
    rows = source.shape[0] if source.shape else 1
    wanted = target.shape[0] if target.shape else 1
    start = source.cell.part * rows
    yield Rows(source.key, start, start + min(rows, wanted), rows * source.cell.parts)
    if wanted > rows:
        yield Fill(wanted - rows, 0.0)


def _coalesced(parts: Iterable[Rows | Fill]) -> list[Rows | Fill]:
    """Neighbouring rows of one source tensor as one part: a fused tensor that stays fused is one copy."""
    merged: list[Rows | Fill] = []
    for part in parts:
        last = merged[-1] if merged else None
        if (
            isinstance(part, Rows)
            and isinstance(last, Rows)
            and (last.key, last.stop, last.transposed) == (part.key, part.start, part.transposed)
        ):
            merged[-1] = replace(last, stop=part.stop)
        else:
            merged.append(part)
    return merged


def _constants(table: Table, target: str, after: Dims) -> list[Step]:
    return [
        Step(key, BY_NAME[const.dtype], const.shape, (Fill(const.shape[0], const.value),))
        for const in table.consts
        if const.layout == target
        for text, _ in written_out(const.template, table.lets)
        for key, _ in counted(text, table.lets, after)
    ]


def _with_aliases(table: Table, target: str, steps: list[Step]) -> list[Step]:
    """Keys of a tie line that have no row are another name of the next key that has one."""
    by_key = {step.key: step for step in steps}
    for tie in table.ties:
        if tie.layout == target:
            for at, key in enumerate(tie.keys):
                rows = [other for other in (*tie.keys[at + 1 :], *reversed(tie.keys[:at])) if other in by_key]
                if key not in by_key and rows:
                    steps = [replace(by_key[rows[0]], key=key), *steps]
    return steps


def _with_ties(table: Table, target: str, steps: list[Step], facts: Facts) -> list[Step]:
    """Target keys of one tie line that are made of equal bytes become one tensor, the line's first."""
    kept: dict[object, str] = {}
    tied: dict[str, str] = {}
    by_key = {step.key: step for step in steps}
    for number, tie in enumerate(table.ties):
        for key in tie.keys if tie.layout == target else ():
            if key in by_key:
                step = by_key[key]
                parts = tuple(
                    replace(part, key=facts.same(part.key)) if isinstance(part, Rows) else part for part in step.parts
                )
                first = kept.setdefault((number, step.shape, step.dtype, parts), key)
                if first != key:
                    tied[key] = first
    return [replace(step, tied_to=tied.get(step.key)) for step in steps]


def _cast(step: Step, cast: DType | None) -> Step:
    if cast is None or step.dtype == cast or step.dtype not in FLOATS:
        return step
    return replace(step, dtype=cast, casts=True)


def _dropped(fit: Fit, steps: Iterable[Step], target: str, facts: Facts) -> Iterator[Told]:
    """Source keys that no target key is made of; `LOST:` where no equal tensor is kept either."""
    used = {key for step in steps for key in step.sources}
    kept = {facts.same(key): key for key in sorted(used)}
    for key in dict.fromkeys(slot.key for slot in fit.slots.values()):
        reason = _reason(fit.table, fit.layout.name, key)
        if facts.same(key) not in kept:
            yield Told(key, f"LOST: {reason}, and no tensor that is kept equals it")
        elif key not in used:
            yield Told(key, f"{reason}; it equals {kept[facts.same(key)]}, so nothing is lost")
    consts = {const.template for const in fit.table.consts if const.layout == target}
    for key, const in fit.consts.items():
        value = facts.values.get(key, const.value)
        if const.template not in consts:
            unusual = "" if value == const.value else f"; it was {value:g}, {const.value:g} was expected"
            yield Told(key, f"a constant that {fit.table.family}/{target} lacks{unusual}")
    for key, drop in fit.drops.items():
        yield Told(key, drop.reason)


def _reason(table: Table, layout: str, key: str) -> str:
    for drop in table.drops:
        if drop.layout == layout and any(text == key for text, _ in written_out(drop.template, table.lets)):
            return drop.reason
    return "the target has no such key"


def refused_drops(fit: Fit, facts: Facts) -> tuple[tuple[str, Drop], ...]:
    """Keys that may only be dropped when they are all zeros, and aren't."""
    return tuple((key, drop) for key, drop in fit.drops.items() if drop.when == "zeros" and key not in facts.zeros)


def _resizes(fit: Fit, wanted: Mapping[Param, Slot]) -> Iterator[Resized]:
    for param, slot in wanted.items():
        source = fit.slots.get(param)
        if source and source.shape[:1] != slot.shape[:1]:
            before, after = source.shape[0], slot.shape[0]
            low, high = min(before, after), max(before, after)
            what = "cut" if after < before else "made up, zeros"
            yield Resized(slot.key, before, after, f"{low}..{high - 1} {what}")
