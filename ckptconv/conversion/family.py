"""Two checkpoints of one family under the same keys, by the family's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ckptconv.containers.checkpoint import Checkpoint, StateDict
from ckptconv.containers.read import Reader
from ckptconv.conversion.facts import read_facts
from ckptconv.conversion.sides import Explained, Side, Together, View, views_of
from ckptconv.detect import shapes, state_dict_of, with_head_of
from ckptconv.errors import DoesNotFit
from ckptconv.plan import NONE, Chosen, Plan, Told, choose, make_plan, refused_drops
from ckptconv.tables.expand import expand, names_of, row_names
from ckptconv.tables.fit import Fit, fit
from ckptconv.tables.lines import drop_lines
from ckptconv.tables.model import Table


def of_one_family(a: Side, b: Side) -> Together | None:
    """Both under the table's keys; None where they are of different families, or neither can be seen as the other."""
    if not (a.found and b.found and a.found.table.family == b.found.table.family):
        return None
    a = replace(a, found=with_head_of(a.checkpoint, a.found, b.found))
    b = replace(b, found=with_head_of(b.checkpoint, b.found, a.found or b.found))
    assert a.found
    assert b.found
    if a.found.layout.name == b.found.layout.name:
        left, right = _named(a, a.found, b.found), _named(b, b.found, a.found)
        return Together(left, right, notes=(*_read_notes(a), *_read_notes(b)))
    # Where a `fold` line adds one tensor to another, that layout is seen as the other: sums can't be taken apart.
    folds = {line.layout for line in a.found.table.folds}
    b_folds = b.found.layout.name in folds and a.found.layout.name not in folds
    for source, other in ((b, a), (a, b)) if b_folds else ((a, b), (b, a)):
        if source.found and other.found and source.found.exact:
            try:
                return _seen_as(source, source.found, other, other.found)
            except DoesNotFit:
                continue
    return None


def _named(side: Side, found: Fit, other: Fit) -> Side:
    """The side under the table's keys."""
    tensors = state_dict_of(side.checkpoint, found)
    return replace(
        side,
        tensors=tensors,
        views=views_of(tensors, found.spelled.original),
        absent=found.absent,
        reasons=dict(_reasons(found, other, tensors, side.checkpoint)),
    )


def _read_notes(side: Side) -> tuple[str, ...]:
    return tuple(f"{side.name}: {note}" for note in (side.found.notes if side.found else ()))


def _reasons(found: Fit, other: Fit, tensors: StateDict, checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """Keys that the other checkpoint may lack: what is no parameter, and what its layout has no place for."""
    for key in found.consts:
        yield key, f"a constant that {other.name} lacks" if other.name != found.name else "a constant"
    with Reader(checkpoint) as reader:
        for key, drop in found.drops.items():
            if drop.when != "zeros" or not any(any(chunk) for chunk in reader.chunks(tensors[key])):
                yield key, drop.reason
    if other.name != found.name:
        lines = drop_lines(found.table, found.layout.name)
        rows = {row.line: row.cells[found.table.column(other.layout.name)] for row in found.table.rows}
        for param, slot in found.slots.items():
            drops, _ = lines.find(slot.key) if rows[param.line] is None else ((), ())
            if drops:
                yield slot.key, drops[0].reason


def _seen_as(source: Side, found: Fit, other: Side, target: Fit) -> Together:
    """`source` seen as the layout of `other`. Raises DoesNotFit where that layout has no place for it."""
    found, chosen = _chosen(source, found, target)
    tensors = state_dict_of(source.checkpoint, found)
    with Reader(source.checkpoint) as reader:
        facts = read_facts(found, tensors, reader)
    dtypes = {key: tensor.dtype for key, tensor in tensors.items()}
    plan = make_plan(found, target.layout.name, facts, chosen, dtypes, None)
    refused = {key for key, _ in refused_drops(found, facts)}
    heads = {told.key for told in plan.dropped if told.reason.startswith("LOST:")} & _head_keys(found)
    lost = {key: tensors[key] for key in tensors if key in refused | heads}
    original = found.spelled.original
    named = _named(other, target, found)
    options = _options(target.table, target.layout.name, chosen)
    seen = replace(source, tensors=tensors, views=dict(_planned(plan, original, named.reasons, options)))
    explained = [
        Explained(original[told.key], source.name, _reason(told, target))
        for told in plan.dropped
        if told.key not in lost
    ]
    notes = (f"{source.name} is seen as {target.name}", *_read_notes(source), *_read_notes(other))
    a, b = (seen, named) if source.name == "A" else (named, seen)
    left = tuple((source.name, view) for view in views_of(lost, original).values())
    return Together(a, b, left, tuple(explained), notes)


def _reason(told: Told, target: Fit) -> str:
    """What a plan tells, where nothing is converted."""
    return told.reason.removeprefix("LOST: ").replace("the target", target.name)


def _planned(
    plan: Plan, original: Mapping[str, str], reasons: Mapping[str, str], options: Mapping[str, str]
) -> Iterator[tuple[str, View]]:
    """The views of a side that is seen as another layout. A tied key is the tensor that it is tied to.

    reasons: why only that layout may have a key. options: by key.
    """
    steps = {step.key: step for step in plan.steps}
    created = {told.key: told.reason for told in plan.created}
    for step in plan.steps:
        owner = steps[step.tied_to] if step.tied_to is not None else step
        keys = tuple(original[key] for key in step.sources)
        stored = step.tied_to is None and step.key not in created
        made = "" if step.sources else reasons.get(step.key, created[step.key])
        whole = step._replace(parts=owner.parts)
        yield step.key, View(keys, step.dtype, step.shape, whole, stored, made, options.get(step.key, ""))


def _options(table: Table, layout: str, chosen: Chosen) -> dict[str, str]:
    """Every key of the layout that is there with others or not at all → the name of them."""
    rows = {row.line: row.option for row in table.rows if row.option}
    slots = expand(table, layout, chosen.dims).values()
    return {slot.key: option for slot in slots if (option := rows.get(slot.line))}


def _chosen(side: Side, found: Fit, target: Fit) -> tuple[Fit, Chosen]:
    """What `target`'s layout gets of the heads: the one that `target` has, else what a conversion would take, else
    none."""
    refused: DoesNotFit | None = None
    for head in (_common_head(found, target), None, NONE):
        seen = found
        if head is not None and head not in (NONE, *found.dims):
            state_dict = side.checkpoint.entries[side.entry]
            seen = fit(found.table, found.layout.name, shapes(state_dict), side.entry, head=head)
        if head is None or found.table.heads:
            try:
                return seen, choose(seen, target.layout.name, head)
            except DoesNotFit as problem:
                refused = problem
    assert refused
    raise refused


def _head_options(table: Table) -> tuple[str, ...]:
    return tuple(dict.fromkeys(option for line in table.heads for option in line.options))


def _head_keys(found: Fit) -> set[str]:
    options = {row.line: row.option for row in found.table.rows if row.option in _head_options(found.table)}
    return {slot.key for param, slot in found.slots.items() if param.line in options}


def _common_head(found: Fit, target: Fit) -> str | None:
    """The head that both have, by what `--head` calls it; None where the choice is a conversion's."""
    table, options = found.table, _head_options(found.table)
    named = {
        row.option: names[0] for row in table.rows if row.option in options and (names := row_names(row, table.lets))
    }
    placeholder = next(iter(named.values()), "")
    here, there = names_of(found.dims, placeholder), names_of(target.dims, placeholder)
    if not any(line.layout == target.layout.name for line in table.heads):
        # Its files may have several; one without a name of its own gets that of theirs.
        return None if not here or not there or here[0] in there else _of_equal_size(there, target, found)
    both = [option for option in options if found.dims.get(option) and target.dims.get(option)]
    if not both:
        return NONE
    return _of_equal_size(here, found, target) if both[0] in named else both[0]


def _of_equal_size(names: Sequence[str], of: Fit, other: Fit) -> str:
    """The first of `of`'s heads whose sizes are those of `other`'s, else the first."""
    own = {place.partition("@")[0] for place in of.dims if "@" in place}

    def fits(name: str) -> bool:
        return all(of.dims.get(f"{size}@{name}", of.dims[size]) == other.dims.get(size) for size in own)

    return next(filter(fits, names), names[0])
