"""Temporary files and folders of which it can be told whether their maker still lives: it holds a lock on each.

A lock (flock) ends with its process, however that ends. The process's number in the name tells nothing: numbers are
used again, and mean something else in another container or on another machine. Where a file system has no such locks,
what a killed run left behind is never removed.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from ckptconv.errors import CannotWrite
from ckptconv.text import printable

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"\.ckptconv-\d+-[0-9a-f]{12}")
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_ATTEMPTS = 100
_PATIENCE = 60.0  # seconds to wait for a folder that another run is changing, which takes it a moment


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is one of ours."""
    return _NAME.fullmatch(name) is not None


def _take(fd: int) -> bool | None:
    """Locks an open file or folder: True; False where another process has it locked; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        return False if problem.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _is_at(fd: int, path: Path) -> bool:
    """Whether the path still leads to the file or folder that is open as `fd`."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, if its file system has any, so that runs change it one after the other.

    Raises CannotWrite if another program keeps it, OSError if there is no such folder.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        fd = os.open(folder, _FOLDER)
        try:
            if _take(fd) is not False and _is_at(fd, folder):
                yield
                return
        finally:
            close(fd)
        if time.monotonic() > until:
            told = "another program has it locked: wait for it, or choose another output"
            raise CannotWrite(f"{printable(os.fspath(folder))} can't be written: {told}", folder)
        time.sleep(0.02)


@contextmanager
def temporary_file(folder: Path) -> Iterator[Path]:
    """An empty file in the folder, with the mode that the umask gives it; at the end it is gone, or was renamed."""

    def create(path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)

    path, fd = _make(folder, create)
    try:
        yield path
    finally:
        with suppress(OSError):
            os.unlink(path)
        close(fd)


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, a directory that is to be made or to get new files; at the end it is gone, or
    was renamed.

    If the directory is there, the folder gets its owner, mode, group and ACL; and if it can't lie beside it (a mount
    point, a folder around it that is not ours), it lies inside.
    """
    inside = target.is_dir()
    with locked(target) if inside else nullcontext():
        path, fd = _make(target if inside else target.parent, _make_folder)
        if inside:
            path = _moved_out(path)
    try:
        yield path
    finally:
        remove(path)
        close(fd)


def _make_folder(path: Path) -> int:
    os.mkdir(path)
    try:
        return os.open(path, _FOLDER)
    except OSError:
        remove(path)
        raise


def _moved_out(path: Path) -> Path:
    """Moves a folder beside the one that it is in, if possible. What is made in a folder inherits its group and ACL."""
    status, beside = os.stat(path.parent), path.parent.parent / path.name
    with suppress(OSError):
        os.chown(path, status.st_uid, status.st_gid)
    with suppress(OSError):
        os.chmod(path, stat.S_IMODE(status.st_mode))
        os.rename(path, beside)
        return beside
    return path


def _make(folder: Path, create: Callable[[Path], int]) -> tuple[Path, int]:
    """(path, descriptor that holds its lock). Before that is taken, a run that cleans up may remove it."""
    for left in reversed(range(_ATTEMPTS)):
        path = folder / f".ckptconv-{os.getpid()}-{os.urandom(6).hex()}"
        try:
            fd = create(path)
        except FileNotFoundError:  # also what /proc says, where nothing can be made
            if left:
                continue
            raise
        if _take(fd) is not False and _is_at(fd, path):
            return path, fd
        close(fd)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(folder))


def close(fd: int) -> None:
    """Closes a descriptor whose data are on the disk or not wanted: nothing that the system says now matters."""
    with suppress(OSError):
        os.close(fd)


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it, as far as that is possible. Links are not followed."""
    with suppress(OSError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def remove_stale(folder: Path) -> None:
    """Removes what killed runs left in the folder: has our name, belongs to us, and nobody has it locked."""
    if fcntl is None:
        return
    with suppress(OSError):
        for name in os.listdir(folder):
            if _NAME.fullmatch(name):
                with suppress(OSError):
                    _remove_dead(folder / name)


def _remove_dead(path: Path) -> None:
    status = os.lstat(path)
    regular = stat.S_ISREG(status.st_mode)
    ours = os.geteuid() in (0, status.st_uid)
    if not ours or not (regular or stat.S_ISDIR(status.st_mode)):
        return
    # For writing, because NFS locks no file that is only read.
    fd = os.open(path, (os.O_RDWR if regular else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if _take(fd) and _is_at(fd, path):
            remove(path)
    finally:
        close(fd)
