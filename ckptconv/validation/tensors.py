"""Checks of the keys, shapes and values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ckptconv.containers.checkpoint import shared_views
from ckptconv.containers.read import Reader
from ckptconv.dtypes import FLOATS
from ckptconv.keys import collapsed
from ckptconv.progress import Progress, counter
from ckptconv.tables.expressions import evaluate
from ckptconv.text import printable
from ckptconv.validation.findings import Finding, found
from ckptconv.validation.subject import Subject
from ckptconv.values.elements import elements_of
from ckptconv.values.stats import Stats, statistics

_SHOWN = 6
_FP16_MAX = 65504.0


def keys(subject: Subject) -> Iterator[Finding]:
    """Whether the keys and shapes are those of a known layout."""
    stranger, fit = subject.detected.stranger, subject.fit
    if stranger is not None:
        yield found("OTHER_MODEL", f"{subject.name} is {stranger.name}", "use the tools of that model")
    if fit is None:
        tried = [each for each in subject.detected.tried if each.coverage][:1]
        closest = f"; closest is {tried[0].name}, with {tried[0].coverage:.0%} of them" if tried else ""
        message = (
            f"{subject.name} is in no layout that ckptconv knows, by its {len(subject.state_dict):,} keys{closest}"
        )
        yield found("UNKNOWN_LAYOUT", message, "a table of your own (docs/tables.md) makes more checks possible")
        return
    hint = "use the complete checkpoint of one model, or look closer with `ckptconv inspect --tensors`"
    if fit.missing:
        yield found("KEYS_MISSING", f"{fit.name} needs {len(fit.missing):,} more: {some(collapsed(fit.missing))}", hint)
    if fit.unexpected:
        left = some(collapsed(fit.unexpected))
        yield found("KEYS_LEFT_OVER", f"{len(fit.unexpected):,} are no keys of {fit.name}: {left}", hint)
    for each in fit.mismatched[:_SHOWN]:
        where = fit.table.where(each.line)
        message = f"{printable(each.key)} is {list(each.got)}, expected {list(each.expected)} ({where})"
        yield found("SHAPE_MISMATCH", message, hint)
    for note in fit.spelled.notes:
        yield found("KEYS_RESPELLED", note, "rename the keys before loading (ckptconv convert does)")
    for note in fit.notes[len(fit.spelled.notes) :]:
        yield found("CONSTANT_ABSENT", note, "write it anew with ckptconv convert, there and back")
    if fit.exact and fit.table.known and not any(evaluate(line.condition, fit.dims) for line in fit.table.known):
        sizes = ", ".join(f"{name} {size:,}" for name, size in fit.sizes.items())
        names = ", ".join(line.name for line in fit.table.known)
        message = f"no published size ({names}) of {fit.table.family} has these dims: {sizes}"
        yield found("UNKNOWN_SIZE", message, "nothing to do if the model is your own")


def some(names: Iterable[str]) -> str:
    """The first few, escaped, and how many there are more."""
    listed = [printable(name) for name in names]
    more = f" … and {len(listed) - _SHOWN:,} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def values(subject: Subject, reader: Reader, progress: Progress) -> Iterator[Finding]:
    """NaN, infinities, and what fp16 can't hold; reads every byte."""
    shared = shared_views(subject.state_dict)
    named = ((key, tensor) for key, tensor in subject.state_dict.items() if key not in shared)
    tensors = {key: tensor for key, tensor in named if tensor.dtype in FLOATS}
    read = counter(progress, sum(tensor.nbytes for tensor in tensors.values()))
    broken: dict[str, list[tuple[str, int]]] = {"nan": [], "inf": []}
    large: list[tuple[str, float]] = []
    measured = statistics((elements_of(tensor, reader) for tensor in tensors.values()), read)
    for (key, tensor), seen in zip(tensors.items(), measured, strict=True):
        for kind, listed in broken.items():
            if getattr(seen, kind):
                listed.append((key, getattr(seen, kind)))
        if tensor.dtype.name != "F16" and _largest(seen) > _FP16_MAX:
            large.append((key, _largest(seen)))
    for kind, code in (("nan", "NAN_VALUES"), ("inf", "INF_VALUES")):
        if broken[kind]:
            shown = some(f"{key} ({count:,})" for key, count in broken[kind])
            count = sum(count for _, count in broken[kind])
            what = {"nan": "NaN", "inf": "infinite"}[kind]
            hint = "go back to an earlier checkpoint: training diverged, or a cast overflowed"
            yield found(code, f"{count:,} value{'s are' if count > 1 else ' is'} {what}: {shown}", hint)
    if large:
        shown = some(f"{key} (up to {most:.3g})" for key, most in large)
        yield found("FP16_OVERFLOW", f"more than fp16 can hold, {_FP16_MAX:.0f}: {shown}", "use bf16 or fp32")


def _largest(seen: Stats) -> float:
    return max((abs(each) for each in (seen.min, seen.max) if each is not None), default=0.0)
