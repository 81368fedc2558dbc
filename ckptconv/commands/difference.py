"""What `diff` returns: keys, pairs of tensors, and what changed in each layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot

from ckptconv.conversion.sides import Explained
from ckptconv.keys import is_index
from ckptconv.values.compare import Comparison, Tolerance, rank, relative

__all__ = [
    "Alone",
    "Compared",
    "Comparison",
    "Difference",
    "Explained",
    "Layer",
    "Pair",
    "Renamed",
    "Tied",
    "layer_of",
    "layers_of",
]


@dataclass(frozen=True)
class Compared:
    """One of the two checkpoints. layout: `family/layout` or None. tensors: keys of its state dict. parameters:
    elements, tied ones each time."""

    path: str
    container: str
    layout: str | None
    entry: str
    tensors: int
    parameters: int


@dataclass(frozen=True)
class Alone:
    """A key that one side alone has."""

    key: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Pair:
    """A tensor that both sides have.

    key: as the file calls it that is not seen as another layout. a, b: the keys in the two files that it is made of;
    () where another tensor stands for it. same_as: the key of an earlier pair that is the same tensor on both sides.
    comparison: None where values weren't compared (without `values`, or because the shapes differ).
    """

    key: str
    a: tuple[str, ...]
    b: tuple[str, ...]
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]
    dtype_a: str
    dtype_b: str
    same_as: str | None = None
    comparison: Comparison | None = None

    @property
    def status(self) -> str | None:
        """`equal`, `close` or `differ`; None where values weren't compared."""
        return self.comparison.status if self.comparison else None

    @property
    def rounded(self) -> bool:
        """Whether the values differ only because one side was rounded to the dtype of the other."""
        return self.status == "differ" and self.comparison is not None and self.comparison.rounded_to is not None


@dataclass(frozen=True)
class Tied:
    """A key that is one tensor with `to` on one side (`A` or `B`) and a tensor of its own on the other.

    absent: that side doesn't even have the key, `to` stands for it; the other may store both as one tensor too.
    """

    key: str
    to: str
    side: str
    absent: bool


@dataclass(frozen=True)
class Renamed:
    """Equal bytes under another key. before: in A; after: in B."""

    before: str
    after: str


@dataclass(frozen=True)
class Layer:
    """What changed in one layer: all tensors of one repeated block, or of one module outside of those.

    tensors: how many were compared, tied ones once; moved: how many of them differ by more than a rounding to another
    dtype. relative: L2 of their change over that of A's values, None where A's are all zeros. max_abs: of those that
    moved. nan_mismatches, inf_mismatches: of its elements.
    """

    name: str
    tensors: int
    moved: int
    relative: float | None
    max_abs: float
    nan_mismatches: int
    inf_mismatches: int

    @property
    def rank(self) -> float:
        """The larger, the more it changed."""
        return rank(self.relative, self.nan_mismatches + self.inf_mismatches)


@dataclass(frozen=True)
class Difference:
    """What `diff` says.

    values: whether values were compared; tolerance: what was called close. pairs: every tensor that both have.
    added: in B only; removed: in A only; both with those that `renamed` names. explained: keys of one side that are no
    difference. layers: all that were compared, the one that moved most first. ignored: keys that a pattern left out.
    notes: sentences worth reading.
    """

    a: Compared
    b: Compared
    values: bool
    tolerance: Tolerance | None
    pairs: tuple[Pair, ...]
    added: tuple[Alone, ...]
    removed: tuple[Alone, ...]
    renamed: tuple[Renamed, ...]
    tied: tuple[Tied, ...]
    explained: tuple[Explained, ...]
    layers: tuple[Layer, ...]
    ignored: int
    notes: tuple[str, ...]

    @property
    def shape_changed(self) -> tuple[Pair, ...]:
        """Pairs of different shapes."""
        return tuple(pair for pair in self.pairs if pair.shape_a != pair.shape_b)

    @property
    def dtype_changed(self) -> tuple[Pair, ...]:
        """Pairs of different dtypes."""
        return tuple(pair for pair in self.pairs if pair.dtype_a != pair.dtype_b)

    def count(self, status: str) -> int:
        """How many pairs have this status."""
        return sum(pair.status == status for pair in self.pairs)

    @property
    def different(self) -> bool:
        """Whether there is any difference in keys, shapes, dtypes, or values beyond the tolerance."""
        keys = self.added or self.removed
        return bool(keys or self.shape_changed or self.dtype_changed or self.count("differ"))


def layers_of(pairs: Iterable[Pair]) -> tuple[Layer, ...]:
    """Every layer that was compared, the one that changed most first."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.comparison and pair.comparison.norm is not None and pair.same_as is None:
            groups.setdefault(layer_of(pair.key), []).append(pair)
    return tuple(sorted((_layer(*group) for group in groups.items()), key=lambda layer: -layer.rank))


def _layer(name: str, pairs: Sequence[Pair]) -> Layer:
    found = [pair.comparison for pair in pairs if pair.comparison]
    moved = [pair.comparison for pair in pairs if pair.comparison and pair.status != "equal" and not pair.rounded]
    return Layer(
        name,
        len(pairs),
        sum(each.status == "differ" for each in moved),
        relative(hypot(*(each.norm or 0.0 for each in found)), hypot(*(each.distance or 0.0 for each in moved))),
        max((each.max_abs or 0 for each in moved), default=0),
        sum(each.nan_mismatches for each in moved),
        sum(each.inf_mismatches for each in moved),
    )


def layer_of(key: str) -> str:
    """The repeated block that a key belongs to (`encoder.layers.3`), else its module (`encoder.embed_tokens`)."""
    parts = key.split(".")
    at = next((number for number, part in enumerate(parts) if is_index(part)), None)
    return ".".join(parts[: at + 1] if at is not None else parts[:-1]) or key
