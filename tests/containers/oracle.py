"""torch and safetensors as the truth to compare with, and state dicts of every kind to compare on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from ckptconv import dtypes
from ckptconv.containers import Checkpoint
from ckptconv.containers.read import Reader
from ckptconv.containers.writing import Item

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
GOLDEN = sorted(
    path
    for folder in (TESTS / "golden", ROOT / "examples")
    for path in folder.rglob("*")
    if path.suffix in (".pt", ".pth", ".bin", ".safetensors")
)
DTYPES = list(dtypes.BY_TORCH.values())
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: torch.Tensor) -> bytes:
    """The tensor's contiguous little-endian bytes, by torch alone."""
    plain = torch.view_as_real(tensor) if tensor.dtype.is_complex else tensor
    same_size = plain.detach().view(_INTEGERS[plain.element_size()])
    flat = torch.empty(same_size.numel(), dtype=same_size.dtype)
    flat.view(same_size.shape).copy_(same_size)
    return flat.numpy().tobytes()


def dtype_of(tensor: torch.Tensor) -> dtypes.DType:
    return dtypes.BY_TORCH[str(tensor.dtype).removeprefix("torch.")]


def storage_of(dtype: dtypes.DType, data: bytes) -> torch.Tensor:
    """A 1-d tensor of that type over the bytes."""
    if dtype.name == "BOOL":
        data = bytes(byte & 1 for byte in data)
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return raw.view(getattr(torch, dtype.torch))


@st.composite
def views(draw: st.DrawFn, dtype: dtypes.DType) -> torch.Tensor:
    """A tensor of any shape (0-d and empty too), stride (0 and overlapping too) and offset."""
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    strides = draw(st.lists(st.integers(0, 7), min_size=len(shape), max_size=len(shape)))
    offset = draw(st.integers(0, 9))
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if 0 not in shape else -1
    numel = offset + last + 1 + draw(st.integers(0, 3))
    data = draw(st.binary(min_size=numel * dtype.itemsize, max_size=numel * dtype.itemsize))
    return storage_of(dtype, data).as_strided(shape, strides, offset)


@st.composite
def state_dicts(
    draw: st.DrawFn, allowed: Callable[[dtypes.DType], bool] = lambda dtype: True
) -> dict[str, torch.Tensor]:
    """Tensors of any dtype, some of them views of another one's storage."""
    known = [dtype for dtype in DTYPES if allowed(dtype)]
    state: dict[str, torch.Tensor] = {}
    keys = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
    for key in draw(st.lists(keys, min_size=1, max_size=5, unique=True)):
        if state and draw(st.booleans()):
            owner = draw(st.sampled_from(list(state.values())))
            state[key] = owner if draw(st.booleans()) else owner.permute(tuple(reversed(range(owner.dim()))))
        else:
            state[key] = draw(views(draw(st.sampled_from(known))))
    return state


def assert_same(checkpoint: Checkpoint, entry: str, state: dict[str, torch.Tensor]) -> None:
    """The entry holds exactly these tensors, bit for bit."""
    found = checkpoint.entries[entry]
    assert list(found) == list(state) or checkpoint.container.endswith("safetensors")
    assert found.keys() == state.keys()
    with Reader(checkpoint) as reader:
        for key, tensor in state.items():
            assert found[key].dtype == dtype_of(tensor), key
            assert found[key].shape == tuple(tensor.shape), key
            assert reader.read(found[key]) == bits(tensor), key


def items(state: dict[str, torch.Tensor], tied: dict[str, str] | None = None) -> list[Item]:
    """The tensors as our writers take them."""

    def item(key: str, tensor: torch.Tensor) -> Item:
        data = bits(tensor)
        half = len(data) // 2
        return Item(
            key, dtype_of(tensor), tuple(tensor.shape), lambda: [data[:half], data[half:]], (tied or {}).get(key)
        )

    return [item(key, tensor) for key, tensor in state.items()]


def assert_equal_tensors(got: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    """torch's own objects, compared bit for bit."""
    assert got.keys() == state.keys()
    for key, tensor in state.items():
        assert got[key].dtype == tensor.dtype, key
        assert got[key].shape == tensor.shape, key
        assert bits(got[key]) == bits(tensor), key
