"""What every reader returns: keys → (dtype, shape, where the bytes lie). Nothing is read yet."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ckptconv.dtypes import DType

PADDLE_NAMES = "StructuredToParameterName@@"  # Paddle's entry for what its programs call the parameters


class Storage(NamedTuple):
    """A run of bytes in a file, that one or more tensors view.

    start: offset of its first byte in the file. nbytes: its length.
    crc32: the zip's checksum over exactly these bytes, or None where the container has none.
    swap: True when the elements lie in big-endian order.
    deflated: how many bytes it takes in the file when it lies there compressed (raw deflate); None when it doesn't.
    latin1: how many bytes it takes in the file when it lies there as UTF-8 text, in which every letter, up to U+00FF,
    is a byte; None when it doesn't.
    parts: the storages it consists of, one after the other, when it doesn't lie in one piece.
    """

    path: Path
    start: int
    nbytes: int
    crc32: int | None = None
    swap: bool = False
    deflated: int | None = None
    latin1: int | None = None
    parts: tuple[Storage, ...] = ()


class Tensor(NamedTuple):
    """A strided view of a storage. `strides` and `offset` count elements, as torch's do."""

    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    storage: Storage

    def __hash__(self) -> int:
        """Of a text: a file can choose numbers whose own hashes are all the same, and make any dict of them slow."""
        return hash(f"{self.dtype.name}{self.shape}{self.strides}{self.offset} {self.storage.start}")

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a 0-d tensor."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor itself (contiguous), whatever its storage holds."""
        return self.numel * self.dtype.itemsize

    @property
    def contiguous(self) -> bool:
        """Whether the bytes lie in C order without gaps (axes of size 1 don't matter, as in torch)."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return self.numel == 0
            expected *= size
        return True


StateDict = Mapping[str, Tensor]


class Checkpoint(NamedTuple):
    """An opened checkpoint: what is in it and where, but none of the tensors' bytes.

    path: as given (a file, or the index of a sharded checkpoint).
    container: `torch zip`, `torch legacy`, `torchscript`, `paddle`, `safetensors`,
    `sharded safetensors`, `sharded torch`.
    files: every file it lies in.
    entries: the state dicts in it, by the top-level entry they lie under; "" when the file itself is one.
    other: the remaining top-level entries (args, optimizer state …), as inert nodes (`containers.inert`).
    metadata: safetensors' `__metadata__`; {} elsewhere.
    globals: every `module.name` that its pickles mention, in order of appearance; none of them was imported.
    notes: one sentence each on what is legal but worth telling.
    stamps: what `fstat` said of each file while it was opened (`containers.files.Stamp`), to notice later changes.
    records: of a zip (of shards, the last one), the names of those records that tell its writer; None elsewhere.
    """

    path: Path
    container: str
    files: tuple[Path, ...]
    entries: Mapping[str, StateDict]
    other: Mapping[str, Any] = MappingProxyType({})
    metadata: Mapping[str, str] = MappingProxyType({})
    globals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    stamps: Mapping[Path, tuple[int, int, int, int]] = MappingProxyType({})
    records: frozenset[str] | None = None


def by_storage(tensors: StateDict) -> dict[Storage, list[str]]:
    """The keys that view each storage; empty tensors view none."""
    users: dict[Storage, list[str]] = {}
    for key, tensor in tensors.items():
        if tensor.numel:
            users.setdefault(tensor.storage, []).append(key)
    return users


def shared_views(tensors: StateDict) -> dict[str, str]:
    """Each key that is the same view of the same storage as an earlier one → that earlier key."""
    shared = {}
    for keys in by_storage(tensors).values():
        first: dict[Tensor, str] = {}
        for key in keys if len(keys) > 1 else ():
            owner = first.setdefault(tensors[key], key)
            if owner != key:
                shared[key] = owner
    return shared
