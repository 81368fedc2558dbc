"""What a plan says: target keys, the parts that they are made of, and what is told about them.

Named tuples: a plan has as many of them as the checkpoint has keys, and they take a third of the time to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from ckptconv.dtypes import DType


class Rows(NamedTuple):
    """Rows [start, stop) of the `of` along axis 0 of a source tensor (a 0-d one counts as one row).

    transposed: they are taken as columns. plus: one row that is added to each of them.
    """

    key: str
    start: int
    stop: int
    of: int
    transposed: bool = False
    plus: Rows | None = None

    @property
    def whole(self) -> bool:
        """Whether it is the whole tensor."""
        return self.start == 0 and self.stop == self.of


class Fill(NamedTuple):
    """`rows` rows along axis 0 that no source has, all `value`."""

    rows: int
    value: float


class Step(NamedTuple):
    """One target key: the parts that lie one after another along axis 0.

    op: `copy`, `slice`, `join`, `transpose`, `add`, `fill` or `tie`; `+cast` where the dtype changes.
    tied_to: the target key that is the same tensor, or None.
    """

    key: str
    dtype: DType
    shape: tuple[int, ...]
    parts: tuple[Rows | Fill, ...]
    casts: bool = False
    tied_to: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the target tensor."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def sources(self) -> tuple[str, ...]:
        """The source keys that it is made of, each once."""
        rows = [part for part in self.parts if isinstance(part, Rows)]
        return tuple(dict.fromkeys(each.key for part in rows for each in (part, part.plus) if each))

    @property
    def op(self) -> str:
        """The word for what happens."""
        if self.tied_to is not None:
            return "tie"
        first = self.parts[0] if self.parts else Fill(0, 0.0)
        if not self.sources:
            word = "fill"
        elif any(isinstance(part, Rows) and part.plus for part in self.parts):
            word = "add"
        elif len(self.parts) > 1:
            word = "join"
        elif isinstance(first, Rows) and first.transposed:
            word = "transpose"
        else:
            word = "copy" if isinstance(first, Rows) and first.whole else "slice"
        return f"{word}+cast" if self.casts else word


class Told(NamedTuple):
    """A key that the target lost or got, and why."""

    key: str
    reason: str


class Resized(NamedTuple):
    """A target key whose first axis was cut or extended. `rows` names them: `163..169 cut`."""

    key: str
    before: int
    after: int
    rows: str


class Plan(NamedTuple):
    """Everything that a conversion does to the tensors, before a byte is written.

    source, target: `family/layout`, or `same`. dims: the target's sizes.
    """

    source: str
    target: str
    dims: Mapping[str, int]
    steps: tuple[Step, ...]
    dropped: tuple[Told, ...] = ()
    created: tuple[Told, ...] = ()
    resized: tuple[Resized, ...] = ()


class Facts(NamedTuple):
    """What was read off the values: equal[key] is the first key of its tie line with the same bytes;
    zeros: keys that a `drop … zeros` line asks about and that hold nothing but zeros;
    values: the number that a constant's key really holds."""

    equal: Mapping[str, str]
    zeros: frozenset[str]
    values: Mapping[str, float]

    def same(self, key: str) -> str:
        """The key that stands for all keys with these bytes."""
        return self.equal.get(key, key)
