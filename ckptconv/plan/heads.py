"""Which heads a target gets, and what it has or lacks whatever the source has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ckptconv.errors import DoesNotFit, WrongUse
from ckptconv.tables.expand import Dims, names_of, row_names
from ckptconv.tables.fit import Fit
from ckptconv.tables.model import Table
from ckptconv.text import printable

NONE = "none"


@dataclass(frozen=True)
class Chosen:
    """The target's dims, options and names.

    left: options of the source whose rows are left behind. reasons: option → why (all of) its rows are.
    deselected: (placeholder, name) → why the rows of that name are left behind.
    """

    dims: Dims
    left: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    deselected: Mapping[tuple[str, str], str] = field(default_factory=dict)


def choose(fit: Fit, target: str, head: str | None = None, create: tuple[str, ...] = ()) -> Chosen:
    """What the layout `target` gets of the source's heads, and what is made up for it.

    head: the name of a classification head, the option of another one (`lm_head`), `none`, or None: all of them where
    the target can hold them, else the only one, else the only one that was trained for a task. create: options to be
    made up. Raises DoesNotFit where the target has no place for a head, or several could be meant and none is named;
    WrongUse for a name that means nothing.
    """
    heads = _heads(fit.table)
    if head is not None and not heads:
        raise WrongUse(f"--head: the models of {fit.table.family} have no heads to choose from.")
    kept, name = _kept(fit, target, head, heads)
    left = [option for option in heads if fit.dims.get(option) and option not in kept]
    dims: dict[str, int | bool] = {line.dim: line.size for line in fit.table.defaults}
    dims |= fit.dims if name is None else _of_name(fit, name)
    dims |= dict.fromkeys(left, False)
    _require_place(fit, target, dims)
    dims |= {line.option: True for line in fit.table.has if line.layout == target}
    dims |= dict.fromkeys(_creatable(fit, target, create), True)
    why = f"{fit.table.family}/{target} gets " + (f"the head {name or kept[0]}" if kept else "no head")
    others = " (--head chooses another)" if head is None else " (--head)"
    return Chosen(dims, tuple(left), dict.fromkeys([*left, *kept], why + others))


def select(fit: Fit, chosen: Chosen, wanted: Mapping[str, tuple[str, ...]]) -> Chosen:
    """The choice, with only the wanted names of what a `select` line lets choose. wanted: option → names.

    The model's own order stays. Raises WrongUse where the models of this family have nothing of the kind, DoesNotFit
    for a name that this one lacks.
    """
    for option, names in wanted.items():
        line = next((each for each in fit.table.selects if each.option == option), None)
        if line is None:
            raise WrongUse(f"--{option}: the models of {fit.table.family} have none to choose from.")
        there = names_of(fit.dims, line.placeholder)
        unknown = [name for name in names if name not in there]
        if unknown:
            from difflib import get_close_matches

            close = get_close_matches(unknown[0], there, 3) or there[:12]
            more = f" … ({len(there)} in all)" if len(there) > len(close) else ""
            raise DoesNotFit(
                f"--{option} {printable(unknown[0])}: the model has no such one; expected some of "
                f"{', '.join(map(printable, close))}{more}."
            )
        left = {(line.placeholder, name): f"{name} is not among --{option}" for name in there if name not in names}
        dims = {**chosen.dims, **{f"{place}={name}": False for place, name in left}}
        chosen = replace(chosen, dims=dims, deselected={**chosen.deselected, **left})
    return chosen


def _heads(table: Table) -> dict[str, str | None]:
    """Every option that is a head → the name placeholder of its rows, if they have one."""
    options = dict.fromkeys(option for line in table.heads for option in line.options)
    rows = {row.option: row for row in table.rows if row.option in options}
    return {
        option: next(iter(row_names(rows[option], table.lets)), None) if option in rows else None for option in options
    }


def _kept(fit: Fit, target: str, head: str | None, heads: Mapping[str, str | None]) -> tuple[list[str], str | None]:
    """(the options of the heads that the target gets, the one name among those with names or None: all of them)."""
    present = [option for option in heads if fit.dims.get(option)]
    named = next((option for option in present if heads[option]), None)
    names = names_of(fit.dims, heads[named] or "") if named else ()
    one = any(line.layout == target for line in fit.table.heads)
    there = ", ".join((*(printable(name) for name in names), *(option for option in present if option != named)))
    if head is None:
        if not one or len(present) <= 1 >= len(names):
            return present, None
        trained = [option for option in present if option != next(iter(heads))]
        if len(trained) == 1 and len(names) <= 1:
            return trained, None
        raise DoesNotFit(
            f"{fit.name} has several heads here: {there}; {fit.table.family}/{target} holds one. Name it with --head."
        )
    if head == NONE:
        return [], None
    if head in present:
        return [head], None
    if head in names:
        return ([named] if one and named else present), head
    raise DoesNotFit(
        f"--head {printable(head)}: there is no such head; expected {there + ' or ' if there else ''}none."
    )


def _of_name(fit: Fit, name: str) -> Dims:
    """The dims with one head only: its name, and its own sizes (`labels@mnli`)."""
    kept: dict[str, int | bool] = {}
    places = set(filter(None, _heads(fit.table).values()))
    for key, value in fit.dims.items():
        placeholder, equals, named = key.partition("=")
        if "@" not in key and not (equals and placeholder in places and named != name):
            kept[key] = fit.dims.get(f"{key}@{name}", value)
    return kept


def _require_place(fit: Fit, target: str, dims: Dims) -> None:
    for line in fit.table.lacks:
        if line.layout == target and dims.get(line.option):
            heads = _heads(fit.table)
            hint = f" To convert it without its head, say --head {NONE}." if line.option in heads else ""
            raise DoesNotFit(
                f"{fit.name} can't become {fit.table.family}/{target} with its {line.option}: {line.reason} "
                f"({fit.table.where(line.line)}).{hint}"
            )


def _creatable(fit: Fit, target: str, create: tuple[str, ...]) -> tuple[str, ...]:
    """The options to be made up. Raises WrongUse for one that the table doesn't make up for this layout."""
    column = fit.table.column(target)
    lines = {line.template for line in fit.table.creates if line.layout == target}
    can = {
        row.option for row in fit.table.rows if row.option and (cell := row.cells[column]) and cell.template in lines
    }
    for name in create:
        if name not in can:
            known = ", ".join(sorted(option for option in can if option)) or "nothing"
            raise WrongUse(
                f"--create {printable(name)}: {fit.table.family}/{target} can't make it up; expected {known}."
            )
    return create
