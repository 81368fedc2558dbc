"""Table text → Table. Every defect of the text is a BadTable that names the file and the line."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

from ckptconv.errors import BadTable
from ckptconv.smallfiles import read_regular
from ckptconv.tables.differences import DIFFERENCES, Line
from ckptconv.tables.draft import NONE, Bad, Draft, cells, expect, layout_named
from ckptconv.tables.expand import placeholders
from ckptconv.tables.model import (
    Cell,
    Choice,
    Field,
    FieldName,
    Fixed,
    Index,
    Layout,
    Name,
    Rest,
    Row,
    Table,
    short_name,
)
from ckptconv.text import printable

_COMMENT = re.compile(r"(?:^|\s)#.*$")
_CELL = re.compile(r"(?P<template>[^\s\[\]^]+)(?:\[(?P<part>\d+)/(?P<parts>\d+)\])?(?P<transposed>\^T)?")
_SHAPE = re.compile(r"(?!\d{10})[a-z0-9_]+(?:,(?!\d{10})[a-z0-9_]+)*(?:\?!?[a-z_]+)?")
_MAX_BYTES, _MAX_KEYS, _MAX_LAYOUTS = 1_000_000, 100_000, 100


def parse(text: str, path: Path) -> Table:
    """Read a table (the language: docs/tables.md). Raises BadTable at the first line that breaks its grammar."""
    draft = Draft()
    for number, line in enumerate(text.splitlines(), start=1):
        words = _COMMENT.sub("", line).split()
        if not words:
            continue
        try:
            _LINES.get(words[0], _row)(draft, words, number)
        except Bad as bad:
            raise BadTable(f"{printable(short_name(path))}:{number}: {bad}.", path) from None
    if not draft.layouts or not draft.rows:
        raise BadTable(f"{path.name} is no mapping table: it has no `layout` lines or no rows.", path)
    table = draft.table(path)
    _check_extent(table)
    return table


def _check_extent(table: Table) -> None:
    """Raises BadTable where alternatives multiply beyond what any family has."""
    texts = [cell.template for row in table.rows for cell in row.cells if cell]
    texts += [const.template for const in table.consts] + [drop.template for drop in table.drops]
    total = 0
    for text in texts:
        lets = [table.lets.get(name) for name in placeholders(text)]
        total += prod(len(let.values) for let in lets if isinstance(let, Choice))
    if total > _MAX_KEYS:
        raise BadTable(f"{printable(table.path.name)} writes out more than {_MAX_KEYS:,} keys: too many.", table.path)


def read_table(path: Path) -> Table:
    """Read the table file at `path`. Raises BadTable when it can't be read or breaks the grammar."""
    try:
        text = read_regular(path, _MAX_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = printable(str(getattr(error, "strerror", None) or error))
        raise BadTable(f"The table {printable(str(path))} can't be read: {reason}.", path) from None
    return parse(text, path)


def _family(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) == 2, "expected `family NAME`")
    draft.family = words[1]


def _layout(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) == 4, "expected `layout NAME safetensors|torch|paddle ENTRY`, ENTRY being - for none")
    _, name, container, entry = words
    expect(container in ("safetensors", "torch", "paddle"), f"unknown container `{printable(container)}`")
    expect(name not in [layout.name for layout in draft.layouts], f"the layout `{name}` stands twice")
    expect(len(draft.layouts) < _MAX_LAYOUTS, f"more than {_MAX_LAYOUTS} layouts")
    expect(
        not draft.rows and not draft.fields, "`layout` lines come before all rows and fields, which have their columns"
    )
    draft.layouts.append(Layout(name, container, None if entry == NONE else entry, line))
    draft.key_prefixes.append("")
    draft.field_prefixes.append("")


def _let(draft: Draft, words: list[str], line: int) -> None:
    grammar = "expected `let NAME a|b|c`, `let NAME 0..DIM`, `let NAME * DEFAULT` or `let NAME **`"
    expect(len(words) in (3, 4), grammar)
    name, values = words[1], words[2]
    expect(len(words) == (4 if values == "*" else 3), grammar)
    expect(name not in draft.lets, f"the placeholder `{name}` stands twice")
    if values == "*":
        draft.lets[name] = Name(name, words[3])
    elif values == "**":
        draft.lets[name] = Rest(name)
    elif values.startswith("0.."):
        draft.lets[name] = Index(name, values[3:])
    else:
        choices = tuple(values.split("|"))
        expect(len(set(choices)) == len(choices) and all(choices), "the alternatives must differ and not be empty")
        draft.lets[name] = Choice(name, choices)


def _header(draft: Draft, words: list[str], line: int) -> None:
    names = [layout.name for layout in draft.layouts]
    expect(words[1:] == names, f"the header's columns must be the layouts in order: {', '.join(names)}")


def _prefix(draft: Draft, words: list[str], line: int) -> None:
    if len(words) > 1 and words[1] == "value":
        draft.field_prefixes = [cell or "" for cell in cells(draft, words[2:], "prefixes")]
    else:
        draft.key_prefixes = [cell or "" for cell in cells(draft, words[1:], "prefixes")]


def _row(draft: Draft, words: list[str], line: int) -> None:
    expect(draft.layouts, "a table begins with `layout` lines; expected `layout NAME safetensors|torch|paddle ENTRY`")
    shape, _, option = words[0].partition("?")
    if not _SHAPE.fullmatch(words[0]):
        raise Bad(f"`{printable(words[0])}` is neither a directive nor a shape such as `ffn,d`")
    keys = cells(draft, words[1:], "cells")
    expect(any(keys), "a row needs a key in at least one layout")
    parsed = [
        None if key is None else _cell(prefix + key) for prefix, key in zip(draft.key_prefixes, keys, strict=True)
    ]
    for cell in parsed:
        for name in placeholders(cell.template) if cell else ():
            if name not in draft.lets:
                raise Bad(f"the placeholder {{{printable(name)}}} has no `let`")
            expect(not isinstance(draft.lets[name], Rest), f"a row can't have {{{name}}}, the rest of any key")
    draft.rows.append(Row(line, tuple(shape.split(",")), option or None, tuple(parsed)))


def _cell(text: str) -> Cell:
    match = _CELL.fullmatch(text)
    if match is None:
        raise Bad(f"`{printable(text)}` is no cell: expected a key, a key[part/parts] or a key^T")
    part, parts = int(match["part"] or 0), int(match["parts"] or 1)
    expect(part < parts, f"part {part} of {parts} doesn't exist; parts count from 0")
    return Cell(match["template"], part, parts, bool(match["transposed"]))


def _field(draft: Draft, words: list[str], line: int) -> None:
    kinds = ("tensors", "tied", "config", "assume", "const", "must")
    expect(len(words) > 3 and words[1] in kinds, f"expected `field {'|'.join(kinds)} VALUE` and a name per layout")
    names = cells(draft, words[3:], "names")
    expect(any(names), "a field needs a name in at least one layout")
    located = [
        None if name is None else _field_name(prefix, name)
        for prefix, name in zip(draft.field_prefixes, names, strict=True)
    ]
    draft.fields.append(Field(line, words[1], words[2], tuple(located)))


def _field_name(prefix: str, name: str) -> FieldName:
    document, colon, prefixes = prefix.rpartition(":")
    if "/" in document or "\\" in document:
        raise Bad(f"`{printable(document)}` is no plain file name")
    paths = tuple(each + name.lstrip("!") for each in prefixes.split("|"))
    return FieldName(document if colon else "", paths, name.startswith("!"))


def _value(draft: Draft, words: list[str], line: int) -> None:
    expect(draft.fields, "a `value` line belongs under a `field`")
    spelling = tuple(cell or "" for cell in cells(draft, words[1:], "values"))
    last = draft.fields[-1]
    draft.fields[-1] = last._replace(synonyms=(*last.synonyms, spelling))


def _case(draft: Draft, words: list[str], line: int) -> None:
    expect(draft.fields and len(words) == 3, "expected `case CONDITION VALUE` under a `field`")
    last = draft.fields[-1]
    draft.fields[-1] = last._replace(cases=(*last.cases, (words[1], words[2])))


def _require(draft: Draft, words: list[str], line: int) -> None:
    expect(draft.fields and len(words) > 2, "expected `require CONDITION REASON` under a `field`")
    last = draft.fields[-1]
    draft.fields[-1] = last._replace(requires=(*last.requires, (words[1], " ".join(words[2:]))))


def _fixed(draft: Draft, words: list[str], line: int) -> None:
    expect(draft.fields and len(words) > 4, "expected `fixed LAYOUT VALUE CONDITION REASON` under a `field`")
    last, layout = draft.fields[-1], layout_named(draft, words[1])
    fixed = Fixed(layout, words[2], words[3], " ".join(words[4:]))
    draft.fields[-1] = last._replace(fixed=(*last.fixed, fixed))


def _only(draft: Draft, words: list[str], line: int) -> None:
    expect(draft.fields and len(words) == 2, "expected `only CONDITION` under a `field`")
    draft.fields[-1] = draft.fields[-1]._replace(only=words[1])


_LINES: dict[str, Line] = {
    "family": _family,
    "layout": _layout,
    "let": _let,
    "shape": _header,
    "prefix": _prefix,
    "field": _field,
    "value": _value,
    "case": _case,
    "require": _require,
    "fixed": _fixed,
    "only": _only,
    **DIFFERENCES,
}
