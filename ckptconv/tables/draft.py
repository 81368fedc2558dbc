"""A table while it is being read: what has been said so far, and what every kind of line checks."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from ckptconv.tables.model import (
    Base,
    Const,
    Create,
    Default,
    Drop,
    Equal,
    Field,
    Fold,
    Has,
    Heads,
    Known,
    Lacks,
    Layout,
    Let,
    Note,
    Resize,
    Row,
    Select,
    Spare,
    Spelling,
    Stranger,
    Table,
    Tie,
)
from ckptconv.text import printable
from ckptconv.words import Words

DITTO, NONE = '"', "-"


class Bad(Exception):
    """A defect on the line being read; `parse` adds the place."""


class Draft:
    """What has been read so far, and the prefixes in force."""

    def __init__(self) -> None:
        self.family: str = ""
        self.layouts: list[Layout] = []
        self.lets: dict[str, Let] = {}
        self.rows: list[Row] = []
        self.ties: list[Tie] = []
        self.equals: list[Equal] = []
        self.consts: list[Const] = []
        self.creates: list[Create] = []
        self.drops: list[Drop] = []
        self.has: list[Has] = []
        self.lacks: list[Lacks] = []
        self.heads: list[Heads] = []
        self.selects: list[Select] = []
        self.folds: list[Fold] = []
        self.defaults: list[Default] = []
        self.spellings: list[Spelling] = []
        self.bases: list[Base] = []
        self.strangers: list[Stranger] = []
        self.known: list[Known] = []
        self.resizes: list[Resize] = []
        self.spares: list[Spare] = []
        self.fields: list[Field] = []
        self.notes: list[Note] = []
        self.code: dict[str, tuple[str, ...]] = {}
        self.about: dict[str, str] = {}
        self.words: Words = Words()
        self.key_prefixes: list[str] = []
        self.field_prefixes: list[str] = []

    def table(self, path: Path) -> Table:
        """The finished table."""
        return Table(
            family=self.family or path.stem,
            path=path,
            layouts=tuple(self.layouts),
            lets=self.lets,
            rows=tuple(self.rows),
            ties=tuple(self.ties),
            equals=tuple(self.equals),
            consts=tuple(self.consts),
            creates=tuple(self.creates),
            drops=tuple(self.drops),
            has=tuple(self.has),
            lacks=tuple(self.lacks),
            heads=tuple(self.heads),
            selects=tuple(self.selects),
            folds=tuple(self.folds),
            defaults=tuple(self.defaults),
            spellings=tuple(self.spellings),
            bases=tuple(self.bases),
            strangers=tuple(self.strangers),
            known=tuple(self.known),
            resizes=tuple(self.resizes),
            spares=tuple(self.spares),
            fields=tuple(self.fields),
            notes=tuple(self.notes),
            code=self.code,
            about=self.about,
            words=self.words,
        )


def expect(condition: object, message: str) -> None:
    """Raises Bad with the message where the condition doesn't hold."""
    if not condition:
        raise Bad(message)


def layouts_named(draft: Draft, patterns: str) -> list[str]:
    """`hf`, `fairseq,fairseq-0.10` or `fairseq*` → the layouts' names. Raises Bad for one that fits no layout."""
    known = [layout.name for layout in draft.layouts]
    if patterns in known:
        return [patterns]
    for pattern in patterns.split(","):
        if not fnmatch.filter(known, pattern):
            raise Bad(f"unknown layout `{printable(pattern)}`; expected one of {', '.join(known)}")
    return [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns.split(","))]


def layout_named(draft: Draft, name: str) -> str:
    """The name of one layout. Raises Bad for one that the table lacks."""
    names = layouts_named(draft, name)
    expect(len(names) == 1, f"expected one layout, got {printable(name)}")
    return names[0]


def cells(draft: Draft, words: list[str], what: str) -> list[str | None]:
    """One word per layout: `"` repeats the one to the left, `-` is None. Raises Bad for more or fewer."""
    count = len(draft.layouts)
    expect(len(words) == count, f"got {len(words)} {what}, expected {count}, one per layout (- for none)")
    found: list[str | None] = []
    for number, word in enumerate(words):
        expect(word != DITTO or number, "the first column can't be `\"`, the same as the one to its left")
        found.append(found[-1] if word == DITTO else None if word == NONE else word)
    return found
