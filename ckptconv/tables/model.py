"""What a table says, as immutable records. Every one keeps its line, so that messages can name it.

Named tuples: every command makes these classes when it starts, and dataclasses take six times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ckptconv.words import Words


class Layout(NamedTuple):
    """One column: a naming scheme. `container` and `entry` say what a target of this layout is written as."""

    name: str
    container: str
    entry: str | None
    line: int


class Choice(NamedTuple):
    """`let param weight|bias`: a placeholder that is written out."""

    name: str
    values: tuple[str, ...]


class Index(NamedTuple):
    """`let i 0..encoder_layers`: a placeholder that counts from 0; how far is the dim `dim`."""

    name: str
    dim: str


class Name(NamedTuple):
    """`let head * NAME`: one part of a key, whatever it says. default: what it is called coming from a layout whose
    keys don't have it."""

    name: str
    default: str


class Rest(NamedTuple):
    """`let rest **`: all the parts of a key that are left; for `drop` and `create` lines."""

    name: str


Let = Choice | Index | Name | Rest


class Cell(NamedTuple):
    """A key's template in one layout; `[1/3]`: the second of three equal parts along axis 0; `^T`: transposed."""

    template: str
    part: int = 0
    parts: int = 1
    transposed: bool = False


class Row(NamedTuple):
    """One parameter (or one per value of its placeholders) in all layouts; None where a layout lacks it.

    option: the name that all rows which are there or not together share; `!name`: there where those aren't.
    """

    line: int
    shape: tuple[str, ...]
    option: str | None
    cells: tuple[Cell | None, ...]


class Tie(NamedTuple):
    """Keys of one layout that may be one tensor, in the order in which one stands in for the next.

    only: the `equal` line without which the layout's files hold each key for itself, whatever the bytes.
    """

    line: int
    layout: str
    keys: tuple[str, ...]
    only: str | None = None


class Equal(NamedTuple):
    """`equal NAME LAYOUT A B`: NAME is true when the tensors A and B have equal bytes."""

    line: int
    name: str
    layout: str
    keys: tuple[str, str]


class Const(NamedTuple):
    """A key that one layout has and that always holds the same number. without: what a file that lacks it suffers."""

    line: int
    layout: str
    template: str
    dtype: str
    shape: tuple[int, ...]
    value: float
    without: str


class Create(NamedTuple):
    """How a layout gets a key that the source lacks: tied to another of its keys, or filled with a number."""

    line: int
    layout: str
    template: str
    source: str | None
    value: float


class Has(NamedTuple):
    """`has LAYOUT OPTION`: the layout's files always have the option's rows; `create` lines make them up."""

    line: int
    layout: str
    option: str


class Lacks(NamedTuple):
    """`lacks LAYOUT OPTION REASON`: the layout has no place for the option's rows; files with them are refused."""

    line: int
    layout: str
    option: str
    reason: str


class Heads(NamedTuple):
    """`heads LAYOUT OPTION…`: a file of this layout has the rows of at most one of these options. Where such a row and
    another optional one have the same key, the head has it."""

    line: int
    layout: str
    options: tuple[str, ...]


class Select(NamedTuple):
    """`select OPTION PLACEHOLDER`: the option `--OPTION` chooses some of what the name placeholder stands for."""

    line: int
    option: str
    placeholder: str


class Fold(NamedTuple):
    """`fold LAYOUT KEY INTO`: for targets that lack KEY, its first row is added to every row of INTO."""

    line: int
    layout: str
    key: str
    into: str


class Default(NamedTuple):
    """`default DIM N`: the size of a dim that no tensor of the source shows."""

    line: int
    dim: str
    size: int


class Spelling(NamedTuple):
    """`spelling LAYOUT OLD NEW`: files of this layout may have OLD as a key's last part; it is read as NEW."""

    line: int
    layout: str
    old: str
    new: str


class Base(NamedTuple):
    """`base LAYOUT PREFIX`: files of the bare model lack this prefix; its keys are read with it."""

    line: int
    layout: str
    prefix: str


class Stranger(NamedTuple):
    """Another model that this table would take for its own: recognised by a key or by a condition over the dims."""

    line: int
    key: str | None
    condition: str | None
    name: str


class Known(NamedTuple):
    """`size NAME CONDITION`: what a model of these dims is called."""

    line: int
    name: str
    condition: str


class Drop(NamedTuple):
    """A key of `layout` that a target without it loses: `always`, or only if it is all `zeros`."""

    line: int
    layout: str
    template: str
    when: str
    reason: str


class Resize(NamedTuple):
    """The dims that an option may cut or extend: rows = expression over the option's number."""

    line: int
    expression: str
    dims: tuple[str, ...]


class Spare(NamedTuple):
    """A layout whose files have more rows than any dictionary, so that a dictionary may cut them."""

    line: int
    layout: str
    dims: tuple[str, ...]


class Note(NamedTuple):
    """`note LAYOUT CONDITION TEXT`: told of every conversion between one of these layouts and any other, where the
    condition holds."""

    line: int
    layouts: tuple[str, ...]
    condition: str
    text: str


class FieldName(NamedTuple):
    """Where a config field lies: in `document` (a JSON file; "" is the checkpoint itself), under one of `paths`.

    The first path is the one written; all are tried on reading. `negated`: a boolean with the opposite sense.
    """

    document: str
    paths: tuple[str, ...]
    negated: bool = False

    def __str__(self) -> str:
        return self.paths[0]


class Fixed(NamedTuple):
    """`fixed LAYOUT VALUE CONDITION REASON`: the layout's models always do this where the condition holds."""

    layout: str
    value: str
    condition: str
    reason: str


class Field(NamedTuple):
    """One config field in all layouts.

    synonyms: rows of values that differ in spelling between the layouts. cases: (condition, value) pairs, the first
    true one of which replaces `value`. requires: (condition over `value` and the dims, reason) pairs that must hold.
    fixed: values that one layout can't do without. only: a condition without which the field isn't written.
    """

    line: int
    kind: str
    value: str
    names: tuple[FieldName | None, ...]
    synonyms: tuple[tuple[str, ...], ...] = ()
    cases: tuple[tuple[str, str], ...] = ()
    requires: tuple[tuple[str, str], ...] = ()
    fixed: tuple[Fixed, ...] = ()
    only: str | None = None


class Table(NamedTuple):
    """A family: its layouts and everything that maps between them."""

    family: str
    path: Path
    layouts: tuple[Layout, ...]
    lets: Mapping[str, Let]
    rows: tuple[Row, ...]
    ties: tuple[Tie, ...]
    equals: tuple[Equal, ...]
    consts: tuple[Const, ...]
    creates: tuple[Create, ...]
    drops: tuple[Drop, ...]
    has: tuple[Has, ...]
    lacks: tuple[Lacks, ...]
    heads: tuple[Heads, ...]
    selects: tuple[Select, ...]
    folds: tuple[Fold, ...]
    defaults: tuple[Default, ...]
    spellings: tuple[Spelling, ...]
    bases: tuple[Base, ...]
    strangers: tuple[Stranger, ...]
    known: tuple[Known, ...]
    resizes: tuple[Resize, ...]
    spares: tuple[Spare, ...]
    fields: tuple[Field, ...]
    notes: tuple[Note, ...]
    code: Mapping[str, tuple[str, ...]]
    about: Mapping[str, str]
    words: Words

    def column(self, layout: str) -> int:
        """Index of the layout's column; KeyError for a name that the table lacks."""
        for number, candidate in enumerate(self.layouts):
            if candidate.name == layout:
                return number
        raise KeyError(layout)

    def layout(self, name: str) -> Layout:
        """The layout of that name; KeyError for a name that the table lacks."""
        return self.layouts[self.column(name)]

    def heads_of(self, layout: str) -> tuple[str, ...]:
        """The options of which a file of the layout has at most one; () where it may have any."""
        return tuple(option for line in self.heads if line.layout == layout for option in line.options)

    def where(self, line: int) -> str:
        """`mappings/deltalm.tbl:31`, for messages."""
        return f"{short_name(self.path)}:{line}"


def short_name(path: Path) -> str:
    """The table's file as messages name it: with its folder, if it was given with one."""
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name
