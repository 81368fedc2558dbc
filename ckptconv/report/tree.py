"""A state dict as the modules it came from, repeated layers collapsed where they really agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.commands.inspect import TensorInfo


@dataclass(frozen=True)
class Line:
    """One module. times: how many equal modules it stands for. parameters: of all of them together, tied ones once.

    leaves: its own tensors, by the last part of their key, where it has no other modules ("" when it is a tensor).
    """

    depth: int
    name: str
    times: int
    parameters: int
    leaves: tuple[tuple[str, TensorInfo], ...] = ()


@dataclass
class _Node:
    tensor: TensorInfo | None = None
    children: dict[str, _Node] = field(default_factory=dict)


def module_tree(tensors: Iterable[TensorInfo], depth: int | None = None) -> Iterator[Line]:
    """The lines of the tree, in the order of the keys; modules below `depth` are summed up in their parent."""
    root = _Node()
    for tensor in tensors:
        node = root
        for part in tensor.key.split(".")[:64]:
            node = node.children.setdefault(part, _Node())
        node.tensor = tensor
    yield from _lines(root, 0, depth)


def _lines(node: _Node, level: int, depth: int | None) -> Iterator[Line]:
    for names, child in _runs(node):
        name, child, times = _chain(_range(names), child, len(names))
        leaves = tuple(
            (part, leaf.tensor) for part, leaf in child.children.items() if leaf.tensor and not leaf.children
        )
        own = (("", child.tensor),) if child.tensor else ()
        simple = len(leaves) == len(child.children)
        yield Line(level, name, times, times * _count(child), own + leaves if simple else own)
        if not simple and (depth is None or level + 1 < depth):
            yield from _lines(child, level + 1, depth)


def _chain(name: str, node: _Node, times: int) -> tuple[str, _Node, int]:
    """A module with a single child, or a single run of equal ones, is read as one: `layers.{0..3}`, `fc1.weight`."""
    while node.tensor is None and node.children:
        (names, child), *more = _runs(node)
        if more:
            break
        name, node, times = f"{name}.{_range(names)}", child, times * len(names)
    return name, node, times


def _runs(node: _Node) -> Iterator[tuple[list[str], _Node]]:
    """Children in order; consecutive numbers whose contents agree in names, shapes and dtypes as one run."""
    run: list[str] = []
    last: tuple[object, _Node] | None = None
    for name, child in node.children.items():
        form = _form(child) if name.isdigit() else None
        if run and last and form is not None and form == last[0] and int(name) == int(run[-1]) + 1:
            run.append(name)
            continue
        if last:
            yield run, last[1]
        run, last = [name], (form, child)
    if last:
        yield run, last[1]


def _form(node: _Node) -> tuple[object, ...]:
    own = (node.tensor.shape, node.tensor.dtype) if node.tensor else None
    return (own, *((name, _form(child)) for name, child in sorted(node.children.items())))


def _count(node: _Node) -> int:
    own = 0
    if node.tensor is not None and node.tensor.tied_to is None:
        own = 1
        for size in node.tensor.shape:
            own *= size
    return own + sum(_count(child) for child in node.children.values())


def _range(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{{{names[0]}..{names[-1]}}}"
