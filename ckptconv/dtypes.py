"""Element types, under safetensors' spelling (`F32`, `BF16`, `I64` …), with torch's names beside them."""

from __future__ import annotations

from typing import NamedTuple


class DType(NamedTuple):
    """One element type.

    name: safetensors' spelling, also used in tables and reports.
    itemsize: bytes per element.
    torch: attribute of the torch module (`float32`).
    storage: class name of torch's typed storage (`FloatStorage`), or None where torch only saves it untyped
        (torch/storage.py, `_dtype_to_storage_type_map`).
    in_safetensors: whether the safetensors format can hold it (safetensors 0.8, `Dtype`).
    """

    name: str
    itemsize: int
    torch: str
    storage: str | None
    in_safetensors: bool = True

    def __str__(self) -> str:
        return self.name


_ALL = (
    DType("F64", 8, "float64", "DoubleStorage"),
    DType("F32", 4, "float32", "FloatStorage"),
    DType("F16", 2, "float16", "HalfStorage"),
    DType("BF16", 2, "bfloat16", "BFloat16Storage"),
    DType("I64", 8, "int64", "LongStorage"),
    DType("I32", 4, "int32", "IntStorage"),
    DType("I16", 2, "int16", "ShortStorage"),
    DType("I8", 1, "int8", "CharStorage"),
    DType("U8", 1, "uint8", "ByteStorage"),
    DType("BOOL", 1, "bool", "BoolStorage"),
    DType("C64", 8, "complex64", "ComplexFloatStorage"),
    DType("C128", 16, "complex128", "ComplexDoubleStorage", in_safetensors=False),
    DType("U16", 2, "uint16", None),
    DType("U32", 4, "uint32", None),
    DType("U64", 8, "uint64", None),
    DType("F8_E4M3", 1, "float8_e4m3fn", None),
    DType("F8_E5M2", 1, "float8_e5m2", None),
    DType("F8_E8M0", 1, "float8_e8m0fnu", None),
    DType("F8_E4M3FNUZ", 1, "float8_e4m3fnuz", None),
    DType("F8_E5M2FNUZ", 1, "float8_e5m2fnuz", None),
    DType("C32", 4, "complex32", None, in_safetensors=False),
    DType("F4_X2", 1, "float4_e2m1fn_x2", None, in_safetensors=False),  # two per byte; safetensors' F4 counts halves
    DType("BITS8", 1, "bits8", None, in_safetensors=False),
    DType("BITS16", 2, "bits16", None, in_safetensors=False),
    DType("BITS1X8", 1, "bits1x8", None, in_safetensors=False),
    DType("BITS2X4", 1, "bits2x4", None, in_safetensors=False),
    DType("BITS4X2", 1, "bits4x2", None, in_safetensors=False),
)

BY_NAME = {dtype.name: dtype for dtype in _ALL}
BY_TORCH = {dtype.torch: dtype for dtype in _ALL}
BY_STORAGE = {dtype.storage: dtype for dtype in _ALL if dtype.storage}


def _scripted(dtype: DType) -> str:
    """How TorchScript calls the storage of a type that has no class: c10's name of the type (`toString` in
    c10/core/ScalarType.h, used by `pushStorageOfTensor` in torch/csrc/jit/serialization/pickler.cpp)."""
    name = dtype.torch.replace("uint", "UInt").replace("complex32", "complexHalf")
    return f"{name[0].upper()}{name[1:]}Storage"


BY_SCRIPT_STORAGE = {_scripted(dtype): dtype for dtype in _ALL if not dtype.storage}

F64, F32, F16, BF16 = (BY_NAME[name] for name in ("F64", "F32", "F16", "BF16"))
FLOATS = frozenset({F64, F32, F16, BF16})
