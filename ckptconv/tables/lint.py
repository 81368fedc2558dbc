"""The proof that a table is sound, without any checkpoint. See docs/tables.md for what is proved and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, permutations, product

from ckptconv.tables.expand import Dims, Param, Slot, active, expand, name_lists, placeholders, templates, written_out
from ckptconv.tables.expressions import names_in
from ckptconv.tables.fields import COMPUTED, leaves, parse_value
from ckptconv.tables.fit import tensor_shape
from ckptconv.tables.model import Cell, Const, Drop, Index, Name, Rest, Row, Table


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
    names: dict[str, int | bool] = {
        f"{let.name}={let.default}": True for let in table.lets.values() if isinstance(let, Name)
    }
    return sizes | counts | names | {row.option.removeprefix("!"): options for row in table.rows if row.option}


def option_sets(table: Table, *layouts: str) -> Iterator[Dims]:
    """Made-up dims with every option off, and with all of them on; where one of the layouts has at most one head, with
    each head by itself."""
    yield sample_dims(table, False)
    every = sample_dims(table)
    heads = {head for layout in layouts for head in table.heads_of(layout)}
    if not heads:
        yield every
    for head in sorted(heads):
        yield {**every, **{other: other == head for other in heads}}


def _placeholders(table: Table) -> Iterator[Finding]:
    for row in table.rows:
        cells = [cell.template for cell in row.cells if cell]
        shared = [[name for name in placeholders(text) if not isinstance(table.lets[name], Name)] for text in cells]
        if len(set(map(frozenset, shared))) > 1:
            yield Finding(row.line, f"the cells don't share their placeholders: {'  '.join(cells)}")
        for text in cells:
            for part in text.split("."):
                inside = [name for name in placeholders(part) if isinstance(table.lets[name], Index | Name)]
                if inside and part != f"{{{inside[0]}}}":
                    yield Finding(row.line, f"{{{inside[0]}}} must be a dot-separated part of its own in {text}")


def _collisions(table: Table) -> Iterator[Finding]:
    for layout in table.layouts:
        rows = [(template.text, template.row, template.cell) for template in templates(table, layout.name)]
        listed = {text for text, _, _ in rows}
        taken: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for text, uses in _by_text(rows).items():
            for together in _together(uses, table.heads_of(layout.name)):
                yield from _overlaps(layout.name, text, [(row.line, cell.part, cell.parts) for row, cell in together])
            taken[text].append((uses[-1][0].line, 0, 1))
        lines: tuple[Const | Drop, ...] = (*table.consts, *table.drops)
        for line in lines:
            for text, _ in written_out(line.template, table.lets) if line.layout == layout.name else ():
                if isinstance(line, Const) or text not in listed:  # a row may have a `drop` line
                    taken[text].append((line.line, 0, 1))
        for text, places in taken.items():
            yield from _overlaps(layout.name, text, places) if len(places) > 1 else ()
        for one, other in combinations(taken, 2):
            if _unify(one.split("."), other.split("."), table):
                second = taken[other][0][0]
                yield Finding(second, f"{layout.name}: {other} and {one} can be the same key (line {taken[one][0][0]})")


def _by_text(rows: list[tuple[str, Row, Cell]]) -> dict[str, list[tuple[Row, Cell]]]:
    found: dict[str, list[tuple[Row, Cell]]] = defaultdict(list)
    for text, row, cell in rows:
        found[text].append((row, cell))
    return found


def _together(uses: list[tuple[Row, Cell]], heads: tuple[str, ...]) -> Iterator[list[tuple[Row, Cell]]]:
    """The rows of one key that can be there at once, for every choice of options. heads: of which there is at most one,
    and which have a key that another optional row has as well."""
    options = sorted({row.option.removeprefix("!") for row, _ in uses if row.option})
    for values in product((True, False), repeat=len(options)):
        dims = dict(zip(options, values, strict=True))
        together = [(row, cell) for row, cell in uses if active(row.option, dims)]
        taken = any(row.option in heads for row, _ in together)
        together = [(row, cell) for row, cell in together if not taken or row.option in (None, *heads)]
        if together and sum(dims.get(head, False) for head in heads) <= 1:
            yield together


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


def _unify(one: list[str], other: list[str], table: Table) -> bool:
    """Whether two different templates, part by part, can be filled in to the same key."""
    if not one or not other:
        return not one and not other
    rests = [isinstance(table.lets[part[1:-1]], Rest) for part in (one[0], other[0]) if part.startswith("{")]
    return any(rests) or (_alike(one[0], other[0], table) and _unify(one[1:], other[1:], table))


def _alike(one: str, other: str, table: Table) -> bool:
    if one == other:
        return True
    kinds = [table.lets[part[1:-1]] for part in (one, other) if part.startswith("{")]
    if any(isinstance(kind, Name) for kind in kinds):
        return True
    return bool(kinds) and all(part.startswith("{") or part.isdigit() for part in (one, other))


def _shapes(table: Table) -> Iterator[Finding]:
    for layout in table.layouts:
        shapes: dict[str, tuple[int, ...]] = {}
        for dims in option_sets(table, layout.name):
            together: dict[str, tuple[int, ...]] = {}
            for slot in expand(table, layout.name, dims).values():
                if slot.cell.parts > 1 and slot.cell.transposed:
                    yield Finding(slot.line, f"{layout.name}: {slot.key} can't be both a part and transposed")
                if slot.cell.transposed and len(slot.shape) > 2:
                    yield Finding(
                        slot.line, f"{layout.name}: only a matrix can be transposed, not {','.join(slot.symbols)}"
                    )
                shape = tensor_shape(slot)
                if together.setdefault(slot.key, shape) != shape:
                    yield Finding(slot.line, f"{layout.name}: the parts of {slot.key} have different shapes")
            shapes |= together
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
        refused = {line.layout for line in table.lacks if line.option == row.option}
        lacking = [layout.name for layout, cell in zip(table.layouts, row.cells, strict=True) if cell is None]
        lacking = [name for name in lacking if name not in refused]
        for layout, cell in zip(table.layouts, row.cells, strict=True):
            if cell is None or not lacking:
                continue
            for text, _ in written_out(cell.template, table.lets):
                drops = any(drop.layout == layout.name and _covers(drop.template, text, table) for drop in table.drops)
                if not drops and not any(fold.layout == layout.name and fold.key == text for fold in table.folds):
                    yield Finding(
                        row.line, f"{', '.join(lacking)} lacks {text}: expected a line `drop {layout.name} {text} …`"
                    )
                if row.option is None and not _creates(table, layout.name, text):
                    yield Finding(
                        row.line, f"{', '.join(lacking)} lacks {text}: expected a line `create {layout.name} {text} …`"
                    )
    for line in table.has:
        column = table.column(line.layout)
        for row in table.rows:
            cell = row.cells[column] if row.option == line.option else None
            for text, _ in written_out(cell.template, table.lets) if cell else ():
                if not _creates(table, line.layout, text):
                    yield Finding(
                        line.line, f"{line.layout} always has {text}: expected a line `create {line.layout} {text} …`"
                    )


def _creates(table: Table, layout: str, text: str) -> bool:
    return any(create.layout == layout and _covers(create.template, text, table) for create in table.creates)


def _lines(table: Table) -> Iterator[Finding]:
    """Keys and options that the other lines name exist."""
    keys = {layout.name: {template.text for template in templates(table, layout.name)} for layout in table.layouts}
    options = {row.option.removeprefix("!") for row in table.rows if row.option}
    for create in table.creates:
        if not any(isinstance(table.lets[name], Rest) for name in placeholders(create.template)):
            for template in (create.template, create.source):
                texts = {text for text, _ in written_out(template, table.lets)} if template is not None else set()
                if texts and not texts & keys[create.layout]:
                    yield Finding(create.line, f"{create.layout} has no row {template}")
    for tie in table.ties:
        if tie.only is not None and tie.only not in [equal.name for equal in table.equals]:
            yield Finding(tie.line, f"`{tie.only}` is no `equal` line of this table")
    for fold in table.folds:
        for key in (fold.key, fold.into):
            if key not in keys[fold.layout]:
                yield Finding(fold.line, f"{fold.layout} has no row {key}")
    for select in table.selects:
        if not isinstance(table.lets.get(select.placeholder), Name):
            yield Finding(
                select.line, f"`{select.placeholder}` is no name placeholder (`let {select.placeholder} * …`)"
            )
    named = [(line.line, line.option) for line in table.has]
    named += [(line.line, line.option) for line in table.lacks]
    named += [(line.line, option) for line in table.heads for option in line.options]
    for number, option in named:
        if option not in options:
            yield Finding(number, f"no row has the option `{option}`")


def _covers(template: str, text: str, table: Table) -> bool:
    return any(text == written for written, _ in written_out(template, table.lets))


def _round_trips(table: Table) -> Iterator[Finding]:
    """Every ordered pair of layouts, there and back, by brute force over labelled tensors, options on and off."""
    for source, target in permutations(table.layouts, 2):
        for dims in option_sets(table, source.name, target.name):
            there, back = expand(table, source.name, dims), expand(table, target.name, dims)
            yield from _round_trip(source.name, target.name, there, back)


def _round_trip(source: str, target: str, there: Mapping[Param, Slot], back: Mapping[Param, Slot]) -> Iterator[Finding]:
    state = {param: _place(slot) for param, slot in there.items()}
    carried = {_place(back[param]): state[param] for param in there if param in back}
    for param, place in state.items():
        if param in back and carried[_place(back[param])] != place:
            yield Finding(param.line, f"{source} → {target} → {source} isn't the identity on {place[0]}")
        elif param in back and back[param].shape != there[param].shape:
            yield Finding(param.line, f"{there[param].key} changes its shape from {source} to {target}")


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
    known = {
        **sample_dims(table),
        **{equal.name: True for equal in table.equals},
        **dict.fromkeys(COMPUTED, ""),
        **name_lists(table.lets, sample_dims(table)),
    }
    ties = frozenset(equal.name for equal in table.equals)
    above: set[str] = set()
    for field in table.fields:
        try:
            names = names_in(field.value) if field.kind in ("tensors", "tied") else frozenset()
            names |= names_in(field.only) if field.only else frozenset()
            names |= {name for fixed in field.fixed for name in names_in(fixed.condition)}
            names |= {name for condition, _ in field.cases for name in names_in(condition)}
            names |= {name for condition, _ in field.requires for name in names_in(condition)} - above - {"value"}
            above |= set(leaves(field))
            parse_value(field.value, known)
        except ValueError as error:
            yield Finding(field.line, str(error))
            continue
        for unknown in sorted(names - frozenset(known)):
            yield Finding(field.line, f"`{unknown}` is no dim, option or `equal` line of this table")
        if field.kind == "tied" and not names <= ties:
            yield Finding(field.line, "a `tied` field reads `equal` lines only")
    conditions = [(line.line, line.condition) for line in table.known]
    conditions += [(line.line, line.condition) for line in table.strangers if line.condition]
    conditions += [(line.line, line.condition) for line in table.notes]
    for where, condition in conditions:
        for unknown in sorted(names_in(condition) - frozenset(known)):
            yield Finding(where, f"`{unknown}` is no dim or option of this table")
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
    _lines,
    _round_trips,
    _dims,
    _fields,
)
