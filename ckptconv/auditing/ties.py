"""Which keys that the target makes one tensor are one in the checkpoint: by their bytes, never by their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ckptconv.auditing.scene import Scene
from ckptconv.auditing.target import Reason
from ckptconv.containers.checkpoint import StateDict
from ckptconv.containers.read import Reader
from ckptconv.tables.expand import templates
from ckptconv.tables.fit import Fit


@dataclass(frozen=True)
class Tied:
    """A key that the target makes one tensor with `tied_to`. both: whether the checkpoint has both."""

    key: str
    tied_to: str
    both: bool
    reason: str
    expected: bool


def ties(scene: Scene, state_dict: StateDict, reader: Reader) -> Iterator[Tied]:
    """Every key of a tie but the first that is there. A layout's ties may hold different tensors: those are left out.

    Reads the tensors where both are there and don't share their storage.
    """
    plain, target = scene.target.plain, scene.target
    for keys in target.ties:
        there = [key for key in keys if plain(key) in scene.original]
        if not there or scene.wrapper is not None:
            continue
        owner = state_dict[scene.original[plain(there[0])]]
        for key in keys:
            if key == there[0]:
                continue
            if key not in there:
                if key in target.shapes:
                    yield Tied(key, there[0], False, "one of them is enough", True)
                continue
            same = reader.equal(owner, state_dict[scene.original[plain(key)]])
            if same or target.kind == "class":
                reason = _reason(same, scene.fit, there[0], scene.target.who)
                yield Tied(key, there[0], True, reason.text, reason.expected)


def _reason(same: bool, fit: Fit | None, first: str, who: str) -> Reason:
    if same:
        return Reason("equal in the checkpoint", True)
    if fit is not None and _is_other_name(fit, first):
        return Reason("an old name that holds other values, which nothing uses", True)
    return Reason(f"the {who} ties them, but the checkpoint holds different values", False)


def _is_other_name(fit: Fit, key: str) -> bool:
    """Whether the table knows the key only as another name of the next one of its tie, whose values count."""
    tied = any(key in tie.keys for tie in fit.table.ties if tie.layout == fit.layout.name)
    return tied and all(template.text != key for template in templates(fit.table, fit.layout.name))
