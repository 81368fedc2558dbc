"""Adding a row to rows that come in pieces, against torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptconv.conversion.cast import add
from ckptconv.dtypes import BY_NAME

TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("row_dtype", TORCH)
@pytest.mark.parametrize("dtype", TORCH)
@given(rows=st.integers(1, 5), width=st.integers(1, 7), cut=st.integers(1, 9), seed=st.integers(0, 99))
def test_sums_are_torchs_wherever_the_pieces_end(
    dtype: str, row_dtype: str, rows: int, width: int, cut: int, seed: int
):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width, generator=generator, dtype=torch.float64).to(TORCH[dtype])
    row = torch.randn(width, generator=generator, dtype=torch.float64).to(TORCH[row_dtype])
    data, step = raw(values), cut * BY_NAME[dtype].itemsize
    pieces = [data[start : start + step] for start in range(0, len(data), step)]
    sums, wide = add(pieces, BY_NAME[dtype], raw(row), BY_NAME[row_dtype])
    expected = TORCH["F64" if "F64" in (dtype, row_dtype) else "F32"]
    assert TORCH[wide.name] == expected
    assert b"".join(map(bytes, sums)) == raw(values.to(expected) + row.to(expected))
