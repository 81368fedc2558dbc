"""One output file: its space is taken first, its bytes are streamed, then flushed to the disk by the descriptor that
wrote them, which is told of every error. Every failure is one sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from ckptconv.errors import CannotWrite
from ckptconv.text import printable

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WRITE = 64 << 10  # bytes of a call: larger ones make Linux look for larger pages, which can take far longer
_FLUSH = 32 << 20  # bytes that are brought to the disk together
_NO_FALLOCATE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV)


class Output:
    """A file of `size` bytes, known beforehand, that is written from its start to its end. A context manager, at whose
    end the bytes are on the disk.

    Raises CannotWrite if there is no space, or for whatever else the system says.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.at = 0
        self._fd = -1
        self._flushed = 0
        self._flushes: list[Future[None]] = []
        self._flusher: ThreadPoolExecutor | None = None
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o666)
            self._allocate()
        except OSError as problem:
            self.close()
            raise cannot_write(problem, path, size) from None

    def _allocate(self) -> None:
        if not self.size or not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self._fd, 0, self.size)
        except OSError as problem:
            if problem.errno not in _NO_FALLOCATE:
                raise

    def write(self, data: bytes | memoryview) -> None:
        """Puts the bytes behind those that were written before."""
        left = memoryview(data)
        try:
            while left:
                count = os.write(self._fd, left[:_WRITE])
                if not count:  # no file does that; a loop would not end
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                left = left[count:]
        except OSError as problem:
            raise cannot_write(problem, self.path, self.size) from None
        self.at += len(data)
        if self.at - self._flushed >= _FLUSH and all(flush.done() for flush in self._flushes):
            self._flush()

    def _flush(self) -> None:
        """Has what was written so far brought to the disk by another thread, so that little is left for the end."""
        self._flusher = self._flusher or ThreadPoolExecutor(1)
        self._flushes.append(self._flusher.submit(_sync, self._fd))
        self._flushed = self.at

    def write_all(self, pieces: Iterable[bytes | memoryview]) -> None:
        """`write` for each of them, for good."""
        for piece in pieces:
            self.write(piece)
            self.settle()

    def settle(self) -> None:
        """Told when what was written so far won't be patched any more; for who follows the file as it grows."""

    def patch(self, at: int, data: bytes) -> None:
        """Replaces a few bytes that were written before."""
        try:
            if os.pwrite(self._fd, data, at) != len(data):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        except OSError as problem:
            raise cannot_write(problem, self.path, self.size) from None

    def close(self) -> None:
        """Closes the file. What the system says then doesn't matter: the bytes are on the disk, or not wanted."""
        fd, self._fd = self._fd, -1
        if self._flusher:
            self._flusher.shutdown()
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self.close()

    def _finish(self) -> None:
        if self.at != self.size:
            raise ValueError(f"{self.at} bytes were written to {self.path}, {self.size} were announced")
        try:
            for flush in self._flushes:
                flush.result()
            os.fsync(self._fd)  # never again after an error: the system forgets what it couldn't write
        except OSError as problem:
            raise cannot_write(problem, self.path, self.size) from None


def _sync(fd: int) -> None:
    getattr(os, "fdatasync", os.fsync)(fd)


Create = Callable[[Path, int], Output]
"""Makes an Output, or one that does more than write."""


def write_file(path: Path, data: bytes, create: Create = Output) -> None:
    """A whole small file. Raises CannotWrite."""
    with create(path, len(data)) as output:
        output.write_all((data,))


def cannot_write(problem: OSError, path: Path, need: int = 0) -> CannotWrite:
    """The error for what the system said while `path` was being written, which takes `need` bytes (0: not known)."""
    if problem.errno in _FULL:
        return no_space(path.parent, need, problem.errno)
    if problem.errno == errno.EFBIG:
        told = f"no space left for its {need:,} bytes, more than one file may have (ulimit -f, or the file system)"
        return CannotWrite(f"{printable(os.fspath(path))} can't be written: {told}: go elsewhere", path)
    return CannotWrite(f"{printable(os.fspath(path))} can't be written: {problem.strerror or problem}", path)


def no_space(folder: Path, need: int, code: int = errno.ENOSPC) -> CannotWrite:
    """The error for a full disk, or with code=EDQUOT for a quota that is used up."""
    where, needs = printable(os.fspath(folder)), f"needs {need:,} bytes, " if need else ""
    what = "your disk quota is used up" if code == errno.EDQUOT else "no space left"
    return CannotWrite(
        f"{what} on {where}: {needs}has {free_bytes(folder):,}; make room or go elsewhere",
        folder,
    )


def free_bytes(folder: Path) -> int:
    """Bytes that can still be written into a folder; 0 where the system can't tell."""
    try:
        status = os.statvfs(folder)
    except (OSError, AttributeError):
        return 0
    return status.f_bavail * status.f_frsize
