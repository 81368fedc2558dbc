"""A made-up export, and what is in a folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ckptconv.containers.writing import staged
from ckptconv.containers.writing.atomic import Stage


def tree(folder: Path) -> dict[str, str | None]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def fill(dst: Path, overwrite: bool = False, **more: object) -> Iterator[Stage]:
    """Writes "new" as a file, or three files as a directory."""
    with staged(dst, overwrite, **more) as stage:
        if stage.path.is_dir():
            (stage.path / "config.json").write_text("new")
            (stage.path / "sub").mkdir()
            (stage.path / "sub" / "deep").write_text("new")
            (stage.path / "model.safetensors").write_text("new")
        else:
            stage.path.write_text("new")
        yield stage


NEW = {"config.json": "new", "model.safetensors": "new", "sub": None, "sub/deep": "new"}


def cannot_swap(*_: object) -> None:
    """A rename on a file system that can't do what is asked for."""
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
