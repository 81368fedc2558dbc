"""Checks of the config or args against the tensors, and of ties."""

from __future__ import annotations

from collections.abc import Iterator

from ckptconv.plan import ties
from ckptconv.tables.fields import COMPUTED, Sides, resolve
from ckptconv.tables.model import Field
from ckptconv.validation.findings import Finding, found
from ckptconv.validation.subject import Subject

# Kind of field → what it is called when the config says something else than the tensors or the table.
_CODES = {"tied": "TIED_IN_CONFIG_ONLY", "must": "CONFIG_DEVIATES"}
_CORRECT = "correct the config, or use the checkpoint that it belongs to"


def config(subject: Subject) -> Iterator[Finding]:
    """Whether there is a config, and whether it says what the tensors say."""
    fit = subject.fit
    if fit is None or not fit.exact or subject.facts is None:
        return
    yield from _bare(subject)
    names = {**fit.dims, **ties(fit, subject.facts, fit.dims), **dict.fromkeys(COMPUTED)}
    for line in fit.table.defaults:
        names.setdefault(line.dim, line.size)
    sides = Sides(fit.table, fit.layout.name, fit.layout.name, names, names, subject.documents, {}, {})
    resolved = resolve(sides)
    for each in resolved.contradictions:
        yield found(_CODES.get(each.kind, "CONFIG_CONTRADICTS"), each.message, _CORRECT)
    for message in resolved.denied:
        yield found("TIED_IN_TENSORS_ONLY", message, "nothing is lost; training will let them drift apart")
    for note in resolved.notes:
        yield found("CONFIG_ASSUMED", note, "name them when converting, with --set FIELD=VALUE")


def _bare(subject: Subject) -> Iterator[Finding]:
    """A fairseq file without args and cfg, or a pretrained one, which fairseq can't open as a model."""
    assert subject.fit is not None
    table, layout = subject.fit.table, subject.fit.layout
    roots = [root for root in ("args", "cfg") if any(_is_under(root, each) for each in table.fields)]
    if layout.container != "torch" or not roots or any(subject.documents.get("", {}).get(root) for root in roots):
        return
    others = [each.name for each in table.layouts if each.container == "torch" and each != layout]
    others += [each.name for each in table.layouts if each.container != "torch"]
    yield found(
        "BARE_WEIGHTS",
        f"{subject.name} holds weights but neither args nor cfg; opened as a model, fairseq says “Neither args nor cfg "
        "exist in state keys”",
        f"make it a model with `ckptconv convert {subject.name} DIR --to {table.family}/{others[0]}`",
    )


def _is_under(root: str, field: Field) -> bool:
    return any(path.startswith(f"{root}.") for name in field.names if name for path in name.paths)
