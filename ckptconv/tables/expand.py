"""A column written out: templates with their alternatives, and for given dims every key with its shape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Generic, TypeVar

from ckptconv.keys import is_index
from ckptconv.tables.model import Cell, Choice, Index, Let, Row, Table

Dims = Mapping[str, int | bool]
"""Sizes by name (`d`, `ffn`, `encoder_layers`), and the options (`layernorm_embedding`) as booleans."""

_PLACEHOLDER = re.compile(r"{([^}]*)}")


@dataclass(frozen=True)
class Param:
    """One parameter of a family, whatever it is called: a row of the table and the values of its placeholders."""

    line: int
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Slot:
    """Where a parameter lies in one layout: a part (all of it, mostly) of the tensor `key`.

    shape: of the parameter itself, not of the tensor it may be fused into.
    """

    key: str
    cell: Cell
    shape: tuple[int, ...]
    symbols: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Template:
    """A cell whose alternatives are written out; only index placeholders are left in `text`."""

    text: str
    row: Row
    cell: Cell
    values: tuple[tuple[str, str], ...]
    symbols: tuple[str, ...]


def placeholders(text: str) -> tuple[str, ...]:
    """The names in braces, in order of appearance, each once."""
    return tuple(dict.fromkeys(_PLACEHOLDER.findall(text)))


def written_out(text: str, lets: Mapping[str, Let]) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every way to fill in the alternatives of a template, index placeholders left alone, with the values used."""
    names = [name for name in placeholders(text) if isinstance(lets[name], Choice)]
    choices = [lets[name].values for name in names]  # type: ignore[union-attr]
    for values in product(*choices):
        chosen = tuple(zip(names, values, strict=True))
        yield fill_in(text, dict(chosen)), tuple(sorted(chosen))


def fill_in(text: str, values: Mapping[str, str]) -> str:
    """The template with the placeholders that `values` names replaced."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)


def templates(table: Table, layout: str) -> tuple[Template, ...]:
    """Every cell of the layout's column with its alternatives written out."""
    found = []
    for row in table.rows:
        cell = row.cells[table.column(layout)]
        if cell is not None:
            for text, values in written_out(cell.template, table.lets):
                # A bias has the first axis of its row's shape (torch.nn.Linear, LayerNorm).
                symbols = row.shape[:1] if text.endswith("bias") else row.shape
                found.append(Template(text, row, cell, values, symbols))
    return tuple(found)


def counted(text: str, lets: Mapping[str, Let], dims: Dims) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every key that a template without alternatives stands for, with the indexes used."""
    indexes = [let for name in placeholders(text) if isinstance(let := lets[name], Index)]
    for numbers in product(*(range(dims.get(index.dim, 0)) for index in indexes)):
        values = tuple((index.name, str(number)) for index, number in zip(indexes, numbers, strict=True))
        yield fill_in(text, dict(values)), values


def expand(table: Table, layout: str, dims: Dims) -> dict[Param, Slot]:
    """Every parameter that the layout holds at these dims, in the order of the table's rows, layer by layer.

    Rows under an option that `dims` doesn't set are left out. A size that `dims` lacks is 0.
    """
    slots: dict[Param, Slot] = {}
    for block in _blocks(templates(table, layout)):
        for key, template, values in _in_order(block, table.lets, dims):
            if template.row.option is None or dims.get(template.row.option):
                shape = tuple(int(dims.get(symbol, symbol if symbol.isdigit() else 0)) for symbol in template.symbols)
                param = Param(template.row.line, tuple(sorted(template.values + values)))
                slots[param] = Slot(key, template.cell, shape, template.symbols, template.row.line)
    return slots


def _blocks(found: Sequence[Template]) -> Iterator[list[Template]]:
    """Consecutive templates that count over the same indexes: written layer by layer, as models do."""
    block: list[Template] = []
    for template in found:
        if block and _indexes(block[0]) != _indexes(template):
            yield block
            block = []
        block.append(template)
    if block:
        yield block


def _indexes(template: Template) -> tuple[str, ...]:
    return placeholders(template.text)


def _in_order(
    block: Sequence[Template], lets: Mapping[str, Let], dims: Dims
) -> Iterator[tuple[str, Template, tuple[tuple[str, str], ...]]]:
    keys = [list(counted(template.text, lets, dims)) for template in block]
    for layer in zip(*keys, strict=True):
        for template, (key, values) in zip(block, layer, strict=True):
            yield key, template, values


T = TypeVar("T")


@dataclass
class _Node(Generic[T]):
    """A place in the tree of templates: what may come next, and what ends here."""

    children: dict[str, _Node[T]] = field(default_factory=dict)
    payloads: tuple[T, ...] = ()


class KeyIndex(Generic[T]):
    """Templates looked up by key, part by part: exact text first, index placeholders where the part is a number."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, template: str, payload: T) -> None:
        """Enter a template; several payloads may share one."""
        node = self._root
        for part in template.split("."):
            node = node.children.setdefault(part, _Node())
        node.payloads += (payload,)

    def find(self, key: str) -> tuple[tuple[T, ...], tuple[tuple[str, int], ...]]:
        """The payloads of the template that the key fits, and its (index placeholder, number) pairs; else ((), ())."""
        return self._find(self._root, key.split("."), 0, ())

    def _find(
        self, node: _Node[T], parts: list[str], at: int, numbers: tuple[tuple[str, int], ...]
    ) -> tuple[tuple[T, ...], tuple[tuple[str, int], ...]]:
        if at == len(parts):
            return node.payloads, numbers
        part = parts[at]
        nexts = [(node.children[part], numbers)] if part in node.children else []
        if is_index(part):
            indexes = [(name, child) for name, child in node.children.items() if name.startswith("{")]
            nexts += [(child, (*numbers, (name[1:-1], int(part)))) for name, child in indexes]
        for child, counted_so_far in nexts:
            found = self._find(child, parts, at + 1, counted_so_far)
            if found[0]:
                return found
        return (), ()
