"""What a pickle becomes here: plain records of what it says. None of them can run, import, hash or compare anything.

A node is one of: None, bool, int, float, str, bytes, tuple (of nodes), and the classes below, or a Tensor.
Nodes may share children and form cycles, so walk them with `walk`, never by recursion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ckptconv.containers.checkpoint import Storage, Tensor
from ckptconv.dtypes import DType

Node = Any
Pair = tuple[Node, Node]


class Global:
    """A name in a module, mentioned but never looked up.

    full: `module.name`. silent: known to be harmless, not worth a note. callable: whether a pickle may call it.
    """

    __slots__ = ("callable", "full", "module", "name", "silent")

    def __init__(self, module: str, name: str, silent: bool, callable: bool) -> None:
        self.module = module
        self.name = name
        self.full = f"{module}.{name}"
        self.silent = silent
        self.callable = callable


class List:
    """A list."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: list[Node] = []


class Set:
    """A set or frozenset, in the order of the file."""

    __slots__ = ("items",)

    def __init__(self, items: list[Node]) -> None:
        self.items = items


class Dict:
    """A dict, as pairs in the order of the file: its keys may be unhashable, hostile or doubled."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        self.pairs: list[Pair] = []


class Call:
    """`target(*args, **kwargs)` that was not made, and what the file then did to the result.

    how: `reduce` (called with args) or `new` (an instance made from a class).
    pairs, items: what was set and appended. state: what BUILD gave it, if `built`.
    """

    __slots__ = ("args", "built", "how", "items", "kwargs", "pairs", "state", "target")

    def __init__(self, target: Global, args: tuple[Node, ...], how: str, kwargs: Node = None) -> None:
        self.target = target
        self.args = args
        self.kwargs = kwargs
        self.how = how
        self.pairs: list[Pair] = _NOTHING
        self.items: list[Node] = _NOTHING
        self.state: Node = None
        self.built = False


class StorageRef:
    """A torch storage as a pickle names it.

    kind: its class. key: its name in the file. location: the device it was on.
    dtype: its elements' type; None if quantised. place: where its bytes lie; None on the meta device.
    """

    __slots__ = ("dtype", "key", "kind", "location", "place")

    def __init__(self, kind: Global, key: str, location: str, dtype: DType | None, place: Storage | None) -> None:
        self.kind = kind
        self.key = key
        self.location = location
        self.dtype = dtype
        self.place = place


_NOTHING: list[Any] = []  # shared and never changed: most calls have no pairs and no items

_DICTS = frozenset(
    {"collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict", "__builtin__.dict"}
)


def pairs_of(node: Node) -> list[Pair] | None:
    """The pairs of a dict, OrderedDict, defaultdict, Counter or another class with items; None for anything else."""
    if type(node) is Dict:
        return node.pairs
    if type(node) is not Call:
        return None
    if node.target.full not in _DICTS:
        return node.pairs or None
    given = [pair for argument in node.args for pair in _given_pairs(argument)]
    return given + node.pairs if given else node.pairs


def _given_pairs(argument: Node) -> list[Pair]:
    """Pairs handed to a dict class when it was made: Counter({...}), Python 2's OrderedDict([[key, value], …])."""
    if type(argument) is Dict:
        return argument.pairs
    if type(argument) is not List:
        return []
    rows = [row.items if type(row) is List else row for row in argument.items]
    return [(row[0], row[1]) for row in rows if type(row) in (list, tuple) and len(row) == 2]


def walk(node: Node) -> Iterator[Node]:
    """Every node below and including `node`, in the order of the file; one that has nodes below it, once."""
    seen: set[object] = set()
    todo = [node]
    while todo:
        current = todo.pop()
        children = _children(current)
        if children is not None:
            known = id(current) if type(current) is tuple else current  # nodes are equal to themselves only
            if known in seen:
                continue
            seen.add(known)
        yield current
        if children is not None:
            todo.extend(reversed(list(children)))


def _children(node: Node) -> Iterable[Node] | None:
    """The nodes right below one; None for a leaf."""
    kind = type(node)
    if kind is tuple:
        return node  # type: ignore[no-any-return]
    if kind is Dict:
        return (part for pair in node.pairs for part in pair)
    if kind is List or kind is Set:
        return node.items  # type: ignore[no-any-return]
    if kind is Call:
        set_parts = (part for pair in node.pairs for part in pair)
        return (*node.args, node.kwargs, *set_parts, *node.items, node.state)
    return None


def tensors_in(node: Node) -> Iterator[Tensor]:
    """Every tensor below and including `node`, each tensor object once. Lazy: nothing is read from the file."""
    seen: set[int] = set()
    for found in walk(node):
        if type(found) is Tensor and id(found) not in seen:
            seen.add(id(found))
            yield found


def stored_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes that the tensors' storages take, each storage once."""
    return sum(storage.nbytes for storage in {tensor.storage for tensor in tensors})
