"""Floating dtypes changed chunk by chunk, rounding to nearest even, counting what overflows to infinity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ckptconv.dtypes import FLOATS, DType
from ckptconv.errors import Unsupported


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
    for chunk in chunks:
        values = np.frombuffer(chunk, dtype=old)
        with np.errstate(over="ignore", invalid="ignore"):
            result = values.astype(new)
        infinite = np.isinf(result)
        if infinite.any():
            overflow.count += int((infinite & np.isfinite(values)).sum())
        yield result.view(np.uint8).data


def _numpy(dtype: DType) -> Any:
    import numpy as np

    if dtype.name == "BF16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    if dtype not in FLOATS:
        raise Unsupported(
            f"{dtype} can't be cast or filled: expected one of {', '.join(sorted(d.name for d in FLOATS))}."
        )
    return np.dtype({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype.name])


def filled(value: float, count: int, dtype: DType) -> Iterator[bytes]:
    """`count` elements of a floating dtype, all `value`, in pieces of at most 1 MiB."""
    import numpy as np

    piece = np.full(min(count, (1 << 20) // dtype.itemsize), value, dtype=_numpy(dtype)).tobytes()
    left = count * dtype.itemsize
    while left:
        yield piece[:left]
        left -= min(left, len(piece))
