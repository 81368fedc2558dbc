"""The configs of both sides: what one says and the other contradicts, of all that changes what the model computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ckptconv.tables.fields import Documents, said
from ckptconv.tables.fit import Fit

_COMPUTING = frozenset({"assume", "must"})  # what tensors show is compared by the tensors; the rest matters to training


@dataclass(frozen=True)
class Disagreement:
    """A field of the config: where each side says what."""

    source: str
    source_value: Any
    target: str
    target_value: Any


def disagreements(source: Fit, before: Documents, target: Fit, after: Documents) -> Iterator[Disagreement]:
    """Fields that both configs name, with other values. before, after: both configs (`source_documents`)."""
    theirs, ours = said(source.table, source.layout.name, before), said(target.table, target.layout.name, after)
    for field, (value, where) in theirs.items():
        if field.kind in _COMPUTING and field in ours and ours[field][0] != value:
            yield Disagreement(where, value, ours[field][1], ours[field][0])


def unsaid(source: Fit, before: Documents, target: Fit, after: Documents) -> Iterator[str]:
    """`where = value` of the fields that the output's config names, and that no tensor and no config of the source
    shows."""
    theirs, ours = said(source.table, source.layout.name, before), said(target.table, target.layout.name, after)
    for field, (value, where) in ours.items():
        if field.kind == "assume" and field not in theirs:
            yield f"{where.rpartition(': ')[2]} = {value}"
