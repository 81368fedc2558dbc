"""`Item`: one tensor to be written, and what every writer checks before the first byte."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ckptconv.dtypes import DType
from ckptconv.errors import Damaged, Unsupported
from ckptconv.text import printable

Bytes = bytes | memoryview


@dataclass(frozen=True)
class Item:
    """One tensor to be written.

    chunks: a function that yields its contiguous little-endian bytes, in pieces. tied_to: the key whose tensor it is;
    then it isn't stored a second time, and `chunks` is never called.
    """

    key: str
    dtype: DType
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[Bytes]]
    tied_to: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return prod(self.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[Bytes]:
        """Its bytes. Raises Damaged if they are more or fewer than its shape says."""
        have = 0
        for chunk in self.chunks():
            have += len(chunk)
            if have > self.nbytes:
                break
            yield chunk
        if have != self.nbytes:
            raise Damaged(
                f"the tensor {printable(self.key)} of type {self.dtype} and shape {self.shape} takes {self.nbytes} "
                f"bytes; {'more' if have > self.nbytes else have} came"
            )


def split_tied(items: Sequence[Item]) -> tuple[list[Item], dict[str, str]]:
    """(the items to be stored, tied key → key that is stored). Raises ValueError if keys or ties contradict."""
    by_key = {item.key: item for item in items}
    if len(by_key) != len(items):
        raise ValueError("two items have the same key")
    tied = {item.key: item.tied_to for item in items if item.tied_to is not None}
    for key, target in tied.items():
        owner = by_key.get(target)
        if owner is None or owner.tied_to is not None:
            raise ValueError(f"{key} is tied to {target}, which is not stored")
        if (owner.dtype, owner.shape) != (by_key[key].dtype, by_key[key].shape):
            raise ValueError(f"{key} is tied to {target}, which has another type or shape")
    return [item for item in items if item.tied_to is None], tied


def check_for_safetensors(items: Iterable[Item], path: Path) -> None:
    """Raises Unsupported for a dtype or key that safetensors can't hold, naming it and what to do."""
    for item in items:
        name, where = printable(item.key), printable(os.fspath(path))
        if not item.dtype.in_safetensors:
            raise Unsupported(
                f"{where} can't hold the tensor {name}: safetensors has no type {item.dtype} "
                f"({item.dtype.torch}): choose another one with --dtype, or write a .pt file",
                path,
            )
        if item.key == "__metadata__" or not _is_unicode(item.key):
            raise Unsupported(f"{where} can't hold the tensor {name}: safetensors has no such key", path)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
