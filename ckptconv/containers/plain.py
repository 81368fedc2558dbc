"""Inert nodes → plain Python values, for configs and reports."""

from __future__ import annotations

import struct
from typing import Any

from ckptconv.containers.checkpoint import Tensor
from ckptconv.containers.inert import Call, Dict, Global, List, Node, Set, StorageRef, pairs_of, walk
from ckptconv.text import printable

_NAMESPACES = frozenset({"argparse.Namespace", "types.SimpleNamespace"})
_DEPTH_LIMIT = 200
_LETTERS = 64  # so many letters of a text count as much as a value
_SCALARS = frozenset({"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"})
_FORMATS = {
    "f2": "e",
    "f4": "f",
    "f8": "d",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
}
_FORMATS |= {"u8": "Q", "b1": "?"}
_ATOMS = (type(None), bool, int, float, str)
_WRAPPED = frozenset({"builtins.int", "builtins.float", "builtins.str", "builtins.bool", "builtins.complex"})


def plain(node: Node, limit: int = 200_000) -> Any:
    """What a node says, in None, bool, int, float, str, list, tuple and dict.

    argparse.Namespace and omegaconf's DictConfig become dicts, ListConfig a list, an omegaconf node and an enum member
    their value, OrderedDict, defaultdict and Counter dicts, sets lists, numpy scalars numbers. Anything else becomes a
    short text such as "<fairseq.meters.TimeMeter>". Keys that are neither text nor small integers become text. Where a
    value contains itself stands "<cycle>"; below 200 levels, and after `limit` values, "<…>". So the result is a tree
    of bounded size, whatever the file says.
    """
    return _Builder(limit).build(node)


class _Builder:
    """Makes the outer values first and hangs the inner ones into them, so that depth costs no recursion.

    left: how many values there may still be; long texts count for several. above: the nodes that the one being made
    lies in. states: what BUILD gave, by the node that says it, so that none is looked through twice.
    """

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.todo: list[tuple[Any, Any, Node, int]] = []
        self.tuples: list[tuple[Any, Any]] = []
        self.above: set[int] = set()
        self.states: dict[int, dict[Any, Node]] = {}

    def build(self, root: Node) -> Any:
        result: list[Any] = [None]
        self.todo.append((result, 0, root, 0))
        while self.todo:
            parent, place, node, depth = self.todo.pop()
            if parent is None:  # all that lies in this node is made
                self.above.remove(place)
            else:
                parent[place] = self._value(parent, place, node, depth)
        for parent, place in reversed(self.tuples):
            parent[place] = tuple(parent[place])
        return result[0]

    def _value(self, parent: Any, place: Any, node: Node, depth: int) -> Any:
        node = self._unwrapped(node)
        if type(node) is str:
            self.left -= len(node) // _LETTERS
            return node if self.left >= 0 or len(node) < _LETTERS else "<…>"
        if type(node) in _ATOMS:
            return node
        if id(node) in self.above:
            return "<cycle>"
        if self.left < 0 or depth > _DEPTH_LIMIT:
            return "<…>"
        children = self._contents(node)
        if children is None:
            return _described(node)
        self.left -= len(children) + 1
        if isinstance(children, dict):
            self.left -= sum(len(key) // _LETTERS for key in children if type(key) is str)
        if self.left < 0:
            return "<…>"
        self.above.add(id(node))
        self.todo.append((None, id(node), None, 0))
        if isinstance(children, dict):
            made: Any = dict.fromkeys(children)
            self.todo.extend((made, key, child, depth + 1) for key, child in reversed(children.items()))
            return made
        if type(node) is tuple:
            self.tuples.append((parent, place))
        made = [None] * len(children)
        self.todo.extend((made, index, child, depth + 1) for index, child in reversed(list(enumerate(children))))
        return made

    def _unwrapped(self, node: Node) -> Node:
        """The value inside omegaconf's nodes, enum members and numpy scalars; other nodes as they are."""
        for _ in range(_DEPTH_LIMIT):
            if type(node) is not Call:
                return node
            inner = self._inside(node)
            if inner is node:
                return node
            node = inner
        return "<…>"

    def _inside(self, call: Call) -> Node:
        if call.target.full.startswith("omegaconf."):
            state = self._state(call)
            return state.get("_content", state.get("_val", call))
        return _inside(call)

    def _contents(self, node: Node) -> dict[Any, Node] | list[Node] | tuple[Node, ...] | None:
        if type(node) is Call and node.target.full in _NAMESPACES:
            return self._state(node)
        return _contents(node)

    def _state(self, call: Call) -> dict[Any, Node]:
        """The attributes that BUILD gave: a dict, or (dict, dict of slots)."""
        found = self.states.get(id(call.state))
        if found is None:
            parts = call.state if type(call.state) is tuple else (call.state,)
            found = {_key(key): value for part in parts[:2] for key, value in pairs_of(part) or []}
            self.states[id(call.state)] = found
        return found


def _inside(call: Call) -> Node:
    """The value inside an enum member, a numpy scalar or a number's class; other calls as they are."""
    full = call.target.full
    if full in _SCALARS:
        return _number(call)
    if full in _WRAPPED and len(call.args) == 1 and type(call.args[0]) in _ATOMS:
        return call.args[0]
    is_enum = call.how == "reduce" and not call.built and not call.pairs and not call.items and len(call.args) == 1
    if is_enum and type(call.args[0]) in (int, str) and not full.startswith(("torch.", "numpy.", "builtins.")):
        return call.args[0]
    return call


def _contents(node: Node) -> dict[Any, Node] | list[Node] | tuple[Node, ...] | None:
    """The values inside a collection; None for anything else."""
    if type(node) is tuple:
        return node
    if type(node) in (List, Set):
        return list(node.items)
    if type(node) is Call and node.target.name in ("set", "frozenset", "list", "tuple", "Size") and len(node.args) == 1:
        return _contents(node.args[0])
    pairs = pairs_of(node)
    return None if pairs is None else {_key(key): value for key, value in pairs}


def _key(node: Node) -> str | int:
    if type(node) is str or (type(node) is int and abs(node) < 1 << 60):  # larger integers can be made to collide
        return node
    node = _inside(node) if type(node) is Call else node
    return str(node) if type(node) in _ATOMS else _described(node)


def _number(call: Call) -> Node:
    """numpy's scalar(dtype('f8'), bytes); the call itself if it is anything else."""
    if len(call.args) != 2 or type(call.args[0]) is not Call or type(call.args[1]) is not bytes:
        return call
    dtype, data = call.args
    code = dtype.args[0] if dtype.args else None
    state = dtype.state if type(dtype.state) is tuple else ()
    order = ">" if len(state) > 1 and state[1] == ">" else "<"
    layout = _FORMATS.get(code) if type(code) is str else None
    if layout is None or struct.calcsize(order + layout) != len(data):
        return call
    return struct.unpack(order + layout, data)[0]


def _described(node: Node) -> str:
    if type(node) is Tensor:
        return f"<tensor {node.dtype} {list(node.shape)}>"
    if type(node) is bytes:
        return f"<{len(node)} bytes>"
    if type(node) is Global:
        return f"<{printable(node.full)}>"
    if type(node) is Call:
        return f"<{printable(node.target.full)}>"
    if type(node) is StorageRef:
        return f"<{printable(node.kind.full)}>"
    return f"<{'dict' if type(node) is Dict else type(node).__name__}>"


def is_plain(node: Node) -> bool:
    """Whether a node is data through and through: no tensors, and no objects but namespaces and omegaconf's."""
    return all(_is_data(each) for each in walk(node))


def _is_data(node: Node) -> bool:
    if type(node) is Call:
        return node.target.full.startswith(("argparse.Namespace", "collections.", "omegaconf."))
    if type(node) is Global:
        return node.module in ("typing", "builtins", "__builtin__")
    return type(node) not in (Tensor, StorageRef, bytes, Set)
