"""stats: against torch in float64, on real tensors and on those that break simpler arithmetic."""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptconv.containers.open import open_checkpoint
from ckptconv.containers.read import Reader
from ckptconv.dtypes import BY_NAME, BY_TORCH, DType
from ckptconv.values import elements
from ckptconv.values.elements import elements_of
from ckptconv.values.stats import Stats, statistics, stats

ROOT = Path(__file__).resolve().parents[2]
REAL = [
    ROOT / "examples" / "deltalm-numbers" / "pretrained.pt",
    ROOT / "tests" / "golden" / "hf_xlmr_mlm_transformers-4.30.2.bin",
    ROOT / "tests" / "golden" / "xlm_align_tiny.pt",
]
ALL = [dtype for dtype in BY_NAME.values() if hasattr(torch, dtype.torch)]
NUMBERS = [dtype for dtype in ALL if not dtype.name.startswith(("C", "BITS", "F4"))]
INF = float("inf")
NAN = float("nan")
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def data(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor, as a checkpoint has them."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def dtype_of(tensor: torch.Tensor) -> DType:
    return BY_TORCH[str(tensor.dtype).removeprefix("torch.")]


def measured(tensor: torch.Tensor, piece: int = 1 << 20) -> Stats:
    dtype, whole = dtype_of(tensor), data(tensor)
    step = max(1, piece // dtype.itemsize) * dtype.itemsize
    return stats((whole[at : at + step] for at in range(0, len(whole), step)), dtype)


def agrees(found: Stats, tensor: torch.Tensor, rtol: float = 1e-12) -> None:
    """Compare with torch, in float64: counts exactly, mean and std as close as float64 sums are."""
    wide = tensor.reshape(-1).to(torch.float64)
    finite = wide[torch.isfinite(wide)]
    assert found.count == tensor.numel()
    assert (found.zeros, found.nan, found.inf) == (
        int((wide == 0).sum()),
        int(torch.isnan(wide).sum()),
        int(torch.isinf(wide).sum()),
    )
    assert found.unsupported == ""
    if not finite.numel():
        assert (found.min, found.max, found.mean, found.std) == (None, None, None, None)
        return
    assert (float(found.min), float(found.max)) == (finite.min().item(), finite.max().item())
    scale = finite.abs().max().item()
    assert math.isclose(found.mean, finite.mean().item(), rel_tol=rtol, abs_tol=rtol * scale)
    assert math.isclose(found.std, finite.std(correction=0).item(), rel_tol=1e-9, abs_tol=rtol * scale)


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_checkpoints(path: Path):
    checkpoint = open_checkpoint(path)
    loaded = torch.load(path, weights_only=False)
    entry = next(iter(checkpoint.entries))
    loaded = loaded[entry] if entry else loaded
    with Reader(checkpoint) as reader:
        for key, tensor in checkpoint.entries[entry].items():
            agrees(stats(reader.chunks(tensor), tensor.dtype), loaded[key])
    assert len(loaded) > 30


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_every_dtype(dtype: DType):
    """Any bytes are values of every dtype, among them NaN, Inf and subnormals."""
    raw = torch.randint(0, 256, (dtype.itemsize * 3000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    raw = raw % 2 if dtype.name == "BOOL" else raw
    tensor = raw.view(getattr(torch, dtype.torch))
    if dtype.name == "F64":  # torch's sum of squares overflows; see below for the extremes
        tensor = torch.cat([torch.randn(3000, dtype=torch.float64), torch.tensor([INF, -INF, NAN, 0.0, -0.0])])
    agrees(measured(tensor, 1000), tensor)
    agrees(measured(tensor), tensor)


@pytest.mark.parametrize("name", [dtype.name for dtype in NUMBERS if dtype.itemsize == 1])
def test_every_value_of_one_byte(name: str):
    dtype = BY_NAME[name]
    every = torch.arange(2 if name == "BOOL" else 256, dtype=torch.uint8).view(getattr(torch, dtype.torch))
    agrees(measured(every), every)


def floats(*values: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


ADVERSARIAL = {
    "empty": torch.empty(0),
    "one value": floats(-3.5),
    "negative zeros": torch.zeros(5).neg(),
    "all NaN": torch.full((300_000,), NAN),
    "NaN with its sign set": floats(1, 2).view(torch.int32).new_tensor([-1, 0x3F800000]).view(torch.float32),
    "plus and minus Inf": floats(INF, -INF, 1.0, 2.0),
    "nothing but Inf": floats(INF, INF),
    "one NaN far behind": torch.cat([torch.ones(700_000), floats(NAN), torch.ones(3)]),
    "a huge offset": torch.randn(400_000) + 3e6,
    "a huge offset in float64": torch.randn(400_000, dtype=torch.float64) + 1e12,
    "one outlier": torch.cat([floats(1e20), torch.randn(300_000)]),
    "subnormals": torch.randn(1000) * 1e-42,
    "largest and smallest": floats(3.4e38, -3.4e38, 1e-45, 0.0),
    "subnormal halves": (torch.randn(5000) * 1e-6).half(),
    "largest halves": floats(65504, -65504, dtype=torch.float16),
    "BF16 in 3e38": floats(3e38, 3.1e38, -3e38, dtype=torch.bfloat16),
    "constant": torch.full((1_000_003,), 0.1),
    "constant in float64": torch.full((1_000_003,), 0.1, dtype=torch.float64),
    "long integers": torch.tensor([2**53 + 1, -(2**63), 2**63 - 1, 0]),
    "position ids": torch.arange(514)[None],
    "unsigned": torch.tensor([2**64 - 1, 0, 3], dtype=torch.uint64),
    "flags": torch.tensor([True, False, True, True]),
    "a scalar": torch.tensor(7),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial(name: str):
    torch.manual_seed(0)
    agrees(measured(ADVERSARIAL[name]), ADVERSARIAL[name])
    agrees(measured(ADVERSARIAL[name], 4096), ADVERSARIAL[name])


def test_integers_are_exact_and_zero_has_no_sign():
    found = measured(ADVERSARIAL["long integers"])
    assert (found.min, found.max) == (-(2**63), 2**63 - 1)
    assert isinstance(found.min, int)
    assert str(measured(torch.zeros(5).neg()).min) == "0.0"


@pytest.mark.parametrize("value", [0.1, 1e300, -5e-324, 3])
def test_a_constant_has_no_spread_in_any_number_of_chunks(value: float):
    found = measured(torch.full((50_001,), value, dtype=torch.float64), 8192)
    assert (found.min, found.max, found.mean, found.std) == (value, value, value, 0.0)


@pytest.mark.parametrize("exponent", [-1060, -700, 700, 1020])
@pytest.mark.parametrize("piece", [1 << 20, 4096])
def test_float64_whose_squares_leave_its_range(exponent: int, piece: int):
    modest = torch.tensor(np.random.default_rng(0).standard_normal(3000))
    expected = measured(modest, piece)
    found = measured(torch.ldexp(modest, torch.tensor(exponent // 2)) * 2.0 ** (exponent - exponent // 2), piece)
    least = math.ldexp(1.0, -1070)
    assert math.isclose(found.mean, math.ldexp(expected.mean, exponent), rel_tol=1e-9, abs_tol=least)
    assert math.isclose(found.std, math.ldexp(expected.std, exponent), rel_tol=1e-9, abs_tol=least)


def test_the_largest_floats_of_both_signs():
    most = sys.float_info.max
    whole = measured(floats(most, -most, most, -most, dtype=torch.float64))
    parts = measured(floats(most, -most, most, -most, dtype=torch.float64), 8)
    assert (whole.mean, whole.std) == (0.0, most)
    assert parts.mean == 0.0
    assert math.isclose(parts.std, most, rel_tol=1e-12)


VALUES = st.lists(st.floats(width=32) | st.sampled_from([0.0, -0.0, 1e-45, 3e38]), max_size=60)


@given(VALUES, st.lists(st.integers(0, 60), max_size=6), st.sampled_from([torch.float32, torch.float16, torch.float64]))
def test_the_cuts_between_chunks_do_not_matter(values: list[float], cuts: list[int], dtype: torch.dtype):
    tensor = torch.tensor(values, dtype=torch.float64).to(dtype)
    whole, size = data(tensor), dtype_of(tensor).itemsize
    bounds = sorted({0, len(values), *(min(cut, len(values)) for cut in cuts)})
    pieces = [whole[a * size : b * size] for a, b in pairwise(bounds)]
    agrees(stats(pieces, dtype_of(tensor)), tensor)
    agrees(stats([b"", *map(memoryview, pieces), bytearray()], dtype_of(tensor)), tensor)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50))
@settings(max_examples=50)
def test_integers(values: list[int]):
    found = stats([np.array(values, "<i8").tobytes()], BY_NAME["I64"])
    assert (found.min, found.max, found.zeros) == (min(values), max(values), values.count(0))
    assert math.isclose(found.mean, sum(values) / len(values), rel_tol=1e-12, abs_tol=1e-12 * max(map(abs, values)))


def test_many_chunks_lose_nothing():
    """Half a billion elements, 2 GB: every other chunk lies 1000 higher."""
    low = torch.randn(1 << 18, generator=torch.Generator().manual_seed(3))
    pair = [data(low), data(low + 1000)]
    both = torch.cat([low, low + 1000]).to(torch.float64)
    found = stats((pair[at % 2] for at in range(2000)), BY_NAME["F32"])
    assert found.count == 2000 << 18
    assert math.isclose(found.mean, both.mean().item(), rel_tol=1e-12)
    assert math.isclose(found.std, both.std(correction=0).item(), rel_tol=1e-9)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "F64", "I64", "U8", "F8_E4M3", "C64"])
def test_memory_is_bounded_however_large_a_chunk_is(name: str):
    whole = bytes(64 << 20)
    stats([whole[:1024]], BY_NAME[name])
    tracemalloc.start()
    found = stats([whole], BY_NAME[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.zeros == found.count == len(whole) // BY_NAME[name].itemsize
    assert peak < 24 << 20  # two pieces at a time


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.complex32])
def test_complex_numbers_are_counted(dtype: torch.dtype):
    parts = [[0, 0], [-0.0, 0], [1, 0], [0, 1], [NAN, 1], [1, INF], [NAN, INF], [3, 4]]
    half = {torch.complex64: torch.float32, torch.complex128: torch.float64, torch.complex32: torch.float16}[dtype]
    tensor = torch.view_as_complex(torch.tensor(parts, dtype=half))
    assert tensor.dtype == dtype
    found = measured(tensor)
    wide = tensor.to(torch.complex128)
    assert found == Stats(
        8,
        *(None, None, None, None),
        int((wide == 0).sum()),
        int(torch.isnan(wide).sum()),
        int(torch.isinf(wide).sum()),
        "complex numbers have no order",
    )


@pytest.mark.parametrize("name", ["BITS8", "BITS16", "F4_X2"])
def test_bits_are_no_numbers(name: str):
    found = stats([bytes(8) + b"\1\2"], BY_NAME[name])
    assert found.count == 10 // BY_NAME[name].itemsize
    assert (found.zeros, found.nan, found.inf) == (8 // BY_NAME[name].itemsize, 0, 0)
    assert (found.min, found.unsupported) == (None, f"{name} values are no numbers")


def test_every_dtype_there_is_has_an_answer():
    for dtype in BY_NAME.values():
        found = stats([bytes(dtype.itemsize)], dtype)
        assert found.count == 1
        assert (found.mean is None) == bool(found.unsupported)
        assert stats([], dtype) == Stats(0, None, None, None, None, 0, 0, 0)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-22, 1e-20, 1e-13, 1e-9, 0.02, 1.0, 1e15, 1e25, 1e37])
@pytest.mark.parametrize("shift", [0.0, 0.5, 0.95, 3.0, 1e4])
@pytest.mark.parametrize("odd", [None, INF, NAN])
def test_many_float32_numbers(scale: float, shift: float, odd: float | None):
    """Of any size, around any mean, against float64."""
    torch.manual_seed(1)
    tensor = ((torch.randn(200_000, dtype=torch.float64) + shift) * min(scale, 3e37 / (shift + 6))).float()
    if odd is not None:
        tensor[1234] = odd
    wide = tensor[torch.isfinite(tensor)].double()
    found = measured(tensor)
    assert found.std == pytest.approx(wide.std(correction=0).item(), rel=1e-7, abs=0)
    assert found.mean == pytest.approx(wide.mean().item(), abs=1e-7 * found.std)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_many_half_floats(dtype: torch.dtype):
    torch.manual_seed(1)
    tensor = (torch.randn(300_000) * 0.02).to(dtype)
    found, wide = measured(tensor), tensor.double()
    assert found.std == pytest.approx(wide.std(correction=0).item(), rel=1e-7, abs=0)
    assert found.mean == pytest.approx(wide.mean().item(), abs=1e-7 * found.std)
    assert (found.min, found.max, found.zeros) == (wide.min().item(), wide.max().item(), int((wide == 0).sum()))


def test_many_tensors_at_once_are_measured_as_each_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In runs of elements, by two threads."""
    monkeypatch.setattr(elements, "RUN", 1000)
    torch.manual_seed(0)
    state = {f"{size}": torch.randn(size) for size in (0, 1, 999, 1001, 700_000)}
    state |= {
        "ids": torch.arange(5000),
        "half": torch.randn(4000).half(),
        "complex": torch.zeros(9, dtype=torch.cfloat),
    }
    state["999"][5] = float("nan")
    torch.save(state, tmp_path / "x.pt")
    opened = open_checkpoint(tmp_path / "x.pt")
    told: list[int] = []
    with Reader(opened) as reader:
        tensors = opened.entries[""]
        assert len(elements_of(tensors["ids"], reader).runs) == 5
        measured = statistics((elements_of(tensor, reader) for tensor in tensors.values()), told.append)
        for key, found in zip(tensors, measured, strict=True):
            alone = stats(reader.chunks(tensors[key]), tensors[key].dtype)
            assert (found.count, found.min, found.max, found.nan) == (alone.count, alone.min, alone.max, alone.nan)
            assert (found.unsupported, found.zeros) == (alone.unsupported, alone.zeros)
            assert (found.mean is None) == (alone.mean is None)
            if alone.mean is not None:
                assert found.std == pytest.approx(alone.std, rel=1e-7, abs=0)
                assert found.mean == pytest.approx(alone.mean, abs=1e-7 * alone.std)
    assert sum(told) == sum(tensor.nbytes for tensor in state.values())


def test_a_few_chunks_are_held_at_a_time():
    tracemalloc.start()
    stats((bytes(1 << 20) for _ in range(100)), BY_NAME["F32"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_the_room_imports_no_numpy_before_it_is_needed():
    program = "import sys, ckptconv.values.stats\nassert not {'numpy', 'ml_dtypes'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
