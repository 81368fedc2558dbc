"""Random tables: lint's verdict against a round trip by brute force, which knows nothing of lint, expansion or plans.

The brute force reads the same rows as plain data, writes every key out by text replacement, and really moves arrays:
parameters → tensors of one layout → tensors of the other → parameters again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ckptconv.errors import BadTable
from ckptconv.tables.lint import lint
from ckptconv.tables.parse import parse

LAYOUTS = ("one", "two")
CHOICES = {"p": ("weight", "bias"), "s": ("left", "right")}
SHAPES = {"d": (4,), "d,d": (4, 4), "f,d": (6, 4), "d,f": (4, 6)}
Array = np.ndarray


@dataclass(frozen=True)
class Cell:
    """`template[part/parts]` or `template^T`."""

    template: str
    part: int = 0
    parts: int = 1
    transposed: bool = False

    def __str__(self) -> str:
        part = f"[{self.part}/{self.parts}]" if self.parts > 1 else ""
        return self.template + part + ("^T" if self.transposed else "")


@dataclass(frozen=True)
class Row:
    shape: str
    cells: tuple[Cell, Cell]

    def __str__(self) -> str:
        return f"{self.shape:5}  {self.cells[0]}  {self.cells[1]}"


def table(rows: Sequence[Row]) -> str:
    lets = [f"let {name} {'|'.join(words)}" for name, words in CHOICES.items()]
    layouts = [f"layout {name} torch -" for name in LAYOUTS]
    return "\n".join([*layouts, "let i 0..layers", *lets, *map(str, rows)]) + "\n"


# --------------------------------------------------------------------------------------------------- the brute force
class Unsound(Exception):
    """The round trip loses something."""


def filled(row: Row, layers: int) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """(the keys in both layouts, the shape) of every parameter that the row stands for."""
    values = {"i": tuple(map(str, range(layers))), **CHOICES}
    texts = [cell.template for cell in row.cells]
    names = [name for name in values if any(f"{{{name}}}" in text for text in texts)]
    for chosen in product(*(values[name] for name in names)):
        keys = []
        for text in texts:
            for name, value in zip(names, chosen, strict=True):
                text = text.replace(f"{{{name}}}", value)
            keys.append(text)
        shape = SHAPES[row.shape]
        biases = {key.endswith("bias") for key in keys}
        if len(biases) > 1 and len(shape) > 1:
            raise Unsound("a bias, which has the first axis only, in one layout")
        yield tuple(keys), shape[:1] if biases == {True} else shape


def tensors(rows: Sequence[Row], layers: int, column: int, arrays: Mapping[int, Array]) -> dict[str, Array]:
    """The layout's state dict."""
    whole: dict[str, Array] = {}
    parts: dict[str, dict[tuple[int, int], Array]] = {}
    number = 0
    for row in rows:
        cell = row.cells[column]
        for keys, _ in filled(row, layers):
            array, number = arrays[number], number + 1
            if cell.parts > 1:
                place = parts.setdefault(keys[column], {})
                if (cell.part, cell.parts) in place:
                    raise Unsound("one part twice")
                place[cell.part, cell.parts] = array
            elif keys[column] in whole:
                raise Unsound("one key twice")
            else:
                whole[keys[column]] = array.T if cell.transposed else array
    for key, place in parts.items():
        if key in whole or {of for _, of in place} != {len(place)} or len({part.shape for part in place.values()}) > 1:
            raise Unsound("parts that make no tensor")
        whole[key] = np.concatenate([place[part] for part in sorted(place)])
    return whole


def parameters(rows: Sequence[Row], layers: int, column: int, state: Mapping[str, Array]) -> Iterator[Array]:
    for row in rows:
        cell = row.cells[column]
        for keys, shape in filled(row, layers):
            tensor = state[keys[column]]
            if cell.parts > 1:
                yield tensor[cell.part * shape[0] : (cell.part + 1) * shape[0]]
            else:
                yield tensor.T if cell.transposed else tensor


def survives(rows: Sequence[Row]) -> bool:
    """Whether arrays come back the same, both ways, for one to three layers."""
    try:
        for layers in (1, 2, 3):
            shapes = [shape for row in rows for _, shape in filled(row, layers)]
            before = [100 * number + np.arange(np.prod(shape)).reshape(shape) for number, shape in enumerate(shapes)]
            for there, back in ((0, 1), (1, 0)):
                first = list(parameters(rows, layers, there, tensors(rows, layers, there, dict(enumerate(before)))))
                again = tensors(rows, layers, back, dict(enumerate(first)))
                after = list(parameters(rows, layers, back, again))
                if not all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)):
                    return False
    except Unsound:
        return False
    return True


# ----------------------------------------------------------------------------------------------------- random tables
HEADS = st.sampled_from(["a", "b", "h.{i}", "g.{i}", "{s}.h.{i}", "{s}"])
TAILS = st.sampled_from(["{p}", "q.{p}", "weight", "q.weight", "bias", "w.{s}", "0.weight"])


@st.composite
def cells(draw: st.DrawFn) -> Cell:
    template = f"{draw(HEADS)}.{draw(TAILS)}"
    kind = draw(st.sampled_from(["whole", "whole", "whole", "part", "transposed"]))
    if kind == "part":
        parts = draw(st.integers(2, 3))
        return Cell(template, draw(st.integers(0, parts - 1)), parts)
    return Cell(template, transposed=kind == "transposed")


@st.composite
def likely_sound(draw: st.DrawFn) -> list[Row]:
    """Modules with names of their own, some fused on one side: sound before anything is changed."""
    rows: list[Row] = []
    for number in range(draw(st.integers(1, 4))):
        where = draw(st.sampled_from(["", "h.{i}.", "{s}.h.{i}.", "{s}."]))
        shape, tail = draw(st.sampled_from(["d,d", "f,d", "d"])), draw(st.sampled_from(["{p}", "weight"]))
        fused = draw(st.sampled_from([1, 1, 2, 3]))
        for part in range(fused):
            ours = Cell(f"{where}m{number}.{part}.{tail}" if fused > 1 else f"{where}m{number}.{tail}")
            rows.append(Row(shape, (ours, Cell(f"x.{where}n{number}.{tail}", part, fused))))
    return rows


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    rows = draw(likely_sound())
    for _ in range(draw(st.integers(0, 2))):
        at, column = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, 1))
        change = draw(st.sampled_from(["cell", "shape", "remove", "repeat", "swap", "transpose"]))
        row = rows[at]
        if change == "remove" and len(rows) > 1:
            del rows[at]
        elif change == "repeat":
            rows.append(row)
        elif change == "shape":
            rows[at] = Row(draw(st.sampled_from(sorted(SHAPES))), row.cells)
        else:
            other = rows[draw(st.integers(0, len(rows) - 1))].cells[column]
            new = draw(cells()) if change == "cell" else other
            if change == "transpose":
                new = Cell(row.cells[column].template, transposed=True)
            pair = list(row.cells)
            pair[column] = new
            rows[at] = Row(row.shape, (pair[0], pair[1]))
    return rows


def verdict(rows: Sequence[Row]) -> list[str]:
    """What parse or lint have against the table."""
    try:
        return [finding.message for finding in lint(parse(table(rows), Path("random.tbl")))]
    except BadTable as problem:
        return [problem.message]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=tables())
def test_lint_is_right_about_any_table(rows: list[Row]):
    found, fine = verdict(rows), survives(rows)
    event("sound" if fine else "unsound")
    assert bool(found) != fine, (table(rows), found)
