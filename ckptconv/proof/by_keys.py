"""One layout, or none that is known: each key of the output against the same key of the source."""

from __future__ import annotations

from collections.abc import Iterator

from ckptconv.containers.checkpoint import StateDict
from ckptconv.proof.found import Dropped, Proof, Proved
from ckptconv.proof.values import Values


def prove(source: StateDict, target: StateDict, values: Values) -> Proof:
    """Compare every key of the output with the source's key of that name; one that only one side has is a finding,
    unless it is the same tensor as one that is kept."""
    return Proof("", "", tuple(_each(source, target, values)), tuple(_gone(source, target)))


def _gone(source: StateDict, target: StateDict) -> Iterator[Dropped]:
    kept = {tensor: key for key, tensor in source.items() if key in target}
    for key, tensor in source.items():
        if key not in target and tensor in kept:
            yield Dropped(key, f"the same tensor as {kept[tensor]}, which is kept", False)
        elif key not in target:
            yield Dropped(key, "the output has no such key", True, False)


def _each(source: StateDict, target: StateDict, values: Values) -> Iterator[Proved]:
    for key, tensor in target.items():
        theirs = source.get(key)
        if theirs is None:
            yield Proved(key, (), "differ", "the source has no such key")
        elif theirs.shape != tensor.shape:
            yield Proved(key, (key,), "differ", f"its shape is {list(tensor.shape)}, the source's {list(theirs.shape)}")
        else:
            yield Proved(key, (key,), *values.judge(theirs, tensor))
