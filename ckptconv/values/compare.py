"""The values of two tensors compared, piece by piece: by their bytes first, then by their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from math import inf, isfinite, sqrt
from typing import Any

from ckptconv.arrays import converted, element_type, inner
from ckptconv.containers.read import Run
from ckptconv.dtypes import FLOATS, DType
from ckptconv.parallel import grouped
from ckptconv.values.elements import Elements, side_by_side

_PIECE = 1 << 20  # bytes that are compared at a time, as many as readers give: two threads need long calls of numpy
_FIRST = 1 << 10  # bytes that already tell most pieces apart
_SMALL = 1e-30  # a smaller sum of squares may have lost some of them in float32
_LARGE = 1e300
_OPPOSITE = 2.0  # |a - b| / max(|a|, |b|) of a and -a: there is no larger one
_FLOAT8 = frozenset({"F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
_INTEGERS = frozenset({"I64", "I32", "I16", "I8", "U8", "BOOL", "U16", "U32", "U64"})
_EXACT = frozenset({"I64", "U64", "integers"})
_ARITHMETIC = {"F64": "f8", "F32": "f4", "C128": "c16", "C64": "c8", "I64": "i8", "U64": "u8", "integers": "O"}


@dataclass(frozen=True)
class Tolerance:
    """`close` is |a - b| <= atol + rtol * |b|, as torch.isclose(a, b, equal_nan=True) says it; infinities are close to
    themselves only."""

    atol: float = 0.0
    rtol: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """How the values of B differ from those of A.

    status: `equal` (bitwise; where the dtypes differ, after a cast to `compared_as`, which holds both exactly), `close`
    (within the tolerance) or `differ`. compared_as: None where the dtypes are the same. rounded_to: the dtype in which
    both are bitwise equal once the other is rounded to it.
    changed: elements whose numbers differ; NaN and NaN don't, whatever their bits, nor do 0.0 and -0.0.
    nan_mismatches: elements where one side only is NaN; inf_mismatches: where they differ and one is infinite.
    Over the elements that are finite on both sides: max_abs = max |a - b|; max_rel = max |a - b| / max(|a|, |b|), 0 to
    2; cosine of the angle between A and B; norm = L2 of A; distance = L2 of B - A.
    None: the dtype has no numbers (it is compared by its bytes only), or the cosine of zeros or of endless sums.
    """

    status: str
    changed: int | None = None
    max_abs: float | int | None = None
    max_rel: float | None = None
    cosine: float | None = None
    norm: float | None = None
    distance: float | None = None
    nan_mismatches: int = 0
    inf_mismatches: int = 0
    compared_as: str | None = None
    rounded_to: str | None = None

    @property
    def relative(self) -> float | None:
        """L2 of the change over that of A; None where A is zeros and B isn't, or there are no numbers."""
        return relative(self.norm, self.distance)

    @property
    def rank(self) -> float:
        """The larger, the more it changed."""
        return rank(self.relative, self.nan_mismatches + self.inf_mismatches)


def relative(norm: float | None, distance: float | None) -> float | None:
    """distance / norm; 0 for a distance of 0, None where there is no such number."""
    if norm is None or distance is None or not isfinite(norm) or not isfinite(distance):
        return None
    return distance / norm if norm else None if distance else 0.0


def rank(relative: float | None, odd: int) -> float:
    """A number to sort changes by: those with NaN or infinities (`odd` elements) before all others, then what was zeros
    before, then by the relative L2."""
    return 2 * _LARGE if odd else _LARGE if relative is None else min(relative, _LARGE)


def compare(
    a: Iterable[Any], a_dtype: DType, b: Iterable[Any], b_dtype: DType, tolerance: Tolerance | None = None
) -> Comparison:
    """Compare two tensors of the same shape, given as their contiguous little-endian bytes, cut anywhere.

    tolerance: None where none was stated; then what isn't `equal` differs. It doesn't apply to integers and bools,
    which are compared exactly. Memory: a few MiB. Raises ValueError for tensors of different sizes.
    """
    return _tally(a, a_dtype, b, b_dtype, tolerance).result()


def comparisons(
    pairs: Iterable[tuple[Elements, Elements]],
    tolerance: Tolerance | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Iterator[Comparison]:
    """`compare` for each pair of tensors, on both cores. progress(bytes of both that were compared) for each run."""

    def tally(job: tuple[tuple[DType, DType], tuple[Run, Run]]) -> _Tally:
        dtypes, (a, b) = job
        return _tally(a.chunks(), dtypes[0], b.chunks(), dtypes[1], tolerance)

    jobs = ([((a.dtype, b.dtype), runs) for runs in side_by_side(a, b)] for a, b in pairs)
    for tallies in grouped(tally, jobs, lambda job: sum(run.nbytes for run in job[1]), progress):
        yield reduce(_Tally.merged, tallies).result()


def common_type(a: DType, b: DType) -> str | None:
    """What two dtypes are compared as, which holds the numbers of both exactly (of integers beyond 2^53 only beside
    other integers): `F32` for small floats, `F64`, `C64`, `C128`, `I64`, `U64`, or `integers` of any size. None: only
    their bytes can be compared."""
    names = {a.name, b.name}
    small = {"F32", "F16", "BF16"} | _FLOAT8
    if names <= small:
        return "F32"
    if names <= _INTEGERS:
        return "U64" if names == {"U64"} else "I64" if "U64" not in names else "integers"
    if names <= small | {"F64"} | _INTEGERS:
        return "F64"
    if names <= small | {"C64", "C32"}:
        return "C64"
    if names <= small | {"F64", "C128", "C64", "C32"} | _INTEGERS:
        return "C128"
    return None


def _pieces(chunks: Iterable[Any], size: int) -> Iterator[Any]:
    """The same bytes in pieces of `size`, but for the last."""
    held = b""
    for chunk in chunks:
        start = 0
        if not held and len(chunk) == size:
            yield chunk  # not copied on the way
            continue
        if held:
            start = min(size - len(held), len(chunk))
            held += chunk[:start]
            if len(held) < size:
                continue
            yield held
        end = start + (len(chunk) - start) // size * size
        view = memoryview(chunk)
        yield from (view[at : at + size] for at in range(start, end, size))
        held = bytes(view[end:])
    if held:
        yield held


def _tally(a: Iterable[Any], a_dtype: DType, b: Iterable[Any], b_dtype: DType, tolerance: Tolerance | None) -> _Tally:
    import numpy as np

    tally = _Tally(a_dtype, b_dtype, common_type(a_dtype, b_dtype), tolerance)
    count = _PIECE // max(a_dtype.itemsize, b_dtype.itemsize)
    with np.errstate(all="ignore"):
        for left, right in zip(_pieces(a, count * a_dtype.itemsize), _pieces(b, count * b_dtype.itemsize), strict=True):
            tally.add(left, right)
    return tally


class _Tally:
    """What is counted and summed of pieces."""

    def __init__(self, a: DType, b: DType, common: str | None, tolerance: Tolerance | None) -> None:
        self._a, self._b, self._common, self._tolerance = a, b, common, tolerance
        self._equal = True
        self._rounds = [target for source, target in ((a, b), (b, a)) if _may_round(source, target)]
        self._changed = self._beyond = self._nans = self._infinities = 0
        self._max_abs: float | int = 0
        self._max_rel = 0.0
        self._products = [0.0] * 4  # A with itself, B with itself, A with B, B - A with itself

    def merged(self, other: _Tally) -> _Tally:
        """This one, with what was found in other pieces added."""
        self._equal &= other._equal
        self._rounds = [target for target in self._rounds if target in other._rounds]
        self._changed += other._changed
        self._beyond += other._beyond
        self._nans += other._nans
        self._infinities += other._infinities
        self._max_abs = max(self._max_abs, other._max_abs)
        self._max_rel = max(self._max_rel, other._max_rel)
        self._products = [mine + theirs for mine, theirs in zip(self._products, other._products, strict=True)]
        return self

    def add(self, left: Any, right: Any) -> None:
        """Compare two pieces with the same elements. Raises ValueError if they have not."""
        if len(left) * self._b.itemsize != len(right) * self._a.itemsize:
            raise ValueError(f"tensors of different sizes: pieces of {len(left)} and {len(right)} bytes")
        same = self._a == self._b and _same_bytes(left, right)
        self._equal &= same or self._a != self._b
        if self._common is None:
            self._equal &= same
            return
        x = numbers(left, self._a, self._common)
        y = x if same else numbers(right, self._b, self._common)
        if self._a != self._b:
            self._rounds = self._still_round(left, right) if self._rounds else []
            self._equal = self._equal and _same_bits(x, y)
        self._measure(*self._integers(x, y) if self._common in _EXACT else (x, y))

    def _still_round(self, left: Any, right: Any) -> list[DType]:
        """The dtypes in which both sides are still bitwise equal."""
        import numpy as np

        left, right = np.frombuffer(left, element_type(self._a)), np.frombuffer(right, element_type(self._b))
        pairs = {self._b: (left, right), self._a: (right, left)}
        rounded = {dtype: converted(pairs[dtype][0], pairs[dtype][1].dtype) for dtype in self._rounds}
        return [dtype for dtype in self._rounds if _same_bits(rounded[dtype], pairs[dtype][1])]

    def _integers(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Counts and compares integers exactly; returns them as float64, for the sums."""
        import numpy as np

        if y is x:
            same = x.astype("f8")
            return same, same
        differ = x != y
        if differ.any():
            self._changed += int(np.count_nonzero(differ))
            high, low = np.maximum(x, y)[differ], np.minimum(x, y)[differ]
            # Modulo 2^64, the difference of any two 64-bit integers is exact.
            gap = high - low if x.dtype == object else high.astype("u8") - low.astype("u8")
            self._max_abs = max(self._max_abs, int(gap.max()))
        return x.astype("f8"), y.astype("f8")

    def _measure(self, x: Any, y: Any) -> None:
        """Adds what float or complex numbers say: in float64 where there are NaN or infinities, or squares are lost."""
        import numpy as np

        gap = x[:0] if y is x else y - x
        products = _products(x, y, gap)
        largest = _largest_ratio if np.isrealobj(x) else _largest_ratio_anyhow
        own, other, _, change = products
        if not all(_SMALL < each < inf for each in ((own,) if y is x else (own, other, change))):
            wide, largest = "c16" if np.iscomplexobj(x) else "f8", _largest_ratio_anyhow
            x, y = self._set_aside(x.astype(wide), y.astype(wide))
            gap = y - x
            products = _products(x, y, gap)
        self._products = [total + more for total, more in zip(self._products, products, strict=True)]
        if y is x or (not products[3] and np.array_equal(x, y)):
            return
        gap = np.abs(gap)
        if self._max_rel < _OPPOSITE:
            self._max_rel = max(self._max_rel, largest(x, y, gap))
        if self._common in _EXACT:
            return
        self._max_abs = max(self._max_abs, float(gap.max()))
        self._changed += int(np.count_nonzero(gap != 0))
        if self._tolerance is not None:
            wide = "c16" if np.iscomplexobj(x) else "f8"
            off, size = np.abs(y.astype(wide) - x.astype(wide)), np.abs(y.astype(wide))
            self._beyond += int(np.count_nonzero(off > self._tolerance.atol + self._tolerance.rtol * size))

    def _set_aside(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Counts the elements that are NaN or infinite, and returns the others."""
        import numpy as np

        nan_x, nan_y = np.isnan(x), np.isnan(y)
        finite = np.isfinite(x) & np.isfinite(y)
        nans = int(np.count_nonzero(nan_x != nan_y))
        infinities = int(np.count_nonzero((x != y) & ~finite & ~nan_x & ~nan_y))
        self._nans += nans
        self._infinities += infinities
        self._changed += nans + infinities
        self._beyond += nans + infinities
        return x[finite], y[finite]

    def result(self) -> Comparison:
        """The verdict over all pieces."""
        mixed = self._common if self._a != self._b else None
        if self._common is None:
            return Comparison("equal" if self._equal else "differ")
        own, other, both, change = self._products
        return Comparison(
            status=self._status(),
            changed=self._changed,
            max_abs=self._max_abs,
            max_rel=self._max_rel,
            cosine=1.0 if self._equal else _cosine(own, other, both),
            norm=sqrt(own),
            distance=sqrt(change),
            nan_mismatches=self._nans,
            inf_mismatches=self._infinities,
            compared_as=mixed,
            rounded_to=self._rounds[0].name if self._rounds and not self._equal else None,
        )

    def _status(self) -> str:
        if self._equal:
            return "equal"
        off = self._changed if self._common in _EXACT else self._beyond
        return "close" if self._tolerance is not None and not off else "differ"


def _products(x: Any, y: Any, gap: Any) -> list[float]:
    """Of A with itself, B with itself, A with B, and B - A with itself."""
    own = inner(x, x)
    return [own, own, own, 0.0] if y is x else [own, inner(y, y), inner(x, y), inner(gap, gap)]


def _largest_ratio(x: Any, y: Any, gap: Any) -> float:
    """max |a - b| / max(|a|, |b|) of real numbers that are not huge; 0 / 0 is none.

    As max(|a|, |b|) = (|a + b| + |a - b|) / 2, it is the largest where |a - b| / |a + b| is.
    """
    import numpy as np

    ratios = x + y
    np.divide(gap, ratios, out=ratios)
    most = max(float(np.fmax.reduce(ratios)), -float(np.fmin.reduce(ratios)))
    return 2 / (1 + 1 / most) if most else 0.0


def _largest_ratio_anyhow(x: Any, y: Any, gap: Any) -> float:
    """The same for complex numbers, and such whose sums may be infinite; at most 2."""
    import numpy as np

    sizes = np.maximum(np.abs(x), np.abs(y))
    np.maximum(sizes, np.finfo(sizes.dtype).smallest_subnormal, out=sizes)  # 0 / 0 is none
    return min(float(np.divide(gap, sizes, out=sizes).max()), _OPPOSITE)


def _same_bytes(left: Any, right: Any) -> bool:
    """Whether two pieces are equal; the most by numpy, during whose work other threads go on."""
    import numpy as np

    if bytes(left[:_FIRST]) != bytes(right[:_FIRST]):
        return False
    end = len(left) // 8 * 8
    x, y = (np.frombuffer(each, "u8", end // 8) for each in (left, right))
    return bytes(left[end:]) == bytes(right[end:]) and np.array_equal(x, y)


def _same_bits(x: Any, y: Any) -> bool:
    """Whether two arrays of one type hold the same bits, or the same integers of any size."""
    import numpy as np

    bits = f"u{min(x.itemsize, 8)}"
    return bool((x == y).all()) if x.dtype == object else np.array_equal(x.view(bits), y.view(bits))


def _cosine(own: float, other: float, both: float) -> float | None:
    length = sqrt(own) * sqrt(other)
    if not length or not isfinite(length) or not isfinite(both):
        return None
    return max(-1.0, min(1.0, both / length))


def _may_round(source: DType, target: DType) -> bool:
    return source != target and {source, target} <= FLOATS and source.itemsize >= target.itemsize


def numbers(data: Any, dtype: DType, common: str) -> Any:
    """The elements as numpy's `common`."""
    import numpy as np

    if dtype.name == "C32":
        raw = converted(np.frombuffer(data, "<f2"), np.dtype("f4")).view("c8")
    elif dtype.name == "BOOL":
        raw = np.frombuffer(data, "u1") != 0
    else:
        raw = np.frombuffer(data, element_type(dtype))
    return converted(raw, np.dtype(_ARITHMETIC[common]))
