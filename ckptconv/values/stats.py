"""Statistics of a tensor's values, in one pass over its bytes and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from math import hypot, isfinite, ldexp, sqrt
from typing import Any, NamedTuple

from ckptconv.arrays import converted, element_type, inner, total
from ckptconv.containers.read import Run
from ckptconv.dtypes import DType
from ckptconv.parallel import grouped
from ckptconv.values.elements import Elements

Bytes = bytes | bytearray | memoryview
_Array = Any

_BLOCK = 1 << 20  # bytes looked at together: enough for numpy, little enough for the cache
# So many float32 numbers are summed in float32 first: the errors of the runs cancel each other out.
_MANY = 1 << 16
# But not where the largest is smaller than this, and its square lost, or the mean is large beside the deviation.
_TINY, _WIDE = 1e-12, 2.0
_PARTS = {"C32": "<f2", "C64": "<f4", "C128": "<f8"}
# Powers of two whose squares, summed up, float64 holds without overflow or loss.
_MODEST = 400
# A variance so small beside the squared mean is measured once more, around the mean.
_NARROW = 1e-3


@dataclass(frozen=True)
class Stats:
    """What is in a tensor of `count` elements.

    min, max, mean, std: of the finite values, in float64 (integers' min and max exactly); None where there are none.
    Of many float32, float16 or bfloat16 numbers, mean and std may be off by 1e-7 of std. std is that of the population
    (divided by the number, not by one less). zeros, nan, inf: how many elements are 0
    (or -0), NaN and ±Inf; a complex number is NaN or Inf where a part of it is.
    unsupported: why min, max, mean and std are None although there are values; else "".
    """

    count: int
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    zeros: int
    nan: int
    inf: int
    unsupported: str = ""


class _Part(NamedTuple):
    """Statistics of some elements; low, high, mean and std are those of the `finite` ones."""

    elements: int = 0
    zeros: int = 0
    nan: int = 0
    inf: int = 0
    finite: int = 0
    low: float = 0
    high: float = 0
    mean: float = 0.0
    std: float = 0.0


_Measure = Callable[[memoryview], _Part]


def stats(chunks: Iterable[Bytes], dtype: DType) -> Stats:
    """The statistics of the elements in `chunks`: pieces of any size, each of whole little-endian elements of `dtype`.

    Never raises for a dtype: where its values have no order (complex numbers) or are no numbers (bits), they are only
    counted, and `unsupported` says so.
    """
    return _stats(_part(chunks, dtype), dtype)


def statistics(tensors: Iterable[Elements], progress: Callable[[int], None] = lambda count: None) -> Iterator[Stats]:
    """`stats` of each tensor, on both cores. progress(bytes that were looked at) for each run."""

    def part(job: tuple[DType, Run]) -> tuple[DType, _Part]:
        dtype, run = job
        return dtype, _part(run.chunks(), dtype)

    jobs = ([(tensor.dtype, run) for run in tensor.runs] for tensor in tensors)
    for found in grouped(part, jobs, lambda job: job[1].nbytes, progress):
        yield _stats(reduce(_merged, (each for _, each in found)), found[0][0])


def _part(chunks: Iterable[Bytes], dtype: DType) -> _Part:
    return reduce(_merged, map(_measure(dtype), _blocks(chunks)), _Part())


def _stats(part: _Part, dtype: DType) -> Stats:
    counts = (part.zeros, part.nan, part.inf)
    if not part.finite:
        return Stats(part.elements, None, None, None, None, *counts, _unsupported(dtype) if part.elements else "")
    # + 0 makes a negative zero positive
    return Stats(part.elements, part.low + 0, part.high + 0, part.mean + 0, part.std, *counts)


def _measure(dtype: DType) -> _Measure:
    """The function for blocks of that dtype."""
    if dtype.name in _PARTS:
        return lambda block: _complex(block, _PARTS[dtype.name])
    known = element_type(dtype)
    if known is None:
        return lambda block: _bits(block, dtype.itemsize)
    return _Bytes(known) if dtype.itemsize == 1 else _Numbers(known)


def _unsupported(dtype: DType) -> str:
    """Why elements of that dtype have only counts; else ""."""
    if dtype.name in _PARTS:
        return "complex numbers have no order"
    return f"{dtype} values are no numbers" if element_type(dtype) is None else ""


def _blocks(chunks: Iterable[Bytes]) -> Iterator[memoryview]:
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        for start in range(0, len(view), _BLOCK):
            yield view[start : start + _BLOCK]


def _merged(a: _Part, b: _Part) -> _Part:
    """Both together: means and deviations as in Chan, Golub and LeVeque (1979), in a form that can't overflow."""
    part = (a if a.finite else b)._replace(
        elements=a.elements + b.elements, zeros=a.zeros + b.zeros, nan=a.nan + b.nan, inf=a.inf + b.inf
    )
    if not (a.finite and b.finite):
        return part
    finite = a.finite + b.finite
    mine, yours = a.finite / finite, b.finite / finite
    half = b.mean / 2 - a.mean / 2
    return part._replace(
        finite=finite,
        low=min(a.low, b.low),
        high=max(a.high, b.high),
        mean=a.mean + 2 * (half * yours),
        std=hypot(a.std * sqrt(mine), b.std * sqrt(yours), 2 * (half * sqrt(mine * yours))),
    )


class _Numbers:
    """Measures one block of numbers after the other in the same memory: fresh memory costs more than the arithmetic."""

    def __init__(self, known: Any) -> None:
        import numpy as np

        self._type = known
        self._wide = np.empty(0, "f8")
        self._flags = np.empty(0, "?")

    def __call__(self, block: memoryview) -> _Part:
        import numpy as np

        with np.errstate(all="ignore"):  # NaN and Inf are what is looked for
            return self._part(np.frombuffer(block, self._type))

    def _part(self, values: _Array) -> _Part:
        import numpy as np

        if values.size > self._flags.size:
            self._flags = np.empty(values.size, "?")
        flags = self._flags[: values.size]
        if values.itemsize == 2 and values.dtype.kind not in "iu":
            values = converted(values, np.dtype("f4"))  # numpy is slow with half floats
        zeros = int(np.count_nonzero(np.equal(values, 0, out=flags)))
        low, high = values.min().item(), values.max().item()  # NaN where there is any
        nan = inf = 0
        if not (isfinite(low) and isfinite(high)):
            nan = int(np.count_nonzero(np.isnan(values, out=flags)))
            finite = values[np.isfinite(values, out=flags)]
            inf = values.size - finite.size - nan
            low, high = (finite.min().item(), finite.max().item()) if finite.size else (0.0, 0.0)
            return _Part(values.size, zeros, nan, inf, finite.size, low, high, *self._spread(finite, low, high))
        return _Part(values.size, zeros, 0, 0, values.size, low, high, *self._spread(values, low, high))

    def _spread(self, values: _Array, low: float, high: float) -> tuple[float, float]:
        """Mean and standard deviation of finite values."""
        import numpy as np

        if low == high:
            return float(low), 0.0
        if values.dtype == "f4" and values.size >= _MANY and max(-low, high) > _TINY:
            mean, square = total(values) / values.size, inner(values, values) / values.size
            if isfinite(square) and square > _WIDE * mean * mean:
                return mean, sqrt(square - mean * mean)
        if values.size > self._wide.size:
            self._wide = np.empty(values.size, "f8")
        wide = self._wide[: values.size]
        np.copyto(wide, values)
        return _moments(wide, low, high)


def _moments(wide: _Array, low: float, high: float) -> tuple[float, float]:
    """Mean and standard deviation of finite float64 values that aren't all the same, which are overwritten."""
    import numpy as np

    exponent = int(np.frexp(max(-low, high))[1])
    if abs(exponent) > _MODEST:
        np.ldexp(wide, -exponent, out=wide)
    else:
        exponent = 0
    mean = total(wide) / wide.size
    square = inner(wide, wide) / wide.size - mean * mean
    if square < _NARROW * mean * mean:
        wide -= mean
        rest = total(wide) / wide.size
        mean, square = mean + rest, inner(wide, wide) / wide.size - rest * rest
    return ldexp(mean, exponent), ldexp(sqrt(square), exponent)


class _Bytes:
    """Measures elements of one byte: there are only 256 values, which are counted."""

    def __init__(self, known: Any) -> None:
        import numpy as np

        self._exact = int if known.kind in "iub" else float
        self._values = np.arange(256, dtype="u1").view(known).astype("f8")

    def __call__(self, block: memoryview) -> _Part:
        import numpy as np

        counts, values = np.bincount(np.frombuffer(block, "u1"), minlength=256), self._values
        zeros, nan, inf = (int(counts[test].sum()) for test in (values == 0, np.isnan(values), np.isinf(values)))
        there = np.isfinite(values) & (counts > 0)
        values, counts = values[there], counts[there]
        finite = int(counts.sum())
        if not finite:
            return _Part(len(block), zeros, nan, inf)
        mean = float(np.dot(values, counts)) / finite
        std = sqrt(float(np.dot((values - mean) ** 2, counts)) / finite)
        low, high = self._exact(values.min()), self._exact(values.max())
        return _Part(len(block), zeros, nan, inf, finite, low, high, mean, std)


def _complex(block: memoryview, part: str) -> _Part:
    import numpy as np

    parts = np.frombuffer(block, part).reshape(-1, 2)
    zeros, nan, inf = (parts == 0).all(1), np.isnan(parts).any(1), np.isinf(parts).any(1)
    return _Part(len(parts), int(zeros.sum()), int(nan.sum()), int(inf.sum()))


def _bits(block: memoryview, itemsize: int) -> _Part:
    import numpy as np

    elements = np.frombuffer(block, "u1").reshape(-1, itemsize)
    return _Part(len(elements), int(np.count_nonzero(~elements.any(1))))
