"""Writes pickles of protocol 2 with nothing in them but plain values and torch's own calls for tensors.

The opcodes: CPython's Lib/pickletools.py. What torch expects: torch/_utils.py and torch/serialization.py; the result
loads with torch.load(weights_only=True).
"""

from __future__ import annotations

import struct
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckptconv.containers.safetensors import row_major
from ckptconv.dtypes import DType


@dataclass(frozen=True)
class TensorRef:
    """A tensor among the values: all of the storage named `storage`."""

    dtype: DType
    shape: tuple[int, ...]
    storage: str
    nbytes: int


class Emitter:
    """Collects the opcodes of one pickle. Names that recur are stored once and fetched from the memo."""

    def __init__(self) -> None:
        self._out = bytearray(b"\x80\x02")
        self._memo: dict[str, int] = {}

    def finish(self) -> bytes:
        """The pickle."""
        return bytes(self._out) + b"."

    def value(self, value: Any) -> None:
        """None, bool, int, float, str, a list, tuple, dict or Namespace of them, or TensorRef. Raises TypeError."""
        if isinstance(value, TensorRef):
            self._tensor(value)
        elif isinstance(value, Namespace):
            self._global("argparse", "Namespace")
            self._out += b")\x81"
            self.value(vars(value))
            self._out += b"b"
        elif isinstance(value, Mapping):
            self._many(b"}", (part for pair in value.items() for part in pair), b"u")
        elif isinstance(value, list):
            self._many(b"]", value, b"e")
        elif isinstance(value, tuple):
            self._many(b"", value, b"t")
        else:
            self._out += _atom(value)

    def _many(self, empty: bytes, values: Any, fill: bytes) -> None:
        self._out += empty + b"("
        for value in values:
            self.value(value)
        self._out += fill

    def _once(self, name: str, opcodes: bytes) -> None:
        if name in self._memo:
            self._out += b"h" + bytes((self._memo[name],))
            return
        self._memo[name] = len(self._memo)
        self._out += opcodes + b"q" + bytes((self._memo[name],))

    def _global(self, module: str, name: str) -> None:
        self._once(f"{module}.{name}", f"c{module}\n{name}\n".encode())

    def _tensor(self, tensor: TensorRef) -> None:
        """_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()), or v3 with a dtype at its end where
        torch has no storage class for it."""
        dtype = tensor.dtype
        self._global("torch._utils", "_rebuild_tensor_v2" if dtype.storage else "_rebuild_tensor_v3")
        self._out += b"(("
        self._once("storage", _atom("storage"))
        if dtype.storage:
            self._global("torch", dtype.storage)
        else:
            self._global("torch.storage", "UntypedStorage")
        self._out += _atom(tensor.storage)
        self._once("cpu", _atom("cpu"))
        self._out += _atom(tensor.nbytes // dtype.itemsize if dtype.storage else tensor.nbytes) + b"tQ" + _atom(0)
        self.value(tensor.shape)
        self.value(row_major(tensor.shape))
        self._out += _atom(False)
        self._global("collections", "OrderedDict")
        self._out += b")R"
        if not dtype.storage:
            self._global("torch", dtype.torch)
        self._out += b"tR"


def _atom(value: Any) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return _int(value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(data)) + data
    raise TypeError(f"a value of type {type(value).__name__} can't be written into a .pt file")


def _int(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes((value,))
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes((len(data),)) + data
