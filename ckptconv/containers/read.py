"""`Reader`: the tensors' bytes, in pieces, with bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from isal.isal_zlib import crc32

from ckptconv.containers.checkpoint import Checkpoint, Storage, Tensor
from ckptconv.containers.files import Source, Stamp, stored_on_disk
from ckptconv.containers.gather import BOX, boxes, gather, swapped, too_scattered
from ckptconv.containers.latin1 import spelt_bytes
from ckptconv.containers.zipdir import inflate
from ckptconv.errors import Damaged, Unsafe
from ckptconv.memory import keep_freed
from ckptconv.text import printable

PIECE = 1 << 20  # bytes: fits the cache, so that a copy runs as fast as cp
_GROWTH, _GROWTH_FREE = 64, 256 << 20
_OPEN_LIMIT = 200  # files; systems allow 256 and more


class Reader:
    """Reads tensors of one or more opened checkpoints; a context manager, every file is opened once.

    Raises Damaged if a file was changed since its checkpoint was opened, ends too early, or if a zip record's checksum
    is wrong (verified the first time that any of the record is read).
    """

    def __init__(self, *checkpoints: Checkpoint) -> None:
        self._stamps = {path: Stamp(*stamp) for opened in checkpoints for path, stamp in opened.stamps.items()}
        self._sources: dict[Path, Source] = {}
        self._verified: set[Storage] = set()
        self._inflated: dict[Storage, bytes] = {}
        keep_freed()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files."""
        while self._sources:
            self._sources.popitem()[1].close()

    def chunks(self, tensor: Tensor, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes [start, stop) of the tensor as it would lie contiguous (C order, little-endian), in pieces of at
        most 1 MiB."""
        stop = tensor.nbytes if stop is None else stop
        if not 0 <= start <= stop <= tensor.nbytes:
            raise ValueError(f"bytes {start} to {stop} of a tensor of {tensor.nbytes}")
        if start == stop:
            return
        source = self._source(tensor.storage.path)
        if tensor.contiguous and not (tensor.storage.swap and tensor.dtype.itemsize > 1):
            first = tensor.offset * tensor.dtype.itemsize
            yield from self._run(tensor.storage, first + start, first + stop)
        else:
            self._verify(tensor.storage)
            yield from self._gathered(tensor, start, stop)
        self._source(source.path).check_unchanged(self._stamps.get(source.path))

    def read(self, tensor: Tensor) -> bytes:
        """All bytes of a tensor; for small ones."""
        return b"".join(self.chunks(tensor))

    def equal(self, a: Tensor, b: Tensor) -> bool:
        """Whether two tensors are bitwise equal, in type, shape and bytes."""
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        if (a.storage, a.offset, a.strides) == (b.storage, b.offset, b.strides):
            return True
        return _same(self.chunks(a), self.chunks(b))

    def _source(self, path: Path) -> Source:
        source = self._sources.get(path)
        if source is None:
            while len(self._sources) >= _OPEN_LIMIT:
                self._sources.pop(next(iter(self._sources))).close()
            source = Source(path)
            self._sources[path] = source
            source.check_unchanged(self._stamps.get(path))
        return source

    def _bytes(self, storage: Storage, start: int, count: int) -> bytes:
        """Bytes of a storage, wherever they lie."""
        if storage.parts:
            return self._joined(storage, start, start + count)
        if storage.latin1 is not None:
            return spelt_bytes(self._source(storage.path), storage)[start : start + count]
        if storage.deflated is None:
            return self._source(storage.path).read(storage.start + start, count)
        if storage not in self._inflated:
            source = self._source(storage.path)
            while len(self._inflated) > 1:  # two are compared piece by piece
                del self._inflated[next(iter(self._inflated))]
            self._inflated[storage] = inflate(source, source.read(storage.start, storage.deflated), storage.nbytes)
        return self._inflated[storage][start : start + count]

    def _joined(self, storage: Storage, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a storage in several parts."""
        pieces, before = [], 0
        for part in storage.parts:
            first, last = max(start - before, 0), min(stop - before, part.nbytes)
            if first < last:
                pieces.append(self._bytes(part, first, last - first))
            before += part.nbytes
        return b"".join(pieces)

    def _run(self, storage: Storage, start: int, stop: int) -> Iterator[bytes]:
        """Bytes [start, stop) of a storage; its checksum is computed on the way where they are all of it."""
        unverified = storage.crc32 is not None and storage not in self._verified
        on_the_way = unverified and (start, stop) == (0, storage.nbytes)
        if unverified and not on_the_way:
            self._verify(storage)
        crc = 0
        for at in range(start, stop, PIECE):
            piece = self._bytes(storage, at, min(PIECE, stop - at))
            if on_the_way:
                crc = crc32(piece, crc)
            yield piece
        if on_the_way:
            self._check(storage, crc)

    def _verify(self, storage: Storage) -> None:
        """One pass over the whole storage, unless it was made before."""
        if storage.crc32 is None or storage in self._verified:
            return
        crc = 0
        for at in range(0, storage.nbytes, PIECE):
            crc = crc32(self._bytes(storage, at, min(PIECE, storage.nbytes - at)), crc)
        self._check(storage, crc)

    def _check(self, storage: Storage, crc: int) -> None:
        if crc != storage.crc32:
            told = f"the checksum of the tensor data at byte {storage.start} is wrong: download or copy it again"
            raise Damaged(f"{printable(os.fspath(storage.path))} is damaged: {told}", storage.path)
        self._verified.add(storage)

    def _gathered(self, tensor: Tensor, start: int, stop: int) -> Iterator[bytes]:
        itemsize, storage = tensor.dtype.itemsize, tensor.storage
        component = itemsize // 2 if tensor.dtype.name.startswith("C") else itemsize
        for box in boxes(tensor.shape, tensor.strides, tensor.offset, BOX // itemsize, start // itemsize):
            begin = box.first * itemsize
            if begin >= stop:
                return
            strides = tensor.strides[len(tensor.strides) - len(box.shape) :]
            if too_scattered(box.shape, strides, itemsize):
                raise Unsafe(
                    f"{printable(os.fspath(storage.path))} is refused as unsafe: a tensor of shape {tensor.shape} and "
                    f"strides {tensor.strides} overlaps itself so oddly that reading it would take far too long",
                    storage.path,
                )
            made = gather(lambda at, count: self._bytes(storage, at, count), box.shape, strides, box.offset, itemsize)
            if storage.swap and component > 1:
                made = swapped(made, component)
            data = memoryview(made.reshape(-1).view("u1"))[max(0, start - begin) : stop - begin]
            for at in range(0, len(data), PIECE):
                yield bytes(data[at : at + PIECE])
            del made, data  # before the next box is made


def _same(left: Iterator[bytes], right: Iterator[bytes]) -> bool:
    """Whether two streams of pieces, cut differently, are the same bytes."""
    a = b = b""
    while True:
        a = a or next(left, b"")
        b = b or next(right, b"")
        count = min(len(a), len(b))
        if not count:
            return not a and not b
        if a[:count] != b[:count]:
            return False
        a, b = a[count:], b[count:]


def check_growth(checkpoint: Checkpoint, tensors: Iterable[Tensor]) -> None:
    """Raises Unsafe if the tensors, written out, take far more than the files they come from: more than 64 times and
    256 MiB. A few bytes can stand for an expanded tensor of any size, and a file of holes for any number of zeros."""
    logical = sum(tensor.nbytes for tensor in tensors)
    stored = sum(stamp[2] for stamp in checkpoint.stamps.values())
    if logical > _GROWTH_FREE:
        stored = sum(stored_on_disk(path) for path in checkpoint.stamps)
    if logical > _GROWTH * stored + _GROWTH_FREE:
        where = printable(os.fspath(checkpoint.path))
        raise Unsafe(
            f"{where} is refused as unsafe: its {stored:,} bytes stand for tensors of {logical:,} bytes",
            checkpoint.path,
        )
