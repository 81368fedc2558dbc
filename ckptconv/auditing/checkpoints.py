"""Another checkpoint as a target: its keys, shapes and dtypes."""

from __future__ import annotations

from dataclasses import replace

from ckptconv.auditing.layouts import constants
from ckptconv.auditing.target import Lists, Reason, Target, difference
from ckptconv.containers.checkpoint import StateDict, shared_views
from ckptconv.detect import shapes
from ckptconv.dtypes import FLOATS
from ckptconv.tables.fit import Fit


def target(name: str, state_dict: StateDict, fit: Fit | None) -> Target:
    """What the other checkpoint has; `fit`: the layout that it is in, if it is in one."""
    bases = [line.prefix for line in fit.table.bases if line.layout == fit.layout.name] if fit else []
    return Target(
        kind="checkpoint",
        name=name,
        shapes=shapes(state_dict),
        fit=fit,
        body=next((prefix for prefix in bases if any(key.startswith(prefix) for key in state_dict)), ""),
        ties=_shared(state_dict),
        told=constants(fit, state_dict) if fit else {},
    )


def lists(state_dict: StateDict, target: Target) -> Lists:
    """What doesn't fit, but for keys that are one tensor with another that does."""
    found = difference(shapes(state_dict), target)
    theirs = {key for keys in target.ties if any(key in state_dict for key in keys) for key in keys}
    ours = {key: other for keys in _shared(state_dict) for other in keys if other in target.shapes for key in keys}
    return replace(
        found,
        missing=tuple(key for key in found.missing if key not in theirs),
        unexpected=tuple(key for key in found.unexpected if key not in ours),
        ignored={key: f"the same tensor as {ours[key]}" for key in found.unexpected if key in ours},
    )


def _shared(state_dict: StateDict) -> tuple[tuple[str, ...], ...]:
    """The keys that are one tensor."""
    groups: dict[str, list[str]] = {}
    for key, owner in shared_views(state_dict).items():
        groups.setdefault(owner, [owner]).append(key)
    return tuple(map(tuple, groups.values()))


def dtypes(source: StateDict, target: StateDict) -> dict[str, tuple[str, str, Reason]]:
    """Keys that both have in another dtype: (got, wanted, reason). torch casts from float to float on loading."""
    found = {}
    for key, tensor in source.items():
        wanted = target[key].dtype if key in target else tensor.dtype
        if wanted != tensor.dtype:
            floats = tensor.dtype in FLOATS and wanted in FLOATS
            reason = Reason("cast on loading" if floats else "another kind of number", floats)
            found[key] = tensor.dtype.name, wanted.name, reason
    return found
