"""Which parts of a pickled checkpoint are state dicts, and which are something else."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from ckptconv.containers.checkpoint import StateDict, Tensor
from ckptconv.containers.inert import Call, Dict, Global, List, Node, Pair, Set, pairs_of, walk
from ckptconv.containers.policy import may_be_called
from ckptconv.containers.reading import Reading
from ckptconv.containers.rebuild import why_no_tensor
from ckptconv.errors import Damaged, Unsafe, Unsupported
from ckptconv.text import printable

_VISITS = 1_000_000  # values; 50,000 tensors with an optimizer's state have 400,000, 200,000 words thrice 1,200,000
_TIMES = 2


def split(root: Node, path: Path, reading: Reading) -> tuple[dict[str, StateDict], dict[str, Node]]:
    """(entries, other) of a checkpoint's top level, as `Checkpoint` describes them.

    A state dict is a dict with text keys, most of whose values are tensors; optimizer states are never one. What else
    lies in a state dict goes to `other` under "entry.key". Raises Damaged (a key twice), Unsupported (a tensor that
    can't be converted), naming the key, or Unsafe (more keys than any model has).
    """
    pairs = pairs_of(root)
    if pairs is None:
        return {}, {"": root}
    reading.count([_name(key) for key, _ in pairs], path)
    check_sharing(pairs, path)
    if _is_state_dict(pairs):
        tensors, rest = state_dict(pairs, "", path)
        return {"": tensors}, rest
    entries: dict[str, StateDict] = {}
    other: dict[str, Node] = {}
    for name, value in _named(pairs, "its top level", path):
        inner = pairs_of(value)
        if inner is None or _is_optimizer(name) or not _is_state_dict(inner):
            other[name] = value
            continue
        reading.count([_name(key) for key, _ in inner], path)
        entries[name], rest = state_dict(inner, name, path)
        other.update(rest)
    return entries, other


def check_sharing(pairs: list[Pair], path: Path) -> None:
    """Raises Unsafe where entries have so much in common that looking at each takes far longer than reading all."""
    values = tuple(value for _, value in pairs if type(value) in (Dict, List, Set, tuple, Call))
    several = len(values) > 1
    if several and _takes_longer(values, _VISITS) and _takes_longer(values, _TIMES * sum(1 for _ in walk(values))):
        raise Unsafe(
            f"{printable(str(path))} is refused as unsafe: its entries consist of the same values over and over", path
        )


def _takes_longer(values: tuple[Node, ...], visits: int) -> bool:
    """Whether looking at everything below each value takes more visits."""
    for value in values:
        visits -= sum(1 for _ in islice(walk(value), visits + 1))
        if visits < 0:
            return True
    return False


def third_party_note(names: tuple[Global, ...]) -> tuple[str, ...]:
    """A sentence about the classes of other packages that a pickle mentions, one about functions; () where there are
    none."""
    functions = [name for name in names if not may_be_called(name.module, name.name)]
    classes = [name for name in names if not name.silent and may_be_called(name.module, name.name)]
    notes = []
    if classes:
        notes.append(f"names classes of other packages, read as inert data: {_shown(classes)}")
    if functions:
        notes.append(f"names functions of other packages; what a call of one returns isn't known: {_shown(functions)}")
    return tuple(notes)


def _shown(names: list[Global]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(printable(name.full, 80) for name in names[:5]) + more


def _is_optimizer(name: str) -> bool:
    return name == "last_optimizer_state" or name.startswith("optimizer")


def _is_state_dict(pairs: list[Pair]) -> bool:
    if any(type(key) is not str for key, _ in pairs):
        return False
    return 2 * sum(_stands_for_tensor(value) for _, value in pairs) > len(pairs)


def _stands_for_tensor(node: Node) -> bool:
    return type(node) is Tensor or why_no_tensor(node) is not None


def state_dict(pairs: list[Pair], entry: str, path: Path) -> tuple[dict[str, Tensor], dict[str, Node]]:
    """(tensors, the rest) of a state dict's pairs. Raises Damaged (a key twice) or Unsupported (a tensor that can't be
    converted), naming the key."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Node] = {}
    for key, value in _named(pairs, f"the entry '{printable(entry)}'" if entry else "its state dict", path):
        if type(value) is Tensor:
            tensors[key] = value
            continue
        reason = why_no_tensor(value) or _unknown_call(value)
        if reason is not None:
            where, name = printable(str(path)), printable(key)
            raise Unsupported(f"{where} is not supported: the tensor {name} is {reason}", path)
        rest[f"{entry}.{key}" if entry else key] = value
    return tensors, rest


def _unknown_call(node: Node) -> str | None:
    """The reason against a value that a function of another package would make; None for other values."""
    if type(node) is not Call or may_be_called(node.target.module, node.target.name):
        return None
    return f"what {printable(node.target.full)} returns, which ckptconv doesn't know"


def _named(pairs: list[Pair], what: str, path: Path) -> list[tuple[str, Node]]:
    """The pairs under text names. Raises Damaged if two have the same: torch would keep the last one silently."""
    named: dict[str, Node] = {}
    for key, value in pairs:
        name = _name(key)
        if name in named and type(key) in (str, int):
            raise Damaged(f"{printable(str(path))} is damaged: {what} has the key {printable(name)} twice", path)
        named[name] = value
    return list(named.items())


def _name(key: Node) -> str:
    return key if type(key) is str else str(key) if type(key) is int else f"<{type(key).__name__}>"
