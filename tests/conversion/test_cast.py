"""Adding a row to rows that come in pieces, against torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptconv.conversion.cast import Overflow, add, cast
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


EDGES = [0.0, -0.0, 1e-8, 6e-8, 65504.0, 65519.99, 65520.0, 3.39e38, 3.4e38, 1e300, float("inf"), float("nan")]


@pytest.mark.parametrize("target", TORCH)
@pytest.mark.parametrize("source", TORCH)
@settings(deadline=None)
@given(signs=st.sampled_from([(1.0,), (-1.0,), (1.0, -1.0)]), chosen=st.sets(st.sampled_from(EDGES), min_size=1))
def test_casts_and_their_overflows_are_torchs(source: str, target: str, signs: tuple[float, ...], chosen: set[float]):
    """In every piece, of one sign or both, with and without NaN."""
    values = torch.tensor([sign * value for value in chosen for sign in signs], dtype=torch.float64).to(TORCH[source])
    overflow, pieces = Overflow(), [raw(values), raw(torch.ones(3, dtype=TORCH[source])), raw(values)]
    found = b"".join(map(bytes, cast(pieces, BY_NAME[source], BY_NAME[target], overflow)))
    expected = torch.cat([values, torch.ones(3, dtype=TORCH[source]), values]).to(TORCH[target])
    data = torch.frombuffer(bytearray(found), dtype=TORCH[target])
    torch.testing.assert_close(data, expected, rtol=0, atol=0, equal_nan=True)
    assert overflow.count == 2 * int((torch.isinf(values.to(TORCH[target])) & torch.isfinite(values)).sum())
