"""Config fields by table: every field of the target, its value, and where the value comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from ckptconv.tables.expand import name_lists
from ckptconv.tables.expressions import evaluate, names_in
from ckptconv.tables.model import Field, FieldName, Table
from ckptconv.text import printable

Documents = Mapping[str, Any]
"""Nested plain data by document name: `config.json` → {…}; "" is the checkpoint's own top level."""

Names = Mapping[str, Any]
"""What expressions see: dims, options, the names of `equal` lines, and the `COMPUTED` ones."""

COMPUTED = ("dtype", "id2label", "label2id", "id2lang", "lang2id", "languages")
"""torch's name of the main dtype; the labels of a classification head by index, and the indexes by label; the same for
the languages, and their list."""


@dataclass(frozen=True)
class FieldValue:
    """One field of the target. origin: `tensors`, `source config`, `file names`, `default`, `constant`, `--set`."""

    document: str
    path: str
    value: Any
    origin: str


@dataclass(frozen=True)
class Contradiction:
    """What a config says and can't be. kind: of the field, or `value` for one that is no value of the field at all."""

    kind: str
    message: str


@dataclass(frozen=True)
class Resolved:
    """The target's fields; what contradicts the tensors; ties that the config denies; what is worth telling."""

    values: tuple[FieldValue, ...]
    contradictions: tuple[Contradiction, ...]
    denied: tuple[str, ...]
    notes: tuple[str, ...]

    def document(self, name: str) -> dict[str, Any]:
        """The fields of one document, nested as their dotted paths say."""
        tree: dict[str, Any] = {}
        for field in self.values:
            if field.document == name:
                *parents, leaf = field.path.split(".")
                node = tree
                for parent in parents:
                    node = node.setdefault(parent, {})
                node[leaf] = field.value
        return tree


@dataclass(frozen=True)
class Sides:
    """Both ends of a conversion, as fields see them.

    before, after: what expressions see of the source and of the target. documents: the source's config.
    overrides: --set. guesses: what file names say, for fields that the config leaves open.
    """

    table: Table
    source: str
    target: str
    before: Names
    after: Names
    documents: Documents
    overrides: Mapping[str, Any]
    guesses: Mapping[str, Any]


_UNSAID = object()


def resolve(sides: Sides) -> Resolved:
    """Every field that the target layout has. Raises KeyError for an override that no field is called."""
    unused = set(sides.overrides) - {name for field in sides.table.fields for name in _aliases(field)}
    if unused:
        raise KeyError(sorted(unused)[0])
    lets = sides.table.lets
    sides = replace(
        sides,
        before={**name_lists(lets, sides.before), **sides.before},
        after={**name_lists(lets, sides.after), **sides.after},
    )
    values: list[FieldValue] = []
    wrong: list[Contradiction] = []
    denied: list[str] = []
    notes: list[str] = []
    assumed: list[str] = []
    above: dict[str, Any] = {}
    for field in sides.table.fields:
        said, where = _said(sides, field)
        if field.kind in ("tensors", "tied", "must"):
            wrong += [Contradiction(field.kind, said_so) for said_so in _contradiction(sides, field, said, where)]
            denied += _untied_claim(sides, field, said, where)
        others = (*_unexpressed(sides, field, said, where), *_unfixed(sides, field, said, where))
        wrong += [Contradiction(field.kind, message) for message in others]
        name = field.names[sides.table.column(sides.target)]
        if name is not None and (field.only is None or evaluate(field.only, sides.after)):
            value, origin = _value(sides, field, said, where)
            wrong += [Contradiction("value", message) for message in _invalid(sides, field, value, where, above)]
            above |= {name: value for name in leaves(field) if type(value) in (int, bool)}
            values.append(FieldValue(name.document, name.paths[0], _spelled(sides, field, name, value), origin))
            if field.kind == "assume" and origin == "default":
                assumed.append(f"{name.paths[0].rpartition('.')[2]} = {values[-1].value}")
    if assumed:
        notes.append(f"assumed, since no config says: {', '.join(assumed)}; --set FIELD=VALUE says otherwise")
    return Resolved(tuple(values), tuple(dict.fromkeys(wrong)), tuple(dict.fromkeys(denied)), tuple(notes))


def stated(table: Table, layout: str, documents: Documents, leaf: str) -> Any:
    """What the config of a checkpoint of `layout` says of the field whose path ends in `leaf`; None if nothing."""
    for field in table.fields:
        name = field.names[table.column(layout)]
        for path in name.paths if name else ():
            value = _look_up(documents.get(name.document), path) if path.rpartition(".")[2] == leaf and name else None
            if value is not None and value is not _UNSAID:
                return value
    return None


def said(table: Table, layout: str, documents: Documents) -> dict[Field, tuple[Any, str]]:
    """What the config of a checkpoint of `layout` says: field → (value in the first layout's spelling, where it says
    so). Fields of which it says nothing are left out."""
    sides = Sides(table, layout, layout, {}, {}, documents, {}, {})
    every = {field: _said(sides, field) for field in table.fields}
    return {field: found for field, found in every.items() if found[0] is not _UNSAID}


def agreement(table: Table, layout: str, names: Names, documents: Documents) -> int:
    """How many of the `const` fields of the layout have, in its config, the value that they would have at these dims
    and options."""
    sides = Sides(table, layout, layout, names, names, documents, {}, {})
    stated = [(field, name) for field in table.fields if (name := field.names[table.column(layout)])]
    return sum(
        _look_up(documents.get(name.document), name.paths[0]) == _value(sides, field, _UNSAID, "")[0]
        for field, name in stated
        if field.kind == "const"
    )


def parse_value(text: str, names: Names) -> Any:
    """A table's VALUE: JSON, or an expression over dims, or else a bare word that is a string."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return evaluate(text, names) if names_in(text) <= frozenset(names) else text
    except ValueError:
        if text.replace("_", "").replace(".", "").isalnum():
            return text
        raise


def leaves(field: Field) -> tuple[str, ...]:
    """What the `require` lines of later fields call it: the last part of its path in any layout."""
    return tuple(dict.fromkeys(str(name).rpartition(".")[2] for name in field.names if name and not name.negated))


def _aliases(field: Field) -> Iterator[str]:
    """What --set may call a field: its whole path in any layout, or the last part of it."""
    for name in field.names:
        for path in name.paths if name else ():
            yield path
            yield path.rpartition(".")[2]


def _said(sides: Sides, field: Field) -> tuple[Any, str]:
    """What --set or the source's config says of the field, in the table's own sense, and where it says so."""
    for alias in _aliases(field):
        if alias in sides.overrides:
            negated = any(name.negated for name in field.names if name and alias.endswith(str(name).rpartition(".")[2]))
            value = sides.overrides[alias]
            return (not value if negated else value), f"--set {alias}"
    name = field.names[sides.table.column(sides.source)]
    if name is None or field.kind == "const":
        return _UNSAID, ""
    for path in name.paths:
        value = _look_up(sides.documents.get(name.document), path)
        if value is not _UNSAID and value is not None:
            where = f"{name.document}: {path}" if name.document else path
            return _canonical(sides, field, name, value), where
    return _UNSAID, ""


def _look_up(node: Any, path: str) -> Any:
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return _UNSAID
        node = node[part]
    return node


def _canonical(sides: Sides, field: Field, name: FieldName, value: Any) -> Any:
    """A source's value in the spelling of the first layout, and with its positive sense."""
    column = sides.table.column(sides.source)
    for spelling in field.synonyms:
        if value == _literal(spelling[column]):
            return _literal(spelling[0])
    return not value if name.negated else value


def _spelled(sides: Sides, field: Field, name: FieldName, value: Any) -> Any:
    for spelling in field.synonyms:
        if value == _literal(spelling[0]):
            return _literal(spelling[sides.table.column(sides.target)])
    return not value if name.negated else value


def _literal(cell: str) -> Any:
    """A `value` line's cell: JSON, or else a word."""
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def _unexpressed(sides: Sides, field: Field, said: Any, where: str) -> Iterator[str]:
    """A value that the model's numbers depend on, and that the field's `value` lines don't list."""
    known = [_literal(spelling[0]) for spelling in field.synonyms]
    if field.kind == "assume" and known and said is not _UNSAID and said not in known:
        column = sides.table.column(sides.source)
        shown = ", ".join(dict.fromkeys(spelling[column] or spelling[0] for spelling in field.synonyms))
        yield f"{where} = {printable(repr(said))}, which {sides.target} has no word for; expected one of {shown}"


def _unfixed(sides: Sides, field: Field, said: Any, where: str) -> Iterator[str]:
    """A value that the models of one side can't have, where the condition holds on both."""
    for line in field.fixed:
        other = said is not _UNSAID and said != _literal(line.value) and line.layout in (sides.source, sides.target)
        if other and all(evaluate(line.condition, names) for names in (sides.before, sides.after)):
            yield f"{where} = {printable(repr(said))}, expected {line.value}: {line.reason}"


def _value(sides: Sides, field: Field, said: Any, where: str) -> tuple[Any, str]:
    case = next((value for condition, value in field.cases if evaluate(condition, sides.after)), None)
    value = parse_value(field.value if case is None else case, sides.after)
    if isinstance(value, list) and isinstance(said, list):  # names, whose order the config alone knows
        return [name for name in said if name in value], "tensors"
    if field.kind in ("tensors", "tied"):
        return value, "tensors"
    if said is not _UNSAID:
        return _as_type_of(value, said), "--set" if where.startswith("--set") else "source config"
    guess = next((alias for alias in _aliases(field) if alias in sides.guesses), None)
    if guess is not None:
        return sides.guesses[guess], "file names"
    return value, "constant" if field.kind in ("const", "must") else "default"


def _as_type_of(default: Any, said: Any) -> Any:
    """omegaconf files hold False where 0.0 is meant."""
    if isinstance(default, bool) and isinstance(said, (bool, int)):
        return bool(said)
    if isinstance(default, float) and isinstance(said, (bool, int, float)):
        return float(said)
    return said


def _invalid(sides: Sides, field: Field, value: Any, where: str, above: Names) -> Iterator[str]:
    """What is wrong with a value that somebody gave: not of the default's type, not finite, or against a `require`.
    above: the fields before it that are numbers or booleans, by name."""
    if not where or field.kind == "const":
        return
    default = parse_value(field.value, sides.after)
    if default is not None and type(value) is not type(default):
        yield f"{where} = {printable(repr(value))}; expected a value such as {default!r}"
    elif isinstance(value, float) and not isfinite(value):
        yield f"{where} = {value}; expected a finite number"
    for condition, reason in field.requires if type(value) in (int, bool) else ():
        try:
            holds = evaluate(condition, {**above, **sides.after, "value": value})
        except (ValueError, KeyError):  # no arithmetic with these; or a field above that has no such value
            holds = False
        if not holds:
            yield f"{where} = {value}; expected that {reason}"


def _contradiction(sides: Sides, field: Field, said: Any, where: str) -> Iterator[str]:
    if said is _UNSAID:
        return
    names = sides.after if where.startswith("--set") else sides.before
    case = next((value for condition, value in field.cases if evaluate(condition, names)), None)
    seen = parse_value(field.value if case is None else case, names)
    agrees = bool(said) == seen if isinstance(seen, bool) else said == seen or _same_names(said, seen)
    if agrees or (field.kind == "tied" and not said):
        return
    what = f"expected {seen}" if field.kind == "must" else f"but the tensors say {field.value} = {seen}"
    yield f"{where} = {printable(repr(said))}, {what} ({sides.table.where(field.line)})"


def _same_names(said: Any, seen: Any) -> bool:
    """Whether two lists have the same names: a safetensors file has its keys, and so the names, by the alphabet."""
    return isinstance(said, list) and isinstance(seen, list) and sorted(map(str, said)) == sorted(map(str, seen))


def _untied_claim(sides: Sides, field: Field, said: Any, where: str) -> Iterator[str]:
    if field.kind == "tied" and said is not _UNSAID and not said and evaluate(field.value, sides.before):
        yield f"{where} = {said}, but the tensors have equal bytes: kept as one (tied)"
