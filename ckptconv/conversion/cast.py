"""Floating dtypes changed chunk by chunk, rounding to nearest even, counting what overflows to infinity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ckptconv.arrays import converted, element_type
from ckptconv.dtypes import BY_NAME, FLOATS, DType
from ckptconv.errors import Unsupported
from ckptconv.parallel import mapped


@dataclass
class Overflow:
    """How many finite values became infinite so far."""

    count: int = 0


def cast(chunks: Iterable[Any], source: DType, target: DType, overflow: Overflow) -> Iterator[memoryview]:
    """The same numbers in another floating dtype. Chunks hold whole little-endian elements of `source`.

    Rounds to nearest, ties to even, as torch.Tensor.to does; `overflow` counts finite values that became infinite.
    """
    import numpy as np

    old, new = _numpy(source), _numpy(target)
    largest = _largest(target)
    holds_all = largest >= _largest(source)

    def rounded(chunk: Any) -> tuple[memoryview, int]:
        values = np.frombuffer(chunk, dtype=old)
        with np.errstate(over="ignore", invalid="ignore"):
            result = converted(values, new)
            fits = holds_all or (-largest <= values.min() and values.max() <= largest)  # not so with NaN either
        infinite = 0 if fits else int((np.isinf(result) & np.isfinite(values)).sum())
        return result.view(np.uint8).data, infinite

    for data, infinite in mapped(rounded, chunks):
        overflow.count += infinite
        yield data


def add(chunks: Iterable[Any], dtype: DType, row: bytes, row_dtype: DType) -> tuple[Iterator[Any], DType]:
    """(the chunks' numbers with `row` added to each of their rows, the dtype that they have now).

    Chunks hold whole little-endian elements, but needn't end where a row does. The sums are float32 (float64 where
    either side is): rounded once more only if the caller casts them back.
    """
    import numpy as np

    wide = BY_NAME["F64" if "F64" in (dtype.name, row_dtype.name) else "F32"]
    added = converted(np.frombuffer(row, dtype=_numpy(row_dtype)), _numpy(wide))

    def sums() -> Iterator[memoryview]:
        at = 0
        for chunk in chunks:
            values = converted(np.frombuffer(chunk, dtype=_numpy(dtype)), _numpy(wide))
            values = values + np.resize(np.roll(added, -at), values.size)
            at = (at + values.size) % added.size
            yield values.view(np.uint8).data

    return sums(), wide


def _largest(dtype: DType) -> float:
    """The largest finite number of a floating dtype."""
    import ml_dtypes

    return float(ml_dtypes.finfo(_numpy(dtype)).max)


def _numpy(dtype: DType) -> Any:
    """numpy's type. Raises Unsupported for others than floats."""
    if dtype not in FLOATS:
        raise Unsupported(
            f"{dtype} can't be cast or filled: expected one of {', '.join(sorted(d.name for d in FLOATS))}."
        )
    return element_type(dtype)


def filled(value: float, count: int, dtype: DType) -> Iterator[bytes]:
    """`count` elements of a floating dtype, all `value`, in pieces of at most 1 MiB."""
    import numpy as np

    piece = np.full(min(count, (1 << 20) // dtype.itemsize), value, dtype=_numpy(dtype)).tobytes()
    left = count * dtype.itemsize
    while left:
        yield piece[:left]
        left -= min(left, len(piece))
