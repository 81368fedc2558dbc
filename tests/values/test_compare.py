"""compare() against torch: every dtype, strided files, chunks cut anywhere, NaN, infinities and large integers."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptconv.containers.open import open_checkpoint
from ckptconv.containers.read import Reader
from ckptconv.dtypes import BY_NAME, BY_TORCH
from ckptconv.values import compare as module
from ckptconv.values import elements
from ckptconv.values.compare import Comparison, Tolerance, common_type, compare, comparisons
from ckptconv.values.elements import Elements, elements_of

FLOATS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"]
FLOATS += ["float8_e5m2fnuz"]
WEIGHTS = ["float32", "float16", "bfloat16", "float64"]
INTEGERS = ["int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64"]
COMPLEX = ["complex64", "complex128"]


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().flatten().clone(memory_format=torch.contiguous_format).view(torch.uint8).tolist())


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(at, len(data)) for at in cuts), len(data)]
    return [data[start:stop] for start, stop in pairwise(places)]


def run(a: torch.Tensor, b: torch.Tensor, tolerance: Tolerance | None = None, cuts: list[int] = []) -> Comparison:  # noqa: B006
    dtypes = [BY_TORCH[str(tensor.dtype).removeprefix("torch.")] for tensor in (a, b)]
    return compare(cut(raw(a), cuts), dtypes[0], cut(raw(b), cuts[::2]), dtypes[1], tolerance)


def filled(dtype: str, data: bytes) -> torch.Tensor:
    """A tensor of these bytes, whatever they mean."""
    size = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    whole = bytearray(data[: len(data) // size * size])
    return (
        torch.frombuffer(whole, dtype=getattr(torch, dtype)) if whole else torch.empty(0, dtype=getattr(torch, dtype))
    )


@st.composite
def pairs(draw: st.DrawFn, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor of any bytes, and one that differs from it in a few places."""
    dtype = draw(st.sampled_from(names))
    a = filled(dtype, draw(st.binary(min_size=8, max_size=400)))
    b = a.clone()
    other = filled(dtype, draw(st.binary(min_size=16, max_size=64)))
    if a.numel() and other.numel():
        places = draw(st.lists(st.integers(0, a.numel() - 1), max_size=5))
        for number, place in enumerate(places):
            b[place] = other[number % other.numel()]
    return a, b


CUTS = st.lists(st.integers(0, 400), max_size=6)
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def finite(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.isfinite(a) & torch.isfinite(b)
    return a[both], b[both]


@SLOW
@given(pairs(FLOATS), CUTS)
def test_floats_are_compared_as_torch_compares_them(pair: tuple[torch.Tensor, torch.Tensor], cuts: list[int]):
    a, b = pair
    found = run(a, b, cuts=cuts)
    assert (found.status == "equal") == (raw(a) == raw(b))
    a, b = a.double(), b.double()
    nans = (a.isnan() != b.isnan()).sum()
    odd = (a != b) & ~(a.isnan() | b.isnan()) & (a.isinf() | b.isinf())
    assert (found.nan_mismatches, found.inf_mismatches) == (nans, odd.sum())
    assert found.changed == ((a != b) & ~(a.isnan() & b.isnan())).sum()
    x, y = finite(a, b)
    gap = (x - y).abs()
    assert found.max_abs == pytest.approx(float(gap.max()) if gap.numel() else 0.0, rel=1e-6)
    sizes = torch.maximum(x.abs(), y.abs())
    parts = (gap[sizes > 0] / sizes[sizes > 0]).clamp(max=2)
    assert found.max_rel == pytest.approx(float(parts.max()) if parts.numel() else 0.0, rel=1e-5)
    if sizes.numel() and sizes.max() < 1e150:  # whose squares float64 holds, as it does those beyond 1e-150
        assert found.norm == pytest.approx(float(x.norm()), rel=1e-5, abs=1e-150)
        assert found.distance == pytest.approx(float((y - x).norm()), rel=1e-5, abs=1e-150)
        if x.norm() > 1e-140 and y.norm() > 1e-140:
            assert found.cosine == pytest.approx(float((x @ y) / (x.norm() * y.norm())), abs=1e-5)


@SLOW
@given(pairs(FLOATS), st.sampled_from([0.0, 1e-6, 1e-3, 0.5]), st.sampled_from([0.0, 1e-6, 1e-2, 1.0]))
def test_close_is_what_torch_calls_close(pair: tuple[torch.Tensor, torch.Tensor], atol: float, rtol: float):
    a, b = pair
    found = run(a, b, Tolerance(atol, rtol))
    close = bool(torch.isclose(a.double(), b.double(), rtol=rtol, atol=atol, equal_nan=True).all())
    assert found.status == ("equal" if raw(a) == raw(b) else "close" if close else "differ")
    assert run(a, b).status == ("equal" if raw(a) == raw(b) else "differ")


@SLOW
@given(pairs([*INTEGERS, "bool"]), CUTS)
def test_integers_are_compared_exactly(pair: tuple[torch.Tensor, torch.Tensor], cuts: list[int]):
    a, b = (tensor.to(torch.uint8).ne(0) if tensor.dtype == torch.bool else tensor for tensor in pair)
    gaps = [abs(int(x) - int(y)) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    found = run(a, b, Tolerance(atol=1e30), cuts)
    assert found.max_abs == max(gaps, default=0)
    assert found.changed == sum(map(bool, gaps))
    assert found.status == ("differ" if any(gaps) else "equal")


@SLOW
@given(pairs(COMPLEX), CUTS)
def test_complex_numbers(pair: tuple[torch.Tensor, torch.Tensor], cuts: list[int]):
    a, b = pair
    found = run(a, b, cuts=cuts)
    assert (found.status == "equal") == (raw(a) == raw(b))
    x, y = finite(a.to(torch.complex128), b.to(torch.complex128))
    gap = (x - y).abs()
    if not gap.numel() or gap.max() < 1e150:
        assert found.max_abs == pytest.approx(float(gap.max()) if gap.numel() else 0.0, rel=1e-5)


@SLOW
@given(pairs(WEIGHTS), st.sampled_from(WEIGHTS))
def test_other_dtypes_are_compared_in_the_wider_one(pair: tuple[torch.Tensor, torch.Tensor], to: str):
    a, b = pair[0], pair[1].to(getattr(torch, to))
    found = run(a, b)
    x, y = a.double(), b.double()
    same = bool(((x == y) & (x.signbit() == y.signbit())).all())  # no NaN
    if same:
        assert found.status == "equal"
    if found.status == "equal":
        assert bool(((x == y) | (x.isnan() & y.isnan())).all())
    if a.dtype != b.dtype:
        assert found.compared_as == ("F64" if "float64" in (to, str(a.dtype)[6:]) else "F32")
    else:
        assert found.compared_as is None


@pytest.mark.parametrize(("wide", "narrow"), [("float32", "bfloat16"), ("float32", "float16"), ("float64", "float32")])
@pytest.mark.parametrize("turned", [False, True])
def test_what_was_only_rounded_is_recognised(wide: str, narrow: str, turned: bool):
    a = torch.randn(5000, dtype=torch.float64).to(getattr(torch, wide))
    b = a.to(getattr(torch, narrow))
    found = run(b, a) if turned else run(a, b)
    assert (found.status, found.rounded_to) == ("differ", BY_TORCH[narrow].name)
    b[4999] = 7
    found = run(b, a) if turned else run(a, b)
    assert found.rounded_to is None
    exact = b.to(getattr(torch, wide))
    assert (run(exact, b).status, run(exact, b).rounded_to) == ("equal", None)


def test_integers_beyond_what_floats_hold():
    a, b = torch.tensor([2**60, -(2**63)]), torch.tensor([2**60 + 1, 2**63 - 1])
    found = run(a, b)
    assert (found.status, found.changed, found.max_abs) == ("differ", 2, 2**64 - 1)
    assert run(a.to(torch.int64), a.to(torch.int64)).status == "equal"
    unsigned = torch.tensor([2**64 - 1, 5], dtype=torch.uint64)
    found = run(unsigned, torch.tensor([-1, 5]))
    assert (found.status, found.changed, found.max_abs, found.compared_as) == ("differ", 1, 2**64, "integers")
    assert run(torch.tensor([3, 200], dtype=torch.uint8), torch.tensor([3, 200])).status == "equal"


def test_bits_that_no_number_shows():
    zeros, minus = torch.zeros(3), -torch.zeros(3)
    assert (run(zeros, minus).status, run(zeros, minus).changed) == ("differ", 0)
    assert run(zeros, minus, Tolerance()).status == "close"
    nan = torch.tensor([float("nan"), 1.0])
    assert run(nan, nan.clone()).status == "equal"
    quiet = torch.tensor([0x7FC00001, 0x3F800000], dtype=torch.int32).view(torch.float32)
    assert (run(nan, quiet).status, run(nan, quiet).nan_mismatches) == ("differ", 0)
    assert run(nan, quiet, Tolerance()).status == "close"


def test_zeros_and_overflow_have_no_ratio():
    found = run(torch.zeros(4), torch.ones(4))
    assert (found.relative, found.cosine, found.max_rel) == (None, None, 1.0)
    assert (run(torch.zeros(4), torch.zeros(4)).relative, run(torch.zeros(4), torch.zeros(4)).cosine) == (0.0, 1.0)
    huge = torch.tensor([1.7e308, -1.7e308], dtype=torch.float64)
    found = run(huge, -huge)
    assert (found.max_rel, found.cosine, found.relative) == (2.0, None, None)
    large = torch.tensor([3e38, 1.0])  # squares beyond float32
    found = run(large, -large)
    assert found.cosine == pytest.approx(-1.0)
    assert found.max_abs == pytest.approx(6e38, rel=1e-6)
    assert found.relative == pytest.approx(2.0)


def test_dtypes_without_numbers_are_compared_by_their_bytes():
    bits = BY_NAME["BITS8"]
    assert compare([b"ab"], bits, [b"a", b"b"], bits).status == "equal"
    found = compare([b"ab"], bits, [b"ac"], bits)
    assert (found.status, found.max_abs, found.changed) == ("differ", None, None)
    assert compare([b"ab"], bits, [b"ab"], BY_NAME["U8"]).status == "differ"


def test_different_sizes_are_a_mistake_of_the_caller():
    for right in ([b"\0" * 8], [b"\0" * 4, b"\0" * (1 << 20)], []):
        with pytest.raises(ValueError, match=r"zip|sizes"):
            compare([b"\0" * 4], BY_NAME["F32"], right, BY_NAME["F32"])


@pytest.mark.parametrize("dtype", [*FLOATS[:4], "int8", "int64"])
@pytest.mark.parametrize("count", [1 << 18, (1 << 18) + 1, 700_001])
def test_tensors_of_many_pieces(dtype: str, count: int):
    """Only the last element differs; sums over all pieces are torch's."""
    torch.manual_seed(0)
    a = (torch.randn(count) * 20).to(getattr(torch, dtype))
    b = a.clone()
    b[-1] += 3
    found = run(a, b)
    x, y = a.double(), b.double()
    assert (found.changed, found.max_abs) == (1, pytest.approx(float((x - y).abs().max())))
    assert found.norm == pytest.approx(float(x.norm()), rel=1e-6)
    assert found.distance == pytest.approx(float((x - y).norm()), rel=1e-6)


def test_a_nan_among_millions_does_not_spoil_the_rest():
    a = torch.randn(600_000)
    b = a + 1e-3
    b[123_456] = float("nan")
    found = run(a, b)
    kept = torch.arange(600_000) != 123_456
    assert (found.nan_mismatches, found.changed) == (1, 600_000)
    assert found.distance == pytest.approx(float((a - b)[kept].double().norm()), rel=1e-6)
    assert math.isfinite(found.cosine)


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    """A view with any strides into a storage of its own."""
    shape = draw(st.lists(st.integers(1, 5), min_size=0, max_size=3))
    strides = draw(st.lists(st.integers(0, 7), min_size=len(shape), max_size=len(shape)))
    offset = draw(st.integers(0, 3))
    dtype = getattr(torch, draw(st.sampled_from(["float32", "float16", "bfloat16", "float64", "int64", "bool"])))
    need = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    return (torch.randn(need) * 3).to(dtype).as_strided(shape, strides, offset)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(views(), st.booleans())
def test_strided_tensors_from_real_files(tmp_path: Path, view: torch.Tensor, change: bool):
    other = view.clone(memory_format=torch.contiguous_format)
    if change and view.dtype != torch.bool:
        other.view(-1)[-1] += 1
    torch.save({"x": view}, tmp_path / "a.pt")
    torch.save({"x": other.t() if other.dim() == 2 else other}, tmp_path / "b.pt")
    opened = open_checkpoint(tmp_path / "a.pt"), open_checkpoint(tmp_path / "b.pt")
    left, right = (each.entries[""]["x"] for each in opened)
    with Reader(opened[0]) as a, Reader(opened[1]) as b:
        if other.dim() == 2:
            other, view = other.t(), view.t()
            left = type(left)(left.dtype, left.shape[::-1], left.strides[::-1], left.offset, left.storage)
        found = compare(a.chunks(left), left.dtype, b.chunks(right), right.dtype)
    gap = (view.double() - other.double()).abs().max()
    assert found.max_abs == pytest.approx(float(gap), rel=1e-6)
    assert (found.status == "equal") == (raw(view) == raw(other))


@pytest.mark.parametrize("place", [0, 300_000, 699_999])
@pytest.mark.parametrize("other", ["float32", "bfloat16"])
def test_one_change_in_one_of_many_pieces(place: int, other: str):
    """Wherever it is, of the same dtype and of another that holds the same numbers."""
    b = torch.randn(700_000).bfloat16()
    a = b.clone().to(getattr(torch, other))
    assert run(a, b).status == "equal"
    a[place] += 100
    assert (run(a, b).status, run(a, b).changed, run(b, a).status) == ("differ", 1, "differ")


def test_relative_changes_of_complex_numbers():
    torch.manual_seed(0)
    a, b = (torch.randn(1000, dtype=torch.complex64) for _ in range(2))
    expected = ((a - b).abs() / torch.maximum(a.abs(), b.abs())).max()
    assert run(a, b).max_rel == pytest.approx(float(expected), rel=1e-5)
    turned = run(torch.tensor([1 + 0j]), torch.tensor([1j]))
    assert (turned.max_abs, turned.max_rel) == (pytest.approx(2**0.5), pytest.approx(2**0.5))


@pytest.mark.parametrize("other", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("turned", [False, True])
def test_many_tensors_at_once_are_compared_as_each_alone(
    other: str, turned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In runs of elements, by two threads; with a tensor among them that one side must gather."""
    monkeypatch.setattr(elements, "RUN", 1000)
    torch.manual_seed(0)
    a = {f"{size}": torch.randn(size) for size in (0, 1, 999, 1000, 1001, 5000, 700_000)}
    a["square"] = torch.randn(90, 90)
    b = {key: (tensor + 1e-3 * (len(key) % 2)).to(getattr(torch, other)) for key, tensor in a.items()}
    b["square"] = b["square"].t().contiguous().t()
    b["5000"][4321], b["5000"][123] = float("nan"), float("inf")
    torch.save(a, tmp_path / "a.pt")
    torch.save(b, tmp_path / "b.pt")
    opened = [open_checkpoint(tmp_path / name) for name in ("a.pt", "b.pt")]
    told: list[int] = []
    with Reader(*opened) as reader:

        def both(key: str) -> tuple[Elements, Elements]:
            pair = [elements_of(each.entries[""][key], reader) for each in opened]
            return (pair[1], pair[0]) if turned else (pair[0], pair[1])

        assert [len(side.runs) for side in both("5000")] == [5, 5]
        found = dict(zip(a, comparisons(map(both, a), Tolerance(1e-6), told.append), strict=True))
    for key, comparison in found.items():
        alone = run(b[key], a[key], Tolerance(1e-6)) if turned else run(a[key], b[key], Tolerance(1e-6))
        assert comparison.status == alone.status
        assert comparison.rounded_to == alone.rounded_to
        assert (comparison.changed, comparison.max_abs) == (alone.changed, alone.max_abs)
        assert (comparison.nan_mismatches, comparison.max_rel) == (alone.nan_mismatches, pytest.approx(alone.max_rel))
        assert comparison.distance == pytest.approx(alone.distance, rel=1e-6)
    assert (found["5000"].nan_mismatches, found["5000"].inf_mismatches) == (1, 1)
    assert sum(told) == sum(tensor.nbytes + b[key].nbytes for key, tensor in a.items())


def test_tensors_that_hold_nothing_else_than_one_bit(tmp_path: Path):
    """Anywhere in a piece, where the bytes before and after it are equal."""
    a = torch.zeros(1 << 17)
    for place in (0, 255, 256, (1 << 17) - 1):
        b = a.clone()
        b[place] = -0.0
        assert (run(a, b).status, run(a, b).changed) == ("differ", 0)


def test_every_pair_of_dtypes_has_a_common_type_or_is_compared_by_bytes():
    for a in BY_NAME.values():
        for b in BY_NAME.values():
            zeros = [[b"\0" * dtype.itemsize * 3] for dtype in (a, b)]
            found = compare(zeros[0], a, zeros[1], b)
            known = common_type(a, b) is not None
            # Zero bytes are 0 in every dtype but E8M0, which has none.
            alike = a == b or (known and "F8_E8M0" not in (a.name, b.name))
            assert (found.status == "equal") == alike, (a, b)
            assert known == (found.changed is not None)


def test_numpy_is_not_imported_before_something_is_compared():
    assert "numpy" not in vars(module)
