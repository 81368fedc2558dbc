"""Reads safetensors: a u64 header length, a JSON header, then the tensors' bytes without gap or overlap.

The format: github.com/huggingface/safetensors, README and safetensors/src/tensor.rs (0.8).
"""

from __future__ import annotations

from typing import Any

from ckptconv.containers.checkpoint import Checkpoint, Storage, Tensor
from ckptconv.containers.files import Source
from ckptconv.containers.reading import Reading
from ckptconv.containers.strictjson import BadJson, parse
from ckptconv.dtypes import BY_NAME
from ckptconv.errors import CkptconvError, Damaged, Unsupported
from ckptconv.text import printable

TIED = "ckptconv.tied"  # in __metadata__: JSON {key that was left out: key that has its tensor}
HEADER_LIMIT = 100_000_000
_MOST = (1 << 63) - 1
_PACKED = frozenset({"F4", "F6_E2M3", "F6_E3M2"})  # elements smaller than a byte


def open_safetensors(source: Source, reading: Reading) -> Checkpoint:
    """The checkpoint in a safetensors file. Raises Damaged or Unsupported (elements smaller than a byte)."""
    header, data_start = _read_header(source)
    metadata = _metadata(source, header.pop("__metadata__", None))
    reading.count(header, source.path)
    tensors = {key: _tensor(source, key, told, data_start) for key, told in header.items()}
    _check_cover(source, tensors, data_start)
    return Checkpoint(
        path=source.path,
        container="safetensors",
        files=(source.path,),
        entries={"": {**tensors, **tied_tensors(tensors, metadata)}},
        metadata=metadata,
        stamps={source.path: source.stamp},
    )


def tied_tensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, Tensor]:
    """The keys that ckptconv's writer left out because another key has the same tensor. What doesn't fit is ignored:
    the note is ours, but the file may not be."""
    try:
        told = parse(metadata.get(TIED, "{}").encode("utf-8", "surrogatepass"))
    except BadJson:
        return {}
    pairs = told.items() if isinstance(told, dict) else ()
    return {
        alias: tensors[key]
        for alias, key in pairs
        if alias not in tensors and alias != "__metadata__" and isinstance(key, str) and key in tensors
    }


def _read_header(source: Source) -> tuple[dict[str, Any], int]:
    """The header, a JSON object since `open` saw its brace behind the length, and where the data begin."""
    length = int.from_bytes(source.read(0, 8), "little")
    if length > HEADER_LIMIT:
        raise _damaged(source, f"its header claims {length:,} bytes; {HEADER_LIMIT:,} is the most there may be")
    if 8 + length > source.size:
        claim = f"its header claims {length:,} bytes"
        raise Damaged(f"{source.where} is truncated: {claim}, the file has {source.size:,}", source.path)
    try:
        return parse(source.read(8, length)), 8 + length
    except BadJson as problem:
        raise _damaged(source, f"its header {printable(str(problem))}") from None


def _metadata(source: Source, told: Any) -> dict[str, str]:
    if told is None:
        return {}
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise _damaged(source, "its __metadata__ is no object of texts")
    return told


def _tensor(source: Source, key: str, told: Any, data_start: int) -> Tensor:
    name = f"the tensor {printable(key)}"
    if not isinstance(told, dict):
        raise _damaged(source, f"{name} is no JSON object")
    dtype_name: Any = told.get("dtype")
    shape: Any = told.get("shape")
    offsets: Any = told.get("data_offsets")
    if not isinstance(dtype_name, str):
        raise _damaged(source, f"{name} has a type that is no text")
    if dtype_name in _PACKED:
        raise Unsupported(f"{source.where} is not supported: {name} has the packed type {dtype_name}", source.path)
    dtype = BY_NAME.get(dtype_name)
    if dtype is None or not dtype.in_safetensors:
        shown = printable(dtype_name, 40)
        raise Unsupported(f"{source.where} is not supported: {name} has the unknown type {shown}", source.path)
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2 or len(shape) > 64:
        raise _damaged(
            source, f"{name} has shape {printable(str(shape), 60)} and offsets {printable(str(offsets), 60)}"
        )
    sizes = tuple(shape)
    begin, end = offsets
    made = Tensor(dtype, sizes, row_major(sizes), 0, Storage(source.path, data_start + begin, end - begin))
    if made.nbytes != end - begin:
        raise _damaged(
            source, f"{name} of type {dtype} and shape {sizes} takes {made.nbytes} bytes, it has {end - begin}"
        )
    return made


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous tensor of that shape (an empty axis counts as one, as in torch)."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= _MOST for value in values)


def _check_cover(source: Source, tensors: dict[str, Tensor], data_start: int) -> None:
    """The tensors lie one behind the other, from the header's end to the file's."""
    at, before = data_start, "its header"
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].storage.start, item[1].storage.nbytes)):
        start = tensor.storage.start
        if start != at:
            what = "overlaps" if start < at else f"leaves {start - at} unused bytes after"
            raise _damaged(source, f"the tensor {printable(key)} {what} {before}")
        at, before = start + tensor.storage.nbytes, f"the tensor {printable(key)}"
    if at > source.size:
        missing = f"its tensors end at byte {at:,}, the file has {source.size:,}"
        raise Damaged(f"{source.where} is truncated: {missing}", source.path)
    if at < source.size:
        raise _damaged(source, f"{source.size - at} bytes follow its last tensor")


def _damaged(source: Source, what: str) -> CkptconvError:
    return Damaged(f"{source.where} is damaged: {what}", source.path)
