"""A state dict as the modules it came from, repeated layers collapsed where they really agree."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.keys import is_index

if TYPE_CHECKING:
    from ckptconv.commands.inspect import TensorInfo

# Deeper parts of a key are read as one name: no model is nested that deep, and the tree is walked by recursion.
_DEEPEST = 64


@dataclass(frozen=True)
class Line:
    """One module. times: how many equal modules it stands for. parameters: of all of them together, tied ones once.

    leaves: its own tensors, by the last part of their key, where it has no other modules ("" when it is a tensor).
    The lines below one with times > 1, and its leaves, are those of the first of its modules.
    """

    depth: int
    name: str
    times: int
    parameters: int
    leaves: tuple[tuple[str, TensorInfo], ...] = ()


@dataclass(frozen=True)
class _Node:
    """A module. tail: the names of single children that are read as one with it (`.fc1.weight`).

    form: equal for modules with equal names, shapes, dtypes and ties below them.
    """

    tail: str
    tensor: TensorInfo | None
    children: dict[str, _Node]
    parameters: int
    form: int


def module_tree(tensors: Iterable[TensorInfo], depth: int | None = None) -> Iterator[Line]:
    """The lines of the tree, in the order of the keys but for numbers, which are in theirs (files may have `10`
    before `2`); modules below `depth` are summed up in their parent."""
    yield from _lines(_children(list(tensors), 0, 1, {}), 0, depth)


def _children(tensors: Sequence[TensorInfo], start: int, level: int, forms: dict[Hashable, int]) -> dict[str, _Node]:
    groups = _grouped(tensors, start, level)
    return {
        part: _node(groups[part], start + len(part) + 1, level + 1, forms) for part in _numbers_in_order(list(groups))
    }


def _grouped(tensors: Sequence[TensorInfo], start: int, level: int) -> dict[str, list[TensorInfo]]:
    """The tensors by the part of their key that begins at `start`."""
    groups: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        dot = tensor.key.find(".", start) if level < _DEEPEST else -1
        groups.setdefault(tensor.key[start : dot if dot >= 0 else None], []).append(tensor)
    return groups


def _node(tensors: Sequence[TensorInfo], start: int, level: int, forms: dict[Hashable, int]) -> _Node:
    """The module of all these tensors, whose keys agree up to `start`; that of its own tensor, if any, ends there."""
    begin = start
    own, rest = _own(tensors, start)
    while own is None:
        groups = _grouped(rest, start, level)
        if len(groups) > 1:
            break
        start, level = start + len(next(iter(groups))) + 1, level + 1
        own, rest = _own(rest, start)
    children = _children(rest, start, level, forms)
    tail = tensors[0].key[begin - 1 : start - 1]
    told = (own.shape, own.dtype, own.tied_to is None) if own else None
    form = (tail, told, *sorted((name, child.form) for name, child in children.items()))
    counted = prod(own.shape) if own and own.tied_to is None else 0
    parameters = counted + sum(child.parameters for child in children.values())
    return _Node(tail, own, children, parameters, forms.setdefault(form, len(forms)))


def _own(tensors: Sequence[TensorInfo], start: int) -> tuple[TensorInfo | None, Sequence[TensorInfo]]:
    """The tensor whose key ends before `start`, and the others."""
    own = next((tensor for tensor in tensors if len(tensor.key) < start), None)
    return own, [tensor for tensor in tensors if tensor is not own] if own else tensors


def _numbers_in_order(names: list[str]) -> list[str]:
    """The names as they are, but the numbers among them together, in order, where the first of them is."""
    numbers = sorted(filter(is_index, names), key=int)
    if not numbers:
        return names
    first = next(at for at, name in enumerate(names) if is_index(name))
    return names[:first] + numbers + [name for name in names[first:] if not is_index(name)]


def _lines(children: dict[str, _Node], level: int, depth: int | None) -> Iterator[Line]:
    for run in _runs(children):
        name, times, node = _chain(run)
        leaves = tuple(
            (part, leaf.tensor)
            for part, leaf in node.children.items()
            if leaf.tensor and not (leaf.tail or leaf.children)
        )
        own = (("", node.tensor),) if node.tensor else ()
        simple = len(leaves) == len(node.children)
        parameters = sum(each.parameters for _, each in run)
        yield Line(level, name, times, parameters, own + leaves if simple else own)
        if not simple and (depth is None or level + 1 < depth):
            yield from _lines(node.children, level + 1, depth)


_Run = list[tuple[str, _Node]]


def _chain(run: _Run) -> tuple[str, int, _Node]:
    """A module with a single child, or a single run of equal ones, is read as one: `layers.{0..3}`, `fc1.weight`."""
    names, times = [], 1
    while True:
        node = run[0][1]
        names.append(_range(run) + node.tail)
        times *= len(run)
        inner = [] if node.tensor else list(_runs(node.children))
        if len(inner) != 1:
            return ".".join(names), times, node
        run = inner[0]


def _runs(children: dict[str, _Node]) -> Iterator[_Run]:
    """Children in order; consecutive numbers whose contents agree as one run."""
    run: _Run = []
    for name, child in children.items():
        if run and not _continues(*run[-1], name, child):
            yield run
            run = []
        run.append((name, child))
    if run:
        yield run


def _continues(before: str, last: _Node, name: str, child: _Node) -> bool:
    return is_index(name) and is_index(before) and int(name) == int(before) + 1 and child.form == last.form


def _range(run: _Run) -> str:
    first, last = run[0][0], run[-1][0]
    return first if first == last else f"{{{first}..{last}}}"
