"""Which parts of a pickled checkpoint are state dicts, and which are something else."""

from __future__ import annotations

from pathlib import Path

from ckptconv.containers.checkpoint import StateDict, Tensor
from ckptconv.containers.inert import Global, Node, Pair, pairs_of
from ckptconv.containers.rebuild import why_no_tensor
from ckptconv.errors import Damaged, Unsupported
from ckptconv.text import printable


def split(root: Node, path: Path) -> tuple[dict[str, StateDict], dict[str, Node]]:
    """(entries, other) of a checkpoint's top level, as `Checkpoint` describes them.

    A state dict is a dict with text keys, most of whose values are tensors; optimizer states are never one. What else
    lies in a state dict goes to `other` under "entry.key". Raises Damaged (a key twice) or Unsupported (a tensor that
    can't be converted), naming the key.
    """
    pairs = pairs_of(root)
    if pairs is None:
        return {}, {"": root}
    if _is_state_dict(pairs):
        tensors, rest = _state_dict(pairs, "", path)
        return {"": tensors}, rest
    entries: dict[str, StateDict] = {}
    other: dict[str, Node] = {}
    for name, value in _named(pairs, "its top level", path):
        inner = pairs_of(value)
        if inner is None or _is_optimizer(name) or not _is_state_dict(inner):
            other[name] = value
            continue
        entries[name], rest = _state_dict(inner, name, path)
        other.update(rest)
    return entries, other


def third_party_note(names: tuple[Global, ...]) -> tuple[str, ...]:
    """One sentence about the classes of other packages that a pickle mentions; () where there are none."""
    strange = [printable(name.full, 80) for name in names if not name.silent]
    if not strange:
        return ()
    shown = ", ".join(strange[:5]) + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")
    return (f"names classes of other packages, read as inert data: {shown}",)


def _is_optimizer(name: str) -> bool:
    return name == "last_optimizer_state" or name.startswith("optimizer")


def _is_state_dict(pairs: list[Pair]) -> bool:
    if any(type(key) is not str for key, _ in pairs):
        return False
    return 2 * sum(_stands_for_tensor(value) for _, value in pairs) > len(pairs)


def _stands_for_tensor(node: Node) -> bool:
    return type(node) is Tensor or why_no_tensor(node) is not None


def _state_dict(pairs: list[Pair], entry: str, path: Path) -> tuple[dict[str, Tensor], dict[str, Node]]:
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Node] = {}
    for key, value in _named(pairs, f"the entry '{printable(entry)}'" if entry else "its state dict", path):
        reason = why_no_tensor(value)
        if reason is not None:
            where, name = printable(str(path)), printable(key)
            raise Unsupported(f"{where} is not supported: the tensor {name} is {reason}", path)
        if type(value) is Tensor:
            tensors[key] = value
        else:
            rest[f"{entry}.{key}" if entry else key] = value
    return tensors, rest


def _named(pairs: list[Pair], what: str, path: Path) -> list[tuple[str, Node]]:
    """The pairs under text names. Raises Damaged if two have the same: torch would keep the last one silently."""
    named: dict[str, Node] = {}
    for key, value in pairs:
        name = key if type(key) is str else str(key) if type(key) is int else f"<{type(key).__name__}>"
        if name in named and type(key) in (str, int):
            raise Damaged(f"{printable(str(path))} is damaged: {what} has the key {printable(name)} twice", path)
        named[name] = value
    return list(named.items())
