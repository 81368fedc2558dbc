"""The values of two tensors compared, piece by piece: by their bytes first, then by their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import Any

from ckptconv.dtypes import FLOATS, DType
from ckptconv.parallel import mapped

_PIECE = 1 << 20  # bytes that are compared at a time, as many as readers give
_BLOCK = 1 << 16  # elements whose numbers are looked at together: they stay in the cache
_ROW = 1 << 10  # products that are summed in their own precision; the sums are added in float64
_SMALL = 1e-30  # a smaller sum of squares may have lost some of them in float32
_LARGE = 1e300
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
    common = common_type(a_dtype, b_dtype)
    total = _Tally(a_dtype, b_dtype, common, tolerance)
    elements = _PIECE // max(a_dtype.itemsize, b_dtype.itemsize)
    pieces_a, pieces_b = _pieces(a, elements * a_dtype.itemsize), _pieces(b, elements * b_dtype.itemsize)

    def compared(pieces: tuple[Any, Any]) -> _Tally:
        left, right = pieces
        if len(left) * b_dtype.itemsize != len(right) * a_dtype.itemsize:
            raise ValueError(f"tensors of different sizes: pieces of {len(left)} and {len(right)} bytes")
        return total.fresh().add(left, right)

    for tally in mapped(compared, zip(pieces_a, pieces_b, strict=True)):
        total.merge(tally)
    return total.result()


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

    def fresh(self) -> _Tally:
        """One for the next pieces, which needn't look for a rounding that earlier ones rule out."""
        other = _Tally(self._a, self._b, self._common, self._tolerance)
        other._rounds = self._rounds
        return other

    def merge(self, other: _Tally) -> None:
        """Add what was found in other pieces."""
        self._equal &= other._equal
        self._rounds = [target for target in self._rounds if target in other._rounds]
        self._changed += other._changed
        self._beyond += other._beyond
        self._nans += other._nans
        self._infinities += other._infinities
        self._max_abs = max(self._max_abs, other._max_abs)
        self._max_rel = max(self._max_rel, other._max_rel)
        self._products = [mine + theirs for mine, theirs in zip(self._products, other._products, strict=True)]

    def add(self, left: Any, right: Any) -> _Tally:
        """Compare two pieces with the same elements; returns itself."""
        import numpy as np

        same = self._a == self._b and bytes(left) == bytes(right)
        self._equal &= same or self._a != self._b
        if self._common is None:
            self._equal &= same
            return self
        with np.errstate(all="ignore"):
            x = numbers(left, self._a, self._common)
            y = x if same else numbers(right, self._b, self._common)
            if self._a != self._b:
                self._rounds = self._still_round(left, right)
                if bool((x == y).all()) if x.dtype == object else x.tobytes() == y.tobytes():
                    y = x
                self._equal &= y is x
            if self._common in _EXACT:
                x, y = self._integers(x, y)
            for at in range(0, x.size, _BLOCK):
                part = x[at : at + _BLOCK]
                self._measure(part, part if y is x else y[at : at + _BLOCK])
        return self

    def _still_round(self, left: Any, right: Any) -> list[DType]:
        """The dtypes in which both sides are still bitwise equal."""
        sides = ((left, self._a, right, self._b), (right, self._b, left, self._a))
        return [
            target
            for data, source, other, target in sides
            if target in self._rounds and _raw(data, source).astype(_raw_type(target)).tobytes() == bytes(other)
        ]

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

        products = _products(x, y)
        own, other, _, change = products
        if not all(_SMALL < each < inf for each in ((own,) if y is x else (own, other, change))):
            wide = "c16" if np.iscomplexobj(x) else "f8"
            x, y = self._set_aside(x.astype(wide), y.astype(wide))
            products = _products(x, y)
        self._products = [total + more for total, more in zip(self._products, products, strict=True)]
        if y is x or (not products[3] and np.array_equal(x, y)):
            return
        gap = np.abs(y - x)
        sizes = np.maximum(np.abs(x), np.abs(y))
        parts = np.divide(gap, sizes, out=np.zeros_like(gap), where=sizes > 0)
        self._max_rel = max(self._max_rel, min(float(parts.max()), 2.0))
        if self._common in _EXACT:
            return
        self._max_abs = max(self._max_abs, float(gap.max()))
        self._changed += int(np.count_nonzero(gap))
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


def _products(x: Any, y: Any) -> list[float]:
    """Of A with itself, B with itself, A with B, and B - A with itself."""
    own = _product(x, x)
    if y is x:
        return [own, own, own, 0.0]
    gap = y - x
    return [own, _product(y, y), _product(x, y), _product(gap, gap)]


def _product(x: Any, y: Any) -> float:
    import numpy as np

    whole = x.size // _ROW * _ROW
    rows = np.matmul(x[:whole].conj().reshape(-1, 1, _ROW), y[:whole].reshape(-1, _ROW, 1))
    return float(rows.real.sum(dtype="f8")) + float(np.vdot(x[whole:], y[whole:]).real)


def _cosine(own: float, other: float, both: float) -> float | None:
    length = sqrt(own) * sqrt(other)
    if not length or not isfinite(length) or not isfinite(both):
        return None
    return max(-1.0, min(1.0, both / length))


def _may_round(source: DType, target: DType) -> bool:
    return source != target and {source, target} <= FLOATS and source.itemsize >= target.itemsize


def numbers(data: Any, dtype: DType, common: str) -> Any:
    """The elements as numpy's `common`."""
    raw = _raw(data, dtype)
    if dtype.name == "BOOL":
        raw = raw != 0
    if dtype.name == "C32":
        raw = raw.astype("f4").view("c8")
    return raw.astype(_ARITHMETIC[common], copy=False)


def _raw(data: Any, dtype: DType) -> Any:
    import numpy as np

    return np.frombuffer(data, dtype=_raw_type(dtype))


def _raw_type(dtype: DType) -> Any:
    """numpy's type of the elements: of a half complex one its halves, of a bool its byte."""
    import numpy as np

    if dtype.name == "BF16" or dtype.name in _FLOAT8:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, dtype.torch))
    return np.dtype({"BOOL": "u1", "C32": "<f2"}.get(dtype.name) or f"<{np.dtype(dtype.torch).str[1:]}")
