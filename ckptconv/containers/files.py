"""Files opened so that nothing in them, or in their kind, can hang, kill or surprise us."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ckptconv.errors import Damaged, NotACheckpoint
from ckptconv.text import printable

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO would wait for a writer for ever
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


_EXTENTS = 10_000


class Stamp(NamedTuple):
    """What tells that a file is still the one that was opened: device, inode, size in bytes, time of change in ns."""

    device: int
    inode: int
    size: int
    mtime_ns: int


class Source:
    """One regular file, open for reading at given places (pread). A context manager; `close` may be called twice.

    Raises NotACheckpoint if the path can't be opened or isn't a regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = printable(os.fspath(path))
        self._fd = _open(path, self.where)
        try:
            self.stamp = self._regular()
        except BaseException:
            self.close()
            raise
        self.size = self.stamp.size

    def _regular(self) -> Stamp:
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise NotACheckpoint(f"{self.where} is {_kind(status.st_mode)}, not a regular file", self.path)
        return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def read(self, start: int, count: int) -> bytes:
        """Exactly `count` bytes from byte `start` on. Raises Damaged if the file ends before, or can't be read."""
        data = self._some(start, count)
        if len(data) == count:
            return data
        parts, have = [data], len(data)
        while data and have < count:
            data = self._some(start + have, count - have)
            parts.append(data)
            have += len(data)
        if have < count:
            raise Damaged(
                f"{self.where} ends at byte {start + have}, inside data that goes on to {start + count}", self.path
            )
        return b"".join(parts)

    def _some(self, start: int, count: int) -> bytes:
        try:
            return os.pread(self._fd, count, start)
        except OSError as problem:
            raise Damaged(f"{self.where} can't be read at byte {start}: {problem.strerror}", self.path) from None

    def check_unchanged(self, stamp: Stamp | None = None) -> None:
        """Raises Damaged if the file is no longer as it was when it was opened (or as `stamp` says)."""
        if self._regular() != (stamp or self.stamp):
            raise Damaged(f"{self.where} was changed while it was being read: start again", self.path)

    def stored(self) -> int:
        """Its bytes that are no holes, where the system tells; else its size."""
        status = os.fstat(self._fd)
        blocks = getattr(status, "st_blocks", 0) * 512
        if blocks >= self.size // 2 or not hasattr(os, "SEEK_DATA"):
            return self.size
        found = at = 0
        for _ in range(_EXTENTS):  # blocks may be counted late: the extents are sure
            try:
                start = os.lseek(self._fd, at, os.SEEK_DATA)
                at = os.lseek(self._fd, start, os.SEEK_HOLE)
            except OSError:  # no data behind `at`
                return found
            found += at - start
        return self.size

    def close(self) -> None:
        """Closes the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # what was read was read
                os.close(fd)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stored_on_disk(path: Path) -> int:
    """Bytes of a file that are no holes, where the system tells; else its size."""
    with Source(path) as source:
        return source.stored()


def from_elsewhere(path: Path, folder: Path) -> bool:
    """Whether links on the way to `path`, which is named within `folder`, lead out of it, to any other file of this
    machine; but for those of the Hub's cache to its own `blobs`."""
    home, target = (Path(os.path.realpath(each)) for each in (folder, path))  # Path.resolve raises for loops
    return home not in target.parents and home.parent.parent / "blobs" != target.parent


def _open(path: Path, where: str) -> int:
    try:
        return os.open(path, _FLAGS)
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the name
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise NotACheckpoint(f"{where} can't be opened: {reason}", path) from None


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")
