"""Small files that others wrote: opened so that nothing can hang, and never more of them read than expected."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from ckptconv.errors import Damaged
from ckptconv.text import printable

_MAX_JSON, _MAX_VALUES = 16_000_000, 200_000  # bytes, values


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """All bytes of a regular file. Raises OSError, with the reason as `strerror`, for anything else (a FIFO would wait
    for a writer, a device never end) and where there are more than `limit` bytes."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    except ValueError as problem:  # a NUL in the name
        raise OSError(errno.EINVAL, str(problem)) from None
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        data = file.read(limit + 1) if status.st_size <= limit else b""
    if len(data) > limit or status.st_size > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes")
    return data


def check_values(data: bytes, limit: int) -> None:
    """Raises ValueError if the JSON text lists far more values than `limit`: each may take 100 bytes of memory."""
    if sum(map(data.count, (b"[", b"{", b",", b":"))) > limit:
        raise ValueError("it holds far too many values")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in the file at `path`, or None where there is none. Raises Damaged for what is none."""
    if not path.is_file():
        return None
    try:
        data = read_regular(path, _MAX_JSON)
        check_values(data, _MAX_VALUES)
        document: Any = json.loads(data)
        if not isinstance(document, dict):
            raise ValueError("it is no object, `{…}`")
        return document
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{printable(path.name)} can't be read as JSON: {printable(str(error))}", path) from None
