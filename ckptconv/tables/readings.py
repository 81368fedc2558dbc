"""Which optional rows a state dict has, where one key could be of several: heads that are called alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ckptconv.tables.expand import Template, templates
from ckptconv.tables.model import Table


class Reading(NamedTuple):
    """options: name → whether its rows are there. could_be: every head that the keys could be, the one that they are
    taken for first; () where there is no doubt."""

    options: Mapping[str, int | bool]
    could_be: tuple[str, ...] = ()


def read(table: Table, layout: str, found: Mapping[str, Sequence[Template]], head: str = "") -> Reading:
    """The options whose rows are there: those that a key stands for which no other row could be, and the head that
    leaves the fewest keys missing or unexplained.

    found: every key with the templates that it fits. head: the one to be preferred where several do equally well.
    """
    keys = {key: {template.row.option or "" for template in rows} for key, rows in found.items()}
    there = {next(iter(options)) for options in keys.values() if len(options) == 1}
    heads = table.heads_of(layout)
    doubtful = [options for options in keys.values() if len(options) > 1 and options & {*heads}]
    could_be: list[str] = []
    if doubtful:
        could_be = _best(table, layout, found, doubtful, [each for each in heads if each in there] or [*heads, ""])
        if head and head in could_be:
            could_be.sort(key=lambda each: each != head)
        there.add(could_be[0])
        there |= {option for options in doubtful if could_be[0] not in options for option in options - {*heads}}
    names = {row.option.removeprefix("!") for row in table.rows if row.option}
    options: dict[str, int | bool] = {name: name in there for name in sorted(names)}
    return Reading(options, tuple(filter(None, could_be)) if len(could_be) > 1 else ())


def _best(
    table: Table,
    layout: str,
    found: Mapping[str, Sequence[Template]],
    doubtful: Sequence[set[str]],
    possible: Sequence[str],
) -> list[str]:
    """The possible heads ("" for none) that explain the keys best."""
    there = {template.text for rows in found.values() for template in rows}
    rows = {(template.row.option or "", template.text) for template in templates(table, layout)}

    def cost(head: str) -> int:
        missing = sum(option == head != "" and text not in there for option, text in rows)
        return missing + sum(head not in options and options <= {*table.heads_of(layout)} for options in doubtful)

    least = min(map(cost, possible))
    return [head for head in possible if cost(head) == least]
