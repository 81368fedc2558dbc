"""The proof that a table is sound, without any checkpoint. See docs/tables.md for what is proved and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, permutations, product

from ckptconv.tables.expand import Dims, Slot, expand, placeholders, templates, written_out
from ckptconv.tables.expressions import names_in
from ckptconv.tables.fields import parse_value
from ckptconv.tables.fit import tensor_shape
from ckptconv.tables.model import Index, Table


@dataclass(frozen=True)
class Finding:
    """One way in which a table is unsound, and the line that says so."""

    line: int
    message: str


def lint(table: Table) -> tuple[Finding, ...]:
    """Everything that is unsound about the table, by line; () is the proof that nothing is."""
    found = [finding for check in _CHECKS for finding in check(table)]
    return tuple(sorted(set(found), key=lambda finding: (finding.line, finding.message)))


def sample_dims(table: Table, options: bool = True) -> Dims:
    """Made-up dims, each size different, three of every index: enough to write any table out."""
    symbols = dict.fromkeys(symbol for row in table.rows for symbol in row.shape if not symbol.isdigit())
    counts: dict[str, int | bool] = {let.dim: 3 for let in table.lets.values() if isinstance(let, Index)}
    sizes: dict[str, int | bool] = {symbol: 120 + 12 * number for number, symbol in enumerate(symbols)}
    return sizes | counts | {row.option: options for row in table.rows if row.option}


def _placeholders(table: Table) -> Iterator[Finding]:
    for row in table.rows:
        cells = [cell.template for cell in row.cells if cell]
        if len({frozenset(placeholders(text)) for text in cells}) > 1:
            yield Finding(row.line, f"the cells don't share their placeholders: {'  '.join(cells)}")
        for text in cells:
            for part in text.split("."):
                inside = [name for name in placeholders(part) if isinstance(table.lets[name], Index)]
                if inside and part != f"{{{inside[0]}}}":
                    yield Finding(
                        row.line, f"the index {{{inside[0]}}} must be a dot-separated part of its own in {text}"
                    )


def _collisions(table: Table) -> Iterator[Finding]:
    for layout in table.layouts:
        taken: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for template in templates(table, layout.name):
            taken[template.text].append((template.row.line, template.cell.part, template.cell.parts))
        rows = frozenset(taken)
        for const in table.consts:
            if const.layout == layout.name:
                for text, _ in written_out(const.template, table.lets):
                    taken[text].append((const.line, 0, 1))
        for drop in table.drops:
            if drop.layout == layout.name:
                for text, _ in written_out(drop.template, table.lets):
                    if text not in rows:
                        taken[text].append((drop.line, 0, 1))
        for text, uses in taken.items():
            yield from _overlaps(layout.name, text, uses)
        for one, other in combinations(taken, 2):
            if _unify(one, other):
                line = taken[other][0][0]
                yield Finding(line, f"{layout.name}: {other} and {one} can be the same key (line {taken[one][0][0]})")


def _overlaps(layout: str, text: str, uses: list[tuple[int, int, int]]) -> Iterator[Finding]:
    """Several rows may lie in one tensor only as its equal parts, each exactly once."""
    line = uses[-1][0]
    divisions = {parts for _, _, parts in uses}
    if len(divisions) > 1:
        yield Finding(line, f"{layout}: {text} is divided in {' and in '.join(map(str, sorted(divisions)))} parts")
        return
    parts = divisions.pop()
    for part, count in Counter(part for _, part, _ in uses).items():
        if count > 1:
            what = text if parts == 1 else f"{text}[{part}/{parts}]"
            yield Finding(
                line, f"{layout}: {what} stands in {count} rows, on lines {', '.join(str(use[0]) for use in uses)}"
            )
    missing = sorted(set(range(parts)) - {part for _, part, _ in uses})
    if missing:
        yield Finding(line, f"{layout}: no row has {', '.join(f'{text}[{part}/{parts}]' for part in missing)}")


def _unify(one: str, other: str) -> bool:
    """Whether two different templates can be filled in to the same key."""
    left, right = one.split("."), other.split(".")
    return len(left) == len(right) and all(
        a == b or (_numeric(a) and _numeric(b) and (a.startswith("{") or b.startswith("{")))
        for a, b in zip(left, right, strict=True)
    )


def _numeric(part: str) -> bool:
    return part.startswith("{") or part.isdigit()


def _shapes(table: Table) -> Iterator[Finding]:
    for layout in table.layouts:
        shapes: dict[str, tuple[int, ...]] = {}
        for slot in expand(table, layout.name, sample_dims(table)).values():
            if slot.cell.parts > 1 and slot.cell.transposed:
                yield Finding(slot.line, f"{layout.name}: {slot.key} can't be both a part and transposed")
            if slot.cell.transposed and len(slot.shape) > 2:
                yield Finding(
                    slot.line, f"{layout.name}: only a matrix can be transposed, not {','.join(slot.symbols)}"
                )
            shape = tensor_shape(slot)
            if shapes.setdefault(slot.key, shape) != shape:
                yield Finding(slot.line, f"{layout.name}: the parts of {slot.key} have different shapes")
        for tie in table.ties:
            if tie.layout == layout.name:
                yield from _tied_shapes(tie.line, tie.keys, shapes, table)
        for equal in table.equals:
            if equal.layout == layout.name and not set(equal.keys) <= set(shapes):
                yield Finding(
                    equal.line, f"{layout.name} has no key {' or '.join(sorted(set(equal.keys) - set(shapes)))}"
                )


def _tied_shapes(
    line: int, keys: tuple[str, ...], shapes: dict[str, tuple[int, ...]], table: Table
) -> Iterator[Finding]:
    """Tied keys have rows of the same rank and width; their first axis may differ only in a resizable dim."""
    known = [shapes[key] for key in keys if key in shapes]
    if len({shape[1:] for shape in known}) > 1:
        yield Finding(line, f"the tied keys have different shapes: {', '.join(keys)}")
    if len(known) < len(keys) - 1:
        yield Finding(line, f"only one of the tied keys may lack a row: {', '.join(keys)}")


def _told(table: Table) -> Iterator[Finding]:
    """What one side has and another lacks stands on a line of its own: `drop` one way, `create` the other."""
    for row in table.rows:
        lacking = [layout.name for layout, cell in zip(table.layouts, row.cells, strict=True) if cell is None]
        for layout, cell in zip(table.layouts, row.cells, strict=True):
            if cell is None or not lacking:
                continue
            for text, _ in written_out(cell.template, table.lets):
                if not any(drop.layout == layout.name and _covers(drop.template, text, table) for drop in table.drops):
                    yield Finding(
                        row.line, f"{', '.join(lacking)} lacks {text}: expected a line `drop {layout.name} {text} …`"
                    )
                creates = any(create.layout == layout.name and create.key == text for create in table.creates)
                if row.option is None and not creates:
                    yield Finding(
                        row.line, f"{', '.join(lacking)} lacks {text}: expected a line `create {layout.name} {text} …`"
                    )
    for create in table.creates:
        keys = {template.text for template in templates(table, create.layout)}
        for key in (create.key, create.source):
            if key not in keys:
                yield Finding(create.line, f"{create.layout} has no row {key}")


def _covers(template: str, text: str, table: Table) -> bool:
    return any(text == written for written, _ in written_out(template, table.lets))


def _round_trips(table: Table) -> Iterator[Finding]:
    """Every ordered pair of layouts, there and back, by brute force over labelled tensors, options on and off."""
    for options, (source, target) in product((True, False), permutations(table.layouts, 2)):
        dims = sample_dims(table, options)
        there, back = expand(table, source.name, dims), expand(table, target.name, dims)
        state = {param: _place(slot) for param, slot in there.items()}
        carried = {_place(back[param]): state[param] for param in there if param in back}
        for param, place in state.items():
            if param in back and carried[_place(back[param])] != place:
                yield Finding(
                    param.line, f"{source.name} → {target.name} → {source.name} isn't the identity on {place[0]}"
                )
            elif param in back and back[param].shape != there[param].shape:
                yield Finding(param.line, f"{there[param].key} changes its shape from {source.name} to {target.name}")


def _place(slot: Slot) -> tuple[str, int, int]:
    return slot.key, slot.cell.part, slot.cell.parts


def _dims(table: Table) -> Iterator[Finding]:
    known = frozenset(sample_dims(table))
    for resize in table.resizes:
        for dim in resize.dims:
            if dim not in known:
                yield Finding(resize.line, f"no row has the dim `{dim}`")
    resizable = {dim for resize in table.resizes for dim in resize.dims}
    for row in table.rows:
        cut = resizable.intersection(row.shape)
        fixed = resizable.intersection(row.shape[1:]) or any(cell and cell.transposed for cell in row.cells)
        if cut and fixed:
            yield Finding(row.line, f"{', '.join(sorted(cut))} can be resized only as the first axis, not transposed")
    for spare in table.spares:
        for dim in spare.dims:
            if not any(dim in resize.dims for resize in table.resizes):
                yield Finding(spare.line, f"`{dim}` has no `resize` line")


def _fields(table: Table) -> Iterator[Finding]:
    known = {**sample_dims(table), **{equal.name: True for equal in table.equals}, "dtype": "float32"}
    ties = frozenset(equal.name for equal in table.equals)
    for field in table.fields:
        try:
            names = names_in(field.value) if field.kind in ("tensors", "tied") else frozenset()
            names |= {name for condition, _ in field.cases for name in names_in(condition)}
            names |= {name for condition, _ in field.requires for name in names_in(condition)} - {"value"}
            parse_value(field.value, known)
        except ValueError as error:
            yield Finding(field.line, str(error))
            continue
        for unknown in sorted(names - frozenset(known)):
            yield Finding(field.line, f"`{unknown}` is no dim, option or `equal` line of this table")
        if field.kind == "tied" and not names <= ties:
            yield Finding(field.line, "a `tied` field reads `equal` lines only")
    for column, layout in enumerate(table.layouts):
        written = [
            (name.document, name.paths[0]) for field in table.fields if (name := field.names[column]) is not None
        ]
        for place, count in Counter(written).items():
            if count > 1:
                yield Finding(layout.line, f"{layout.name}: {count} `field` lines write {':'.join(place).lstrip(':')}")


_CHECKS: tuple[Callable[[Table], Iterator[Finding]], ...] = (
    _placeholders,
    _collisions,
    _shapes,
    _told,
    _round_trips,
    _dims,
    _fields,
)
