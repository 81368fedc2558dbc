"""Table text → Table. Every defect of the text is a BadTable that names the file and the line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ckptconv.dtypes import BY_NAME
from ckptconv.errors import BadTable
from ckptconv.tables.model import (
    Cell,
    Choice,
    Const,
    Create,
    Drop,
    Equal,
    Field,
    FieldName,
    Index,
    Layout,
    Let,
    Resize,
    Row,
    Spare,
    Table,
    Tie,
    short_name,
)
from ckptconv.text import printable

_COMMENT = re.compile(r"(?:^|\s)#.*$")
_CELL = re.compile(r"(?P<template>[^\s\[\]^]+)(?:\[(?P<part>\d+)/(?P<parts>\d+)\])?(?P<transposed>\^T)?")
_SHAPE = re.compile(r"[a-z0-9_]+(?:,[a-z0-9_]+)*(?:\?[a-z_]+)?")
_DITTO, _NONE = '"', "-"
_MAX_BYTES = 1_000_000


@dataclass
class _Draft:
    """What has been read so far, and the prefixes in force."""

    layouts: list[Layout] = field(default_factory=list)
    lets: dict[str, Let] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    ties: list[Tie] = field(default_factory=list)
    equals: list[Equal] = field(default_factory=list)
    consts: list[Const] = field(default_factory=list)
    creates: list[Create] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    resizes: list[Resize] = field(default_factory=list)
    spares: list[Spare] = field(default_factory=list)
    fields: list[Field] = field(default_factory=list)
    code: dict[str, tuple[str, ...]] = field(default_factory=dict)
    family: str = ""
    key_prefixes: list[str] = field(default_factory=list)
    field_prefixes: list[str] = field(default_factory=list)


class _Bad(Exception):
    """A defect on the line being read; `parse` adds the place."""


def parse(text: str, path: Path) -> Table:
    """Read a table (the language: docs/tables.md). Raises BadTable at the first line that breaks its grammar."""
    draft = _Draft()
    for number, line in enumerate(text.splitlines(), start=1):
        words = _COMMENT.sub("", line).split()
        if not words:
            continue
        try:
            _DIRECTIVES.get(words[0], _row)(draft, words, number)
        except _Bad as bad:
            raise BadTable(f"{printable(short_name(path))}:{number}: {bad}.", path) from None
    if not draft.layouts or not draft.rows:
        raise BadTable(f"{path.name} is no mapping table: it has no `layout` lines or no rows.", path)
    return Table(
        family=draft.family or path.stem,
        path=path,
        layouts=tuple(draft.layouts),
        lets=draft.lets,
        rows=tuple(draft.rows),
        ties=tuple(draft.ties),
        equals=tuple(draft.equals),
        consts=tuple(draft.consts),
        creates=tuple(draft.creates),
        drops=tuple(draft.drops),
        resizes=tuple(draft.resizes),
        spares=tuple(draft.spares),
        fields=tuple(draft.fields),
        code=draft.code,
    )


def read_table(path: Path) -> Table:
    """Read the table file at `path`. Raises BadTable when it can't be read or breaks the grammar."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadTable(f"The table {printable(str(path))} can't be read: {error}.", path) from None
    if len(data) > _MAX_BYTES:
        raise BadTable(f"{printable(path.name)} is no mapping table: it has more than {_MAX_BYTES} bytes.", path)
    return parse(text, path)


def _expect(condition: object, message: str) -> None:
    if not condition:
        raise _Bad(message)


def _known_layout(draft: _Draft, name: str) -> str:
    names = [layout.name for layout in draft.layouts]
    _expect(name in names, f"unknown layout `{printable(name)}`; expected one of {', '.join(names)}")
    return name


def _layout(draft: _Draft, words: list[str], line: int) -> None:
    _expect(len(words) == 4, "expected `layout NAME safetensors|torch ENTRY`, ENTRY being - for none")
    _, name, container, entry = words
    _expect(container in ("safetensors", "torch"), f"unknown container `{printable(container)}`")
    _expect(name not in [layout.name for layout in draft.layouts], f"the layout `{name}` stands twice")
    draft.layouts.append(Layout(name, container, None if entry == _NONE else entry, line))
    draft.key_prefixes.append("")
    draft.field_prefixes.append("")


def _let(draft: _Draft, words: list[str], line: int) -> None:
    _expect(len(words) == 3, "expected `let NAME a|b|c` or `let NAME 0..DIM`")
    _, name, values = words
    _expect(name not in draft.lets, f"the placeholder `{name}` stands twice")
    if values.startswith("0.."):
        draft.lets[name] = Index(name, values[3:])
    else:
        choices = tuple(values.split("|"))
        _expect(len(set(choices)) == len(choices) and all(choices), "the alternatives must differ and not be empty")
        draft.lets[name] = Choice(name, choices)


def _cells(draft: _Draft, words: list[str], what: str) -> list[str | None]:
    count = len(draft.layouts)
    _expect(len(words) == count, f"got {len(words)} {what}, expected {count}, one per layout (- for none)")
    cells: list[str | None] = []
    for number, word in enumerate(words):
        _expect(word != _DITTO or number, "the first column can't be `\"`, the same as the one to its left")
        cells.append(cells[-1] if word == _DITTO else None if word == _NONE else word)
    return cells


def _header(draft: _Draft, words: list[str], line: int) -> None:
    names = [layout.name for layout in draft.layouts]
    _expect(words[1:] == names, f"the header's columns must be the layouts in order: {', '.join(names)}")


def _prefix(draft: _Draft, words: list[str], line: int) -> None:
    if len(words) > 1 and words[1] == "value":
        draft.field_prefixes = [cell or "" for cell in _cells(draft, words[2:], "prefixes")]
    else:
        draft.key_prefixes = [cell or "" for cell in _cells(draft, words[1:], "prefixes")]


def _row(draft: _Draft, words: list[str], line: int) -> None:
    _expect(draft.layouts, "a table begins with `layout` lines; expected `layout NAME safetensors|torch ENTRY`")
    shape, _, option = words[0].partition("?")
    _expect(_SHAPE.fullmatch(words[0]), f"`{printable(words[0])}` is neither a directive nor a shape such as `ffn,d`")
    cells = _cells(draft, words[1:], "cells")
    _expect(any(cells), "a row needs a key in at least one layout")
    parsed = [
        None if cell is None else _cell(prefix + cell) for prefix, cell in zip(draft.key_prefixes, cells, strict=True)
    ]
    for cell in parsed:
        for name in re.findall(r"{([^}]*)}", cell.template) if cell else ():
            _expect(name in draft.lets, f"the placeholder {{{printable(name)}}} has no `let`")
    draft.rows.append(Row(line, tuple(shape.split(",")), option or None, tuple(parsed)))


def _cell(text: str) -> Cell:
    match = _CELL.fullmatch(text)
    if match is None:
        raise _Bad(f"`{printable(text)}` is no cell: expected a key, a key[part/parts] or a key^T")
    part, parts = int(match["part"] or 0), int(match["parts"] or 1)
    _expect(part < parts, f"part {part} of {parts} doesn't exist; parts count from 0")
    return Cell(match["template"], part, parts, bool(match["transposed"]))


def _tie(draft: _Draft, words: list[str], line: int) -> None:
    _expect(len(words) >= 4, "expected `tie LAYOUT KEY KEY…`")
    draft.ties.append(Tie(line, _known_layout(draft, words[1]), tuple(words[2:])))


def _equal(draft: _Draft, words: list[str], line: int) -> None:
    _expect(len(words) == 5, "expected `equal NAME LAYOUT KEY KEY`")
    draft.equals.append(Equal(line, words[1], _known_layout(draft, words[2]), (words[3], words[4])))


def _const(draft: _Draft, words: list[str], line: int) -> None:
    _expect(len(words) == 6, "expected `const LAYOUT KEY DTYPE SHAPE VALUE`, for instance `F32 1 3`")
    _, layout, key, dtype, shape, value = words
    _expect(dtype in BY_NAME, f"unknown dtype `{printable(dtype)}`; expected one of {', '.join(BY_NAME)}")
    try:
        sizes = tuple(int(size) for size in shape.split(","))
        number = float(value)
    except ValueError:
        raise _Bad("SHAPE must be sizes such as `1` or `1,3`, and VALUE a number") from None
    draft.consts.append(Const(line, _known_layout(draft, layout), key, dtype, sizes, number))


def _create(draft: _Draft, words: list[str], line: int) -> None:
    _expect(len(words) == 5 and words[3] == "tie", "expected `create LAYOUT KEY tie OTHER_KEY`")
    draft.creates.append(Create(line, _known_layout(draft, words[1]), words[2], words[4]))


def _drop(draft: _Draft, words: list[str], line: int) -> None:
    _expect(len(words) >= 5, "expected `drop LAYOUT KEY always|zeros REASON`")
    _expect(words[3] in ("always", "zeros"), f"unknown condition `{printable(words[3])}`; expected always or zeros")
    draft.drops.append(Drop(line, _known_layout(draft, words[1]), words[2], words[3], " ".join(words[4:])))


def _resize(draft: _Draft, words: list[str], line: int) -> None:
    _expect(len(words) >= 3, "expected `resize OPTION[+N] DIM…`")
    draft.resizes.append(Resize(line, words[1], tuple(words[2:])))


def _spare(draft: _Draft, words: list[str], line: int) -> None:
    _expect(len(words) >= 3, "expected `spare LAYOUT DIM…`")
    draft.spares.append(Spare(line, _known_layout(draft, words[1]), tuple(words[2:])))


def _field(draft: _Draft, words: list[str], line: int) -> None:
    kinds = ("tensors", "tied", "config", "assume", "const")
    _expect(len(words) > 3 and words[1] in kinds, f"expected `field {'|'.join(kinds)} VALUE` and a name per layout")
    names = _cells(draft, words[3:], "names")
    _expect(any(names), "a field needs a name in at least one layout")
    located = [
        None if name is None else _field_name(prefix, name)
        for prefix, name in zip(draft.field_prefixes, names, strict=True)
    ]
    draft.fields.append(Field(line, words[1], words[2], tuple(located)))


def _field_name(prefix: str, name: str) -> FieldName:
    document, colon, prefixes = prefix.rpartition(":")
    _expect(not set(document) & set("/\\"), f"`{printable(document)}` is no plain file name")
    paths = tuple(each + name.lstrip("!") for each in prefixes.split("|"))
    return FieldName(document if colon else "", paths, name.startswith("!"))


def _value(draft: _Draft, words: list[str], line: int) -> None:
    _expect(draft.fields, "a `value` line belongs under a `field`")
    spelling = tuple(cell or "" for cell in _cells(draft, words[1:], "values"))
    last = draft.fields[-1]
    draft.fields[-1] = replace(last, synonyms=(*last.synonyms, spelling))


def _case(draft: _Draft, words: list[str], line: int) -> None:
    _expect(draft.fields and len(words) == 3, "expected `case CONDITION VALUE` under a `field`")
    last = draft.fields[-1]
    draft.fields[-1] = replace(last, cases=(*last.cases, (words[1], words[2])))


def _require(draft: _Draft, words: list[str], line: int) -> None:
    _expect(draft.fields and len(words) > 2, "expected `require CONDITION REASON` under a `field`")
    last = draft.fields[-1]
    draft.fields[-1] = replace(last, requires=(*last.requires, (words[1], " ".join(words[2:]))))


def _family(draft: _Draft, words: list[str], line: int) -> None:
    _expect(len(words) == 2, "expected `family NAME`")
    draft.family = words[1]


def _code(draft: _Draft, words: list[str], line: int) -> None:
    _expect(len(words) >= 3, "expected `code LAYOUT FILE…`")
    draft.code[_known_layout(draft, words[1])] = tuple(words[2:])


_DIRECTIVES: dict[str, Callable[[_Draft, list[str], int], None]] = {
    "layout": _layout,
    "let": _let,
    "shape": _header,
    "prefix": _prefix,
    "tie": _tie,
    "equal": _equal,
    "const": _const,
    "create": _create,
    "drop": _drop,
    "resize": _resize,
    "spare": _spare,
    "field": _field,
    "value": _value,
    "case": _case,
    "require": _require,
    "family": _family,
    "code": _code,
}
