"""`Reader`: the tensors' bytes, in pieces, with bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial, reduce
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from isal.isal_zlib import crc32, crc32_combine

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


class Run(NamedTuple):
    """Some of a tensor's bytes, one after the other: how many, and what reads them in pieces, in any thread."""

    nbytes: int
    chunks: Callable[[], Iterator[bytes]]


class Reader:
    """Reads tensors of one or more opened checkpoints; a context manager, every file is opened once. Several threads
    may read at the same time.

    Raises Damaged if a file was changed since its checkpoint was opened, ends too early, or if a zip record's checksum
    is wrong (verified the first time that any of the record is read).
    """

    def __init__(self, *checkpoints: Checkpoint) -> None:
        self._stamps = {path: Stamp(*stamp) for opened in checkpoints for path, stamp in opened.stamps.items()}
        self._sources: dict[Path, Source] = {}
        self._verified: set[Storage] = set()
        self._inflated: dict[Storage, bytes] = {}
        self._lock = Lock()
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
        if _as_stored(tensor):
            yield from self._run(tensor, start, stop)
            return
        self._verify(tensor.storage)
        yield from self._gathered(tensor, start, stop)
        self._unchanged(tensor.storage.path)

    def runs(self, tensor: Tensor, size: int) -> list[Run]:
        """All bytes of the tensor as runs of `size` bytes, the last one of what is left, to be read in several threads.

        At least one; a tensor that isn't stored as it would be written is one run of all its bytes. A checksum is
        verified by whoever reads the last run.
        """
        if not _as_stored(tensor) or tensor.storage.deflated is not None or tensor.nbytes <= size:
            return [Run(tensor.nbytes, partial(self.chunks, tensor))]
        checksum = _Checksum(tensor.nbytes) if tensor.nbytes == tensor.storage.nbytes else None
        ends = ((start, min(start + size, tensor.nbytes)) for start in range(0, tensor.nbytes, size))
        return [Run(stop - start, partial(self._run, tensor, start, stop, checksum)) for start, stop in ends]

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
        with self._lock:
            source = self._sources.pop(path, None)
            if source is None:
                while len(self._sources) >= _OPEN_LIMIT:  # the one that nobody has used for longest
                    self._sources.pop(next(iter(self._sources))).close()
                self._sources[path] = source = Source(path)
                source.check_unchanged(self._stamps.get(path))
            self._sources[path] = source
            return source

    def _unchanged(self, path: Path) -> None:
        self._source(path).check_unchanged(self._stamps.get(path))

    def _bytes(self, storage: Storage, start: int, count: int) -> bytes:
        """Bytes of a storage, wherever they lie."""
        if storage.parts:
            return self._joined(storage, start, start + count)
        if storage.latin1 is not None:
            return spelt_bytes(self._source(storage.path), storage)[start : start + count]
        if storage.deflated is None:
            return self._source(storage.path).read(storage.start + start, count)
        return self._whole(storage, storage.deflated)[start : start + count]

    def _whole(self, storage: Storage, packed: int) -> bytes:
        """All bytes of a deflated storage of `packed` bytes; the last two are kept, to be compared piece by piece."""
        source = self._source(storage.path)
        with self._lock:
            if storage not in self._inflated:
                while len(self._inflated) > 1:
                    del self._inflated[next(iter(self._inflated))]
                self._inflated[storage] = inflate(source, source.read(storage.start, packed), storage.nbytes)
            return self._inflated[storage]

    def _joined(self, storage: Storage, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a storage in several parts."""
        pieces, before = [], 0
        for part in storage.parts:
            first, last = max(start - before, 0), min(stop - before, part.nbytes)
            if first < last:
                pieces.append(self._bytes(part, first, last - first))
            before += part.nbytes
        return b"".join(pieces)

    def _run(self, tensor: Tensor, start: int, stop: int, checksum: _Checksum | None = None) -> Iterator[bytes]:
        """Bytes [start, stop) of a tensor that lies in its storage as it is.

        checksum: where others read the rest of the storage. Without it, the storage's checksum is computed on the way
        where these are all of its bytes, and else first.
        """
        storage, first = tensor.storage, tensor.offset * tensor.dtype.itemsize
        if storage.crc32 is None or storage in self._verified:
            checksum = None
        elif stop - start == storage.nbytes:
            checksum = _Checksum(storage.nbytes)
        elif checksum is None:
            self._verify(storage)
        crc = 0
        for at in range(first + start, first + stop, PIECE):
            piece = self._bytes(storage, at, min(PIECE, first + stop - at))
            if checksum:
                crc = crc32(piece, crc)
            yield piece
        if checksum and (whole := checksum.added(start, stop, crc)) is not None:
            self._check(storage, whole)
        self._unchanged(storage.path)

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


class _Checksum:
    """The CRC-32 of `nbytes` bytes, of which several threads read some each."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._lock = Lock()
        self._found: dict[int, tuple[int, int]] = {}

    def added(self, start: int, stop: int, crc: int) -> int | None:
        """The checksum of all bytes, now that those of [start, stop) is known; None while others are missing."""
        with self._lock:
            self._found[start] = crc, stop - start
            if sum(count for _, count in self._found.values()) < self._nbytes:
                return None
            return reduce(lambda whole, at: crc32_combine(whole, *self._found[at]), sorted(self._found), 0)


def _as_stored(tensor: Tensor) -> bool:
    """Whether its bytes lie in the storage as they would be written."""
    return tensor.contiguous and not (tensor.storage.swap and tensor.dtype.itemsize > 1)


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
