"""The planning itself: one step for each target key, from the slots of the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from ckptconv.dtypes import BY_NAME, FLOATS, DType
from ckptconv.plan.heads import Chosen
from ckptconv.plan.losses import dropped, folds, resizes
from ckptconv.plan.steps import Facts, Fill, Plan, Rows, Step, Told
from ckptconv.tables.expand import (
    Dims,
    Param,
    Slot,
    counted,
    expand,
    fill_in,
    placeholders,
    slots_of,
    templates,
    there_at,
    written_out,
)
from ckptconv.tables.fit import Fit, tensor_shape
from ckptconv.tables.lines import create_lines
from ckptconv.tables.model import Index, Rest, Table


def ask(fit: Fit) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...], tuple[str, ...]]:
    """What a plan must know of the values: groups of keys to compare, keys to test for zeros, constants to read."""
    groups = []
    for tie in fit.table.ties:
        if tie.layout == fit.layout.name:
            groups.append(tuple(key for key in tie.keys if key in fit.present))
    zeros = [key for key, drop in fit.drops.items() if drop.when == "zeros"]
    zeros += [line.key for line in fit.table.folds if line.layout == fit.layout.name and line.key in fit.present]
    return tuple(groups), tuple(zeros), tuple(fit.consts)


def ties(fit: Fit, facts: Facts, dims: Dims) -> dict[str, bool]:
    """The `equal` lines of the table, judged on the values, for tensors of the sizes `dims`."""
    verdicts = {}
    for line in fit.table.equals:
        rows = [row for row in there_at(fit.table, line.layout, dims) if _could_be(row.text, line.keys)]
        there = {slot.key: (param, slot.shape) for param, slot in slots_of(rows, fit.table.lets, dims).items()}
        found = [there[key] for key in line.keys if key in there]
        # A parameter that the source's layout lacks is created as a copy of the other.
        keys = {facts.same(fit.slots[param].key) for param, _ in found if param in fit.slots}
        verdicts[line.name] = len(keys) <= 1 and len({shape for _, shape in found}) <= 1
    return verdicts


def _could_be(template: str, keys: Iterable[str]) -> bool:
    head = template.partition("{")[0]
    return any(key.startswith(head) for key in keys)


def resized_dims(dims: Dims, wanted: Mapping[str, int]) -> Dims:
    """The dims after the options `wanted` (`vocab`, `max_positions`: dim → rows) are applied."""
    return {**dims, **{dim: rows for dim, rows in wanted.items() if dim in dims}}


def make_plan(
    fit: Fit, target: str, facts: Facts, chosen: Chosen, dtypes: Mapping[str, DType], cast: DType | None
) -> Plan:
    """The plan from a fitting state dict to the layout `target` of its family, at the dims and with the heads `chosen`.

    dtypes: of every source key. cast: the dtype that floating tensors get, or None to keep theirs.
    """
    table = fit.table
    wanted = expand(table, target, chosen.dims)
    steps, created = _steps(fit, wanted, target, facts, dtypes)
    constants = _constants(table, target, chosen.dims)
    copies = _copies(table, target, steps)
    steps = _with_aliases(table, target, [*steps, *(step for step, _ in copies), *constants])
    steps = _with_ties(table, target, steps, facts, ties(fit, facts, chosen.dims))
    steps = [_cast(step, cast) for step in steps]
    created += [Told(step.key, f"{table.family}/{target} has it, with this constant value") for step in constants]
    created += [Told(step.key, f"{fit.name} has none: a copy of {source}") for step, source in copies]
    return Plan(
        fit.name,
        f"{table.family}/{target}",
        _shown(table, wanted, chosen.dims),
        tuple(steps),
        tuple(dropped(fit, wanted, steps, target, facts, chosen)),
        tuple(created),
        tuple(resizes(fit, wanted)),
    )


def _shown(table: Table, wanted: Mapping[Param, Slot], dims: Dims) -> dict[str, int]:
    """The sizes that some parameter of the target has."""
    used = {symbol for slot in wanted.values() for symbol in slot.symbols}
    used |= {let.dim for let in table.lets.values() if isinstance(let, Index)}
    return {name: size for name, size in dims.items() if not isinstance(size, bool) and name.partition("@")[0] in used}


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
    fit: Fit, wanted: Mapping[Param, Slot], target: str, facts: Facts, dtypes: Mapping[str, DType]
) -> tuple[list[Step], list[Told]]:
    """One step per target key, its parts in order; keys that the source lacks come from their `create` line."""
    by_key: dict[str, list[tuple[Param, Slot]]] = {}
    for param, slot in wanted.items():
        by_key.setdefault(slot.key, []).append((param, slot))
    rows = {slot.key: slot.shape[0] for slot in fit.slots.values()}
    added = [line for line in folds(fit, wanted) if line.key not in facts.zeros]
    plus = {line.into: Rows(line.key, 0, 1, rows[line.key]) for line in added}
    steps: dict[str, Step] = {}
    late: list[tuple[str, Slot]] = []
    for key, members in by_key.items():
        if all(param in fit.slots for param, _ in members):
            members.sort(key=lambda member: member[1].cell.part)
            parts = _coalesced([part for param, slot in members for part in _parts(fit.slots[param], slot, plus)])
            steps[key] = Step(key, dtypes[fit.slots[members[0][0]].key], tensor_shape(members[0][1]), tuple(parts))
        else:
            late.append((key, members[0][1]))
    lines = create_lines(fit.table, target)
    created = []
    for key, slot in late:
        (line, *_), values = lines.find(key)
        if line.source is None:
            shape = tensor_shape(slot)
            steps[key] = Step(key, _usual(steps), shape, (Fill(shape[0], line.value),))
            created.append(Told(key, f"{fit.name} has none: made up, {line.value:g} everywhere"))
        else:
            source = fill_in(line.source, dict(values))
            steps[key] = steps[source]._replace(key=key)
            created.append(Told(key, f"{fit.name} has none: tied to {source}"))
    return [steps[key] for key in by_key], created


def _usual(steps: Mapping[str, Step]) -> DType:
    """The dtype that most of the tensors have."""
    return Counter(step.dtype for step in steps.values()).most_common(1)[0][0]


def _copies(table: Table, target: str, steps: Iterable[Step]) -> list[tuple[Step, str]]:
    """`create LAYOUT slow.{rest} tie fast.{rest}`: a second name for every key of the target that begins so, and what
    it is a copy of (`fast.*`)."""
    copies = []
    for line in table.creates:
        names = [name for name in placeholders(line.template) if isinstance(table.lets[name], Rest)]
        if names and line.source is not None and line.layout == target:
            head = line.source.partition("{")[0]
            for step in steps:
                if step.key.startswith(head):
                    key = fill_in(line.template, {names[0]: step.key.removeprefix(head)})
                    copies.append((step._replace(key=key, tied_to=step.key), f"{head}*"))
    return copies


def _parts(source: Slot, target: Slot, plus: Mapping[str, Rows]) -> Iterator[Rows | Fill]:
    """The rows that one parameter takes in its source tensor, cut or extended to the target's size."""
    if source.cell.transposed or target.cell.transposed:
        # Lint allows neither parts of a transposed cell nor resizing one; the other side may be a part.
        rows = source.shape[-1] if source.cell.transposed else source.shape[0]
        start = source.cell.part * rows
        turned = source.cell.transposed != target.cell.transposed
        yield Rows(source.key, start, start + rows, rows * source.cell.parts, turned)
        return
    rows = source.shape[0] if source.shape else 1
    wanted = target.shape[0] if target.shape else 1
    start = source.cell.part * rows
    added = plus.get(source.key)
    yield Rows(source.key, start, start + min(rows, wanted), rows * source.cell.parts, plus=added)
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
            and (last.key, last.stop, last.transposed, last.plus) == (part.key, part.start, False, part.plus)
            and not part.transposed
        ):
            merged[-1] = last._replace(stop=part.stop)
        else:
            merged.append(part)
    return merged


def _constants(table: Table, target: str, after: Dims) -> list[Step]:
    return [
        Step(key, BY_NAME[const.dtype], const.shape, (Fill(const.shape[0], const.value),))
        for const in table.consts
        if const.layout == target
        for text, _ in written_out(const.template, table.lets)
        for key, _ in counted(text, placeholders(text), table.lets, after)
    ]


def _with_aliases(table: Table, target: str, steps: list[Step]) -> list[Step]:
    """Keys of a tie line that have no row are another name of the next key that has one."""
    by_key = {step.key: step for step in steps}
    with_row = {template.text for template in templates(table, target)}
    for tie in table.ties:
        if tie.layout == target:
            for at, key in enumerate(tie.keys):
                rows = [other for other in (*tie.keys[at + 1 :], *reversed(tie.keys[:at])) if other in by_key]
                if key not in with_row and rows:
                    steps = [by_key[rows[0]]._replace(key=key), *steps]
    return steps


def _with_ties(table: Table, target: str, steps: list[Step], facts: Facts, equal: Mapping[str, bool]) -> list[Step]:
    """Target keys of one tie line that are made of equal bytes become one tensor, the line's first."""
    kept: dict[object, str] = {}
    tied: dict[str, str] = {}
    by_key = {step.key: step for step in steps}
    for number, tie in enumerate(table.ties):
        for key in tie.keys if tie.layout == target and (tie.only is None or equal[tie.only]) else ():
            if key in by_key:
                step = by_key[key]
                parts = tuple(
                    part._replace(key=facts.same(part.key)) if isinstance(part, Rows) else part for part in step.parts
                )
                first = kept.setdefault((number, step.shape, step.dtype, parts), key)
                if first != key:
                    tied[key] = first
    # A copy is tied to a key that may be tied itself: to that one's owner, then.
    return [step._replace(tied_to=tied.get(step.tied_to or step.key, step.tied_to)) for step in steps]


def _cast(step: Step, cast: DType | None) -> Step:
    if cast is None or step.dtype == cast or step.dtype not in FLOATS:
        return step
    return step._replace(dtype=cast, casts=True)


def respelled(plan: Plan, original: Mapping[str, str]) -> Plan:
    """The plan with the source's keys as the file has them. original: key as the table has it → key in the file."""
    if all(key == name for key, name in original.items()):
        return plan

    def part(rows: Rows | Fill) -> Rows | Fill:
        if isinstance(rows, Fill):
            return rows
        plus = rows.plus and rows.plus._replace(key=original[rows.plus.key])
        return rows._replace(key=original[rows.key], plus=plus)

    return plan._replace(
        steps=tuple(step._replace(parts=tuple(map(part, step.parts))) for step in plan.steps),
        dropped=tuple(told._replace(key=original.get(told.key, told.key)) for told in plan.dropped),
    )
