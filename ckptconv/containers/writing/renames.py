"""The two renames that POSIX lacks and Linux and macOS have: one that replaces nothing, one that swaps two names."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_HERE = -100  # AT_FDCWD, linux/fcntl.h
_NOREPLACE, _EXCHANGE = 1, 2  # RENAME_NOREPLACE, RENAME_EXCHANGE, linux/fs.h
_EXCL, _SWAP = 4, 2  # RENAME_EXCL, RENAME_SWAP, sys/stdio.h of macOS

UNSUPPORTED = frozenset(
    {
        *(
            errno.ENOSYS,
            errno.EINVAL,
            errno.EOPNOTSUPP,
            errno.ENOTSUP,
        ),  # the system, or the file system, has no such call
        *(errno.EXDEV, errno.EBUSY, errno.EMLINK),  # mount points; too many names
        *(errno.EPERM, errno.EACCES),  # the folder around it is not ours
    }
)


def rename_new(old: Path, new: Path) -> None:
    """Renames to a name that must be free. Raises FileExistsError where it is taken.

    Where the file system can't do that in one step, a file gets its new name as a link, which replaces nothing
    either, and the caller has to remove the old name.
    """
    try:
        _rename(old, new, _NOREPLACE, _EXCL)
        return
    except OSError as problem:
        if problem.errno not in UNSUPPORTED:
            raise
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(new))
    if not old.is_dir():
        try:
            os.link(old, new)
            return
        except FileExistsError:
            raise
        except OSError as problem:
            if problem.errno not in UNSUPPORTED:
                raise
    try:
        os.rename(old, new)  # replaces no directory that holds anything
    except OSError as problem:
        if problem.errno != errno.ENOTEMPTY:
            raise
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(new)) from None


def exchange(one: Path, other: Path) -> None:
    """Swaps what two names of one file system stand for; there is no instant at which either is missing.

    Raises OSError, with an errno of UNSUPPORTED where that can't be done.
    """
    _rename(one, other, _EXCHANGE, _SWAP)


def _rename(old: Path, new: Path, linux: int, macos: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(old), os.fsencode(new)
    if hasattr(libc, "renameat2"):
        failed = libc.renameat2(_HERE, names[0], _HERE, names[1], linux)
    elif hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(*names, macos)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(new))
