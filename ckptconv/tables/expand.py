"""A column written out: templates with their alternatives, and for given dims every key with its shape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Generic, NamedTuple, TypeVar

from ckptconv.keys import is_index
from ckptconv.tables.model import Cell, Choice, Index, Let, Name, Rest, Row, Table

Dims = Mapping[str, int | bool]
"""Sizes by name (`d`, `ffn`, `encoder_layers`), the options (`layernorm_embedding`) as booleans, and the names that a
`let … *` placeholder stands for, in order, as booleans too (`head=mnli`). A size that differs from name to name also
stands under `labels@mnli`."""

_PLACEHOLDER = re.compile(r"{([^}]*)}")


class Param(NamedTuple):
    """One parameter of a family, whatever it is called: a row of the table and the values of its placeholders."""

    line: int
    values: tuple[tuple[str, str], ...]


class Slot(NamedTuple):
    """Where a parameter lies in one layout: a part (all of it, mostly) of the tensor `key`.

    shape: of the parameter itself, not of the tensor it may be fused into.
    """

    key: str
    cell: Cell
    shape: tuple[int, ...]
    symbols: tuple[str, ...]
    line: int


class Template(NamedTuple):
    """A cell whose alternatives are written out; only index and name placeholders are left in `text`.

    over: those, and the row's name placeholders that other layouts' keys have and this one's doesn't.
    """

    text: str
    row: Row
    cell: Cell
    values: tuple[tuple[str, str], ...]
    symbols: tuple[str, ...]
    over: tuple[str, ...]


def names_of(dims: Dims, placeholder: str) -> tuple[str, ...]:
    """What the name placeholder stands for in a checkpoint of these dims."""
    start = f"{placeholder}="
    return tuple(name.removeprefix(start) for name, there in dims.items() if there and name.startswith(start))


def name_lists(lets: Mapping[str, Let], dims: Dims) -> dict[str, list[str]]:
    """What every name placeholder stands for, as expressions see it: `lang` is `["en_XX", "de_DE"]`."""
    return {name: list(names_of(dims, name)) for name, let in lets.items() if isinstance(let, Name)}


def active(option: str | None, dims: Dims) -> bool:
    """Whether the rows of the option (`name`, `!name`, or None: always) are there at these dims."""
    return option is None or bool(dims.get(option.removeprefix("!"))) != option.startswith("!")


@cache
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


@cache
def _pieces(text: str) -> tuple[str, ...]:
    """Text and placeholder names in turn."""
    return tuple(_PLACEHOLDER.split(text))


def fill_in(text: str, values: Mapping[str, str]) -> str:
    """The template with the placeholders that `values` names replaced."""
    pieces = list(_pieces(text))
    pieces[1::2] = [values.get(name, f"{{{name}}}") for name in pieces[1::2]]
    return "".join(pieces)


def row_names(row: Row, lets: Mapping[str, Let]) -> tuple[str, ...]:
    """The row's name placeholders, in whichever layouts they stand."""
    found = (name for cell in row.cells if cell for name in placeholders(cell.template))
    return tuple(dict.fromkeys(name for name in found if isinstance(lets[name], Name)))


def templates(table: Table, layout: str) -> tuple[Template, ...]:
    """Every cell of the layout's column with its alternatives written out."""
    column = table.column(layout)
    found = []
    for row in table.rows:
        cell = row.cells[column]
        if cell is not None:
            names = row_names(row, table.lets)
            for text, values in written_out(cell.template, table.lets):
                # A bias has the first axis of its row's shape (torch.nn.Linear, LayerNorm).
                symbols = row.shape[:1] if text.endswith("bias") else row.shape
                turned = cell if len(symbols) > 1 or not cell.transposed else cell._replace(transposed=False)
                over = tuple(dict.fromkeys((*placeholders(text), *names)))
                found.append(Template(text, row, turned, values, symbols, over))
    return tuple(found)


def counted(
    text: str, over: Sequence[str], lets: Mapping[str, Let], dims: Dims
) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every key that a template without alternatives stands for, with the values of the placeholders `over`."""
    for values in product(*(_values(lets[name], dims) for name in over)):
        chosen = tuple(zip(over, values, strict=True))
        yield fill_in(text, dict(chosen)), chosen


def _values(let: Let, dims: Dims) -> Sequence[str]:
    if isinstance(let, Index):
        return [str(number) for number in range(dims.get(let.dim, 0))]
    return names_of(dims, let.name)


def expand(table: Table, layout: str, dims: Dims) -> dict[Param, Slot]:
    """Every parameter that the layout holds at these dims, in the order of the table's rows, layer by layer.

    Rows under an option that `dims` doesn't set are left out. A size that `dims` lacks is 0.
    """
    return slots_of(there_at(table, layout, dims), table.lets, dims)


def slots_of(there: Sequence[Template], lets: Mapping[str, Let], dims: Dims) -> dict[Param, Slot]:
    """The parameters that these templates of one layout stand for."""
    slots: dict[Param, Slot] = {}
    by_name = any("@" in size for size in dims)  # else a template's parameters all have one shape
    for block in _blocks(there):
        shapes = {(template.row.line, template.text): _shape(template, (), dims) for template in block}
        for key, template, values in _in_order(block, lets, dims):
            shape = _shape(template, values, dims) if by_name else shapes[template.row.line, template.text]
            param = Param(template.row.line, tuple(sorted(template.values + values)))
            slots[param] = Slot(key, template.cell, shape, template.symbols, template.row.line)
    return slots


def there_at(table: Table, layout: str, dims: Dims) -> list[Template]:
    """The templates whose parameters the layout holds at these dims. Of a head's row and another optional one with the
    same key, that is the head's."""
    heads = table.heads_of(layout)
    found = [template for template in templates(table, layout) if active(template.row.option, dims)]
    taken = {template.text for template in found if template.row.option in heads}
    return [each for each in found if each.row.option in (None, *heads) or each.text not in taken]


def _shape(template: Template, values: Sequence[tuple[str, str]], dims: Dims) -> tuple[int, ...]:
    return tuple(size_of(symbol, values, dims) for symbol in template.symbols)


def size_of(symbol: str, values: Sequence[tuple[str, str]], dims: Dims) -> int:
    """The symbol's size where the placeholders have these values; 0 where `dims` lacks it."""
    if symbol.isdigit():
        return int(symbol)
    own = [dims[place] for _, value in values if (place := f"{symbol}@{value}") in dims]
    return int(own[0] if own else dims.get(symbol, 0))


def _blocks(found: Sequence[Template]) -> Iterator[list[Template]]:
    """Consecutive templates that count over the same indexes: written layer by layer, as models do."""
    block: list[Template] = []
    for template in found:
        if block and block[0].over != template.over:
            yield block
            block = []
        block.append(template)
    if block:
        yield block


def _in_order(
    block: Sequence[Template], lets: Mapping[str, Let], dims: Dims
) -> Iterator[tuple[str, Template, tuple[tuple[str, str], ...]]]:
    keys = [list(counted(template.text, template.over, lets, dims)) for template in block]
    for layer in zip(*keys, strict=True):
        for template, (key, values) in zip(block, layer, strict=True):
            yield key, template, values


T = TypeVar("T")


class _Node(Generic[T]):
    """A place in the tree of templates: what may come next (text; placeholders), and what ends here."""

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.places: list[tuple[Let, _Node[T]]] = []
        self.payloads: tuple[T, ...] = ()


class KeyIndex(Generic[T]):
    """Templates looked up by key, part by part: exact text first, then index placeholders where the part is a number,
    then name placeholders, then the rest of any key."""

    def __init__(self, lets: Mapping[str, Let]) -> None:
        self._root: _Node[T] = _Node()
        self._lets = lets

    def add(self, template: str, payload: T) -> None:
        """Enter a template; several payloads may share one."""
        node = self._root
        for part in template.split("."):
            if part not in node.children:
                node.children[part] = _Node()
                if part.startswith("{"):
                    node.places.append((self._lets[part[1:-1]], node.children[part]))
            node = node.children[part]
        node.payloads += (payload,)

    def find(self, key: str) -> tuple[tuple[T, ...], tuple[tuple[str, str], ...]]:
        """The payloads of the template that the key fits, and its (placeholder, value) pairs; else ((), ())."""
        return self._find(self._root, key.split("."), 0, ())

    def _find(
        self, node: _Node[T], parts: list[str], at: int, values: tuple[tuple[str, str], ...]
    ) -> tuple[tuple[T, ...], tuple[tuple[str, str], ...]]:
        while at < len(parts):
            child = node.children.get(parts[at])
            if node.places:
                return self._branch(node, child, parts, at, values)
            if child is None:
                return (), ()
            node, at = child, at + 1
        return node.payloads, values

    def _branch(
        self, node: _Node[T], child: _Node[T] | None, parts: list[str], at: int, values: tuple[tuple[str, str], ...]
    ) -> tuple[tuple[T, ...], tuple[tuple[str, str], ...]]:
        """Where a placeholder may stand: the exact text first."""
        if child is not None:
            found = self._find(child, parts, at + 1, values)
            if found[0]:
                return found
        for let, place in node.places:
            if isinstance(let, Rest):
                return place.payloads, (*values, (let.name, ".".join(parts[at:])))
            if isinstance(let, Name) or (isinstance(let, Index) and is_index(parts[at])):
                found = self._find(place, parts, at + 1, (*values, (let.name, parts[at])))
                if found[0]:
                    return found
        return (), ()
