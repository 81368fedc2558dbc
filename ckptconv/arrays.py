"""Elements as numpy sees them, with ml_dtypes for the types that numpy lacks. Imports numpy where it is used."""

from __future__ import annotations

from functools import cache
from typing import Any

from ckptconv.dtypes import DType

_ROW = 1 << 10  # elements summed in their own type; so few that BLAS starts no threads, which cost more than they bring
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "C64": "<c8", "C128": "<c16", "BOOL": "?"}
_NUMPY |= {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"}


def element_type(dtype: DType) -> Any:
    """numpy's type of little-endian elements; None where there is none (half complex numbers, bits)."""
    import numpy as np

    if dtype.name in _NUMPY:
        return np.dtype(_NUMPY[dtype.name])
    if dtype.name != "BF16" and not dtype.name.startswith("F8"):
        return None
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, dtype.torch))


def converted(values: Any, target: Any) -> Any:
    """`values.astype(target, copy=False)`, with half floats looked up where they become wider: numpy computes
    them one at a time."""
    if values.dtype == "<f2" and target.itemsize > 2:
        return _halves(target).take(values.view("<u2"), mode="wrap")
    return values.astype(target, copy=False)


@cache
def _halves(target: Any) -> Any:
    """All 65,536 half floats, by their bits, in a wider type."""
    import numpy as np

    return np.arange(1 << 16, dtype="<u2").view("<f2").astype(target)


def total(values: Any) -> float:
    """The sum of floating numbers: of rows of 1,024 in their own type, by BLAS, and of those in float64."""
    import numpy as np

    whole = values.size // _ROW * _ROW
    rows = np.matmul(values[:whole].reshape(-1, 1, _ROW), np.ones((_ROW, 1), values.dtype))
    return float(rows.sum(dtype="f8")) + float(values[whole:].sum(dtype="f8"))


def inner(x: Any, y: Any) -> float:
    """The inner product of floating numbers (of complex ones its real part), summed up as `total` does."""
    import numpy as np

    whole = x.size // _ROW * _ROW
    rows = np.matmul(x[:whole].conj().reshape(-1, 1, _ROW), y[:whole].reshape(-1, _ROW, 1))
    return float(rows.real.sum(dtype="f8")) + float(np.vdot(x[whole:], y[whole:]).real)
