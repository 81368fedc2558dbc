"""What differs between two checkpoints: keys, shapes, dtypes, and on request the values."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from ckptconv.commands.difference import Alone, Compared, Difference, Pair, Renamed, Tied, layers_of
from ckptconv.containers.checkpoint import Tensor
from ckptconv.containers.open import open_checkpoint
from ckptconv.containers.read import Reader, check_growth
from ckptconv.conversion.align import Aligned, align, without
from ckptconv.conversion.sides import Explained, Side, View
from ckptconv.errors import WrongUse
from ckptconv.keys import is_index
from ckptconv.progress import Progress, counted, counter, unwatched
from ckptconv.tables.catalog import tables
from ckptconv.text import printable
from ckptconv.values.compare import Comparison, Tolerance, comparisons
from ckptconv.values.elements import RUN, Elements

__all__ = ["Difference", "diff"]
_NAMED = 8  # entries in a note


def diff(
    a: Path | str,
    b: Path | str,
    *,
    values: bool = False,
    atol: float | None = None,
    rtol: float | None = None,
    ignore: Sequence[str] = (),
    table: Path | str | None = None,
    progress: Progress = unwatched,
    allow_unknown: bool = False,
) -> Difference:
    """Compare two checkpoints; two layouts of one family are brought under the same keys first.

    values: compare contents too, streamed: bitwise, then max abs, max relative, cosine. atol, rtol: |a - b| <= atol +
    rtol * |b| is `close`, which is no difference; without both, every bit counts. ignore: patterns of keys to leave out
    (`*`, `?`, `[…]`; a key of either file or the common one). progress(bytes read, bytes in all).
    allow_unknown: as for `open_checkpoint`.
    Raises WrongUse, or a CkptconvError where a checkpoint can't be read.
    """
    tolerance = _tolerance(values, atol, rtol)
    opened = open_checkpoint(a, allow_unknown), open_checkpoint(b, allow_unknown)
    aligned = align(*opened, tables(Path(table) if table else None))
    kept = without(aligned, ignore)
    with Reader(opened[0]) as left, Reader(opened[1]) as right:
        values_of = _Values(kept, left, right, tolerance, progress) if values else None
        pairs = tuple(_pairs(kept, values_of))
        explained, alone = _made(kept, values_of)
        renamed = tuple(values_of.renamed()) if values_of else ()
    return Difference(
        a=_compared(str(a), aligned.a),
        b=_compared(str(b), aligned.b),
        values=values,
        tolerance=tolerance,
        pairs=pairs,
        added=(*_alone(kept.b, kept.alone["B"]), *_alone(kept.b, alone["B"])),
        removed=(*_alone(kept.a, kept.alone["A"]), *_alone(kept.a, alone["A"])),
        renamed=renamed,
        tied=tuple(_tied(kept)),
        explained=(*kept.explained, *explained),
        layers=layers_of(pairs),
        ignored=aligned.keys - kept.keys,
        notes=(*_notes(aligned), *_unused(aligned, ignore)),
    )


def _tolerance(values: bool, atol: float | None, rtol: float | None) -> Tolerance | None:
    given = {name: number for name, number in (("atol", atol), ("rtol", rtol)) if number is not None}
    for name, number in given.items():
        if not number >= 0:
            raise WrongUse(f"--{name} {number}; expected a number that is not negative.")
    if given and not values:
        raise WrongUse(f"--{next(iter(given))} says how close values must be; expected --values with it.")
    return Tolerance(**given) if given else None


def _compared(path: str, side: Side) -> Compared:
    tensors = side.checkpoint.entries[side.entry]
    parameters = sum(tensor.numel for tensor in tensors.values())
    layout = side.found.name if side.found else None
    return Compared(path, side.checkpoint.container, layout, side.entry, len(tensors), parameters)


# -------------------------------------------------------------------------------------------------------- what is read
class _Values:
    """Reads what is to be compared, each pair of tensors once, and tells how far it is."""

    def __init__(self, aligned: Aligned, a: Reader, b: Reader, tolerance: Tolerance | None, progress: Progress) -> None:
        self._sides, self._tolerance = ((aligned.a, a), (aligned.b, b)), tolerance
        both = [pair for pair in (*aligned.pairs.values(), *aligned.made.values()) if pair[0].shape == pair[1].shape]
        self._pairs = {_identity(*pair): pair for pair in both}
        self._candidates = _candidates(aligned)
        hashed = [tensor for side in self._candidates for tensor in side.values()]
        for number, (side, _) in enumerate(self._sides):
            read = {tensor for pair in self._pairs.values() for tensor in _tensors(side, pair[number])}
            check_growth(side.checkpoint, read | set(self._candidates[number].values()))
        total = sum(view.nbytes for pair in self._pairs.values() for view in pair)
        self._count = counter(progress, total + sum(tensor.nbytes for tensor in hashed))

    def compare(self, left: View, right: View) -> Comparison | None:
        """None where the shapes differ."""
        return self._found[_identity(left, right)] if left.shape == right.shape else None

    @cached_property
    def _found(self) -> Mapping[object, Comparison]:
        """All pairs, read when the first is asked for."""
        elements = (self._elements(*pair) for pair in self._pairs.values())
        return dict(zip(self._pairs, comparisons(elements, self._tolerance, self._count), strict=True))

    def _elements(self, left: View, right: View) -> tuple[Elements, Elements]:
        (a, reads_a), (b, reads_b) = self._sides
        return (
            Elements(left.dtype, a.runs(left, reads_a, RUN)),
            Elements(right.dtype, b.runs(right, reads_b, RUN)),
        )

    def renamed(self) -> Iterator[Renamed]:
        """Keys of one side alone that hold the same bytes as one of the other side alone. Where several do, those with
        the same numbers and last part go together first, then as they come."""
        before, after = (
            {key: self._digest(tensor, reader) for key, tensor in tensors.items()}
            for tensors, (_, reader) in zip(self._candidates, self._sides, strict=True)
        )
        for place in (_place, lambda key: None):
            waiting: dict[object, deque[str]] = {}
            for key, digest in before.items():
                waiting.setdefault((digest, place(key)), deque()).append(key)
            for key, digest in list(after.items()):
                same = waiting.get((digest, place(key)))
                if same:
                    del before[same[0]], after[key]
                    yield Renamed(same.popleft(), key)

    def _digest(self, tensor: Tensor, reader: Reader) -> object:
        from hashlib import blake2b

        digest = blake2b(digest_size=20)
        for chunk in counted(reader.chunks(tensor), self._count):
            digest.update(chunk)
        return tensor.dtype, tensor.shape, digest.digest()


def _place(key: str) -> object:
    parts = key.split(".")
    return (*filter(is_index, parts), parts[-1])


def _identity(left: View, right: View) -> tuple[object, object]:
    return left.identity, right.identity


def _tensors(side: Side, view: View) -> Iterator[Tensor]:
    """What is read of a view."""
    for key in view.keys:
        yield side.checkpoint.entries[side.entry][key]


def _candidates(aligned: Aligned) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of one side alone, by key, of which the other side alone has any of the same dtype and shape."""
    a, b = (
        {key: side.checkpoint.entries[side.entry][key] for view in aligned.alone[side.name] for key in view.keys}
        for side in (aligned.a, aligned.b)
    )
    kinds = {(each.dtype, each.shape) for each in a.values()} & {(each.dtype, each.shape) for each in b.values()}
    return tuple(  # type: ignore[return-value]
        {key: each for key, each in side.items() if (each.dtype, each.shape) in kinds and each.numel} for side in (a, b)
    )


# ------------------------------------------------------------------------------------------------------ what is found
def _pairs(aligned: Aligned, values: _Values | None) -> Iterator[Pair]:
    first: dict[object, str] = {}
    for key, (left, right) in aligned.pairs.items():
        name = _name(key, left, right)
        same = first.setdefault(_identity(left, right), name) if left.nbytes else name
        yield Pair(
            name,
            left.keys,
            right.keys,
            left.shape,
            right.shape,
            left.dtype.name,
            right.dtype.name,
            None if same == name else same,
            values.compare(left, right) if values else None,
        )


def _name(key: str, left: View, right: View) -> str:
    """The key as a file has it: B's, unless B is seen as another layout."""
    return next((view.keys[0] for view in (right, left) if view.stored and isinstance(view.source, Tensor)), key)


def _made(aligned: Aligned, values: _Values | None) -> tuple[list[Explained], dict[str, list[View]]]:
    """Keys that a conversion of the other side would make up: explained, unless one of those that are there together
    holds something else."""
    groups: dict[str, list[tuple[View, View]]] = {}
    for key, pair in aligned.made.items():
        groups.setdefault(pair[0].part_of or pair[1].part_of or key, []).append(pair)
    explained: list[Explained] = []
    alone: dict[str, list[View]] = {"A": [], "B": []}
    for pairs in groups.values():
        found = [values.compare(*pair) for pair in pairs] if values else []
        expected = all(each is not None and each.status == "equal" for each in found)
        for left, right in pairs:
            side, view, reason = ("A", left, right.made) if right.made else ("B", right, left.made)
            told = reason if values else f"{reason} (--values tells whether it holds something else)"
            explained += [Explained(view.keys[0], side, told)] if expected else []
            alone[side] += [] if expected else [view]
    return explained, alone


def _alone(side: Side, views: Iterable[View]) -> Iterator[Alone]:
    """The keys of the file, each once."""
    for key in dict.fromkeys(key for view in views for key in view.keys):
        tensor = side.checkpoint.entries[side.entry][key]
        yield Alone(key, tensor.shape, tensor.dtype.name)


def _tied(aligned: Aligned) -> Iterator[Tied]:
    """Keys that are one tensor with an earlier one on one side only, or that only one side has besides that one."""
    first: tuple[dict[object, str], dict[object, str]] = ({}, {})
    for key, pair in aligned.pairs.items():
        for here, side in enumerate("AB"):
            to = first[here].setdefault(pair[here].identity, key) if pair[here].nbytes else key
            owner = aligned.pairs[to]
            if to != key and pair[here].keys == owner[here].keys:
                if not isinstance(pair[here].source, Tensor):
                    continue  # a layout that has several names for one tensor
                lacking, standing = (to, key) if pair[here].stored else (key, to)
                yield Tied(
                    _name(lacking, *aligned.pairs[lacking]), _name(standing, *aligned.pairs[standing]), side, True
                )
            elif to != key and owner[1 - here].identity != pair[1 - here].identity:
                yield Tied(_name(key, *pair), _name(to, *owner), side, False)


def _unused(aligned: Aligned, patterns: Iterable[str]) -> Iterator[str]:
    for pattern in patterns:
        if without(aligned, [pattern]).keys == aligned.keys:
            yield f"--ignore {printable(pattern)}: there is no such key"


def _notes(aligned: Aligned) -> Iterator[str]:
    yield from aligned.notes
    for side in (aligned.a, aligned.b):
        yield from (f"{side.name}: {note}" for note in side.checkpoint.notes)
        others = [name for name in side.checkpoint.entries if name != side.entry]
        others += [name for name, node in side.checkpoint.other.items() if node is not None]
        if others:
            more = f" and {len(others) - _NAMED:,} more" if len(others) > _NAMED else ""
            shown = ", ".join(printable(name) for name in others[:_NAMED])
            yield f"{side.name}: not compared, since they are no part of the state dict: {shown}{more}"
