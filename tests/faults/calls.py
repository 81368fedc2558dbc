"""What a conversion asks of the system while it writes: every call counted, and the one that is wanted made to fail.

The calls are replaced in this process, which is meant to be a fork that ends after one conversion. Calls on files that
are only read don't count.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ckptconv.containers.writing import renames

_MAKING = ("open", "write", "pwrite", "posix_fallocate", "fsync", "close", "mkdir", "chmod", "chown", "utime")
NAMES = (*_MAKING, "link", "rename", "replace", "unlink", "rmdir", "listdir", "scandir")
# Calls that removing needs.
REMOVING = frozenset({"unlink", "rmdir", "scandir", "listdir", "open", "close", "flock"})
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EINTR)
KILL, SHORT = -1, -2  # in place of an errno


@dataclass
class Calls:
    """nth: the call that fails, counted from 0; -1: none. fault: its errno, KILL, or SHORT: half of it is written.
    lasting: the calls after it fail too. exchange: False on a file system that can't swap two names."""

    nth: int = -1
    fault: int = 0
    lasting: bool = False
    exchange: bool = True
    names: list[str] = field(default_factory=list)
    _ours: set[int] = field(default_factory=set)

    def install(self) -> None:
        """From now on, in this process."""
        for name in NAMES:
            setattr(os, name, self._counted(name, getattr(os, name)))
        fcntl.flock = self._counted("flock", fcntl.flock)
        renames._rename = self._counted("renameat2", renames._rename)

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if name == "renameat2" and args[2] == 2 and not self.exchange:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            if not self._counts(name, args):
                return real(*args, **more)
            self.names.append(name)
            at = len(self.names) - 1
            if at == self.nth or (self.lasting and at > self.nth):
                self._fail(name, real, args)
                if self.fault == SHORT:
                    return real(args[0], args[1][: (len(args[1]) + 1) // 2])
            made = real(*args, **more)
            if name == "open":
                self._ours.add(made)
            elif name == "close":
                self._ours.discard(args[0])
            return made

        return call

    def _counts(self, name: str, args: tuple[Any, ...]) -> bool:
        if name == "open":
            return bool(args[1] & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY)) or _is_folder(args[0])
        if name == "close":
            return args[0] in self._ours
        return True

    def _fail(self, name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if self.fault == SHORT:
            return
        if self.fault == KILL:
            if name == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "close":  # Linux closes, whatever it says
            self._ours.discard(args[0])
            real(*args)
        raise OSError(self.fault, os.strerror(self.fault))


def _is_folder(path: Any) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False
