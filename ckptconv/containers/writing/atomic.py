"""Output that appears whole or not at all: written beside its place, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ckptconv.containers.writing.folders import folders_in, holds_something, put_into, sync_folder
from ckptconv.containers.writing.output import cannot_write, free_bytes, no_space, write_file
from ckptconv.containers.writing.renames import rename_new
from ckptconv.containers.writing.temporary import remove_stale, temporary_file, temporary_folder
from ckptconv.errors import CannotWrite, OutputExists
from ckptconv.text import printable

FILE_SUFFIXES = (".pt", ".safetensors", ".pdparams")


@dataclass(frozen=True)
class Stage:
    """path: where to write: the temporary file, or the temporary folder. removed: after the end, the names of the
    weight files of an earlier export that would have been taken for the new ones, and are gone. beside: what goes
    beside one file, right after it and only with it: where → contents; it replaces what is there."""

    path: Path
    removed: list[str] = field(default_factory=list)
    beside: dict[Path, bytes] = field(default_factory=dict)


@contextmanager
def staged(dst: Path, overwrite: bool, inputs: Iterable[Path] = (), need: int = 0) -> Iterator[Stage]:
    """A place to write `dst`, which is one file if its name ends in .pt or .safetensors, else a directory.

    What was written there, by `output.Output`, replaces `dst` when the block ends; if the block raises, `dst` is as it
    was. A directory that exists keeps its other files (`folders`). Links stay links: what they point to is replaced.
    A file's mode is what the umask makes of 0666, also where it replaces one. What killed runs left is removed.
    inputs: files that must not be overwritten. need: bytes that will be written, if known.

    Raises OutputExists if `dst` is there (a directory: and not empty) and not to be overwritten, or is an input;
    CannotWrite for anything else that stands in the way. An OSError inside the block becomes CannotWrite too.
    """
    dst = Path(dst)
    try:
        target = Path(os.path.realpath(dst))
        work = _file if dst.name.endswith(FILE_SUFFIXES) else _folder
        _check_target(dst, target, work is _file, overwrite)
        _check_inputs(dst, target, inputs)
        for folder in (target.parent, target):
            remove_stale(folder)
        _check_space(target if target.is_dir() else target.parent, need)
        with work(dst, target, overwrite) as stage, _told_of(dst, stage.path):
            yield stage
    except FileExistsError:
        raise _exists(dst) from None
    except OSError as problem:
        raise cannot_write(problem, dst, need) from None


def _check_target(dst: Path, target: Path, as_file: bool, overwrite: bool) -> None:
    shown = _show(dst)
    if not target.parent.is_dir():
        raise CannotWrite(f"{shown} can't be written: there is no folder {_show(target.parent)}", dst)
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    if as_file and stat.S_ISDIR(mode):
        raise CannotWrite(f"{shown} is a directory, but its name asks for one file: choose another name", dst)
    if as_file and not stat.S_ISREG(mode):
        raise CannotWrite(f"{shown} is not a regular file: choose another name", dst)
    if not as_file and not stat.S_ISDIR(mode):
        hint = "a file's name must end in .pt or .safetensors"
        raise CannotWrite(f"{shown} is there and is no directory: choose another name ({hint})", dst)
    if not overwrite and (as_file or holds_something(target)):
        raise _exists(dst)


def _check_inputs(dst: Path, target: Path, inputs: Iterable[Path]) -> None:
    if not target.exists():
        return
    for path in inputs:
        if not path.exists():
            continue
        if os.path.samefile(path, target):
            raise OutputExists(f"{_show(dst)} is the input itself: choose another output", dst)
        if target.is_dir() and os.path.samefile(path.parent, target):
            raise OutputExists(f"{_show(dst)} holds the input {_show(path)}: choose another output", dst)


def _check_space(folder: Path, need: int) -> None:
    if need > free_bytes(folder) > 0:
        raise no_space(folder, need)


def _exists(dst: Path) -> OutputExists:
    return OutputExists(f"{_show(dst)} is there already: choose another name, or give --overwrite", dst)


@contextmanager
def _told_of(dst: Path, temporary: Path) -> Iterator[None]:
    """Errors about the temporary name are told of the name that was asked for."""
    try:
        yield
    except CannotWrite as problem:
        raise CannotWrite(problem.message.replace(_show(temporary), _show(dst)), dst) from None


def _show(path: Path) -> str:
    return printable(os.fspath(path))


@contextmanager
def _file(dst: Path, target: Path, overwrite: bool) -> Iterator[Stage]:
    with ExitStack() as temporaries:
        stage = Stage(temporaries.enter_context(temporary_file(target.parent)))
        yield stage
        beside = {place: temporaries.enter_context(_small_file(place, stage.beside[place])) for place in stage.beside}
        if overwrite:
            os.replace(stage.path, target)
        else:
            rename_new(stage.path, target)
        _settle(dst, target.parent, beside)


@contextmanager
def _small_file(place: Path, data: bytes) -> Iterator[Path]:
    """A temporary file that holds the data."""
    with temporary_file(place.parent) as temporary:
        with _told_of(place, temporary):
            write_file(temporary, data)
        yield temporary


@contextmanager
def _folder(dst: Path, target: Path, overwrite: bool) -> Iterator[Stage]:
    with temporary_folder(target) as temporary:
        stage = Stage(temporary)
        yield stage
        for folder in folders_in(temporary):
            sync_folder(folder)
        if not target.is_dir() and _made(temporary, target, overwrite):
            _settle(dst, target.parent)
        else:
            stage.removed.extend(put_into(target, temporary, overwrite))


def _made(temporary: Path, target: Path, overwrite: bool) -> bool:
    """Whether the target is new. It may have been made by another run in the meantime, and may be overwritten then."""
    try:
        rename_new(temporary, target)
    except FileExistsError:
        if overwrite and target.is_dir():
            return False
        raise
    return True


def _settle(dst: Path, folder: Path, beside: Mapping[Path, Path] = MappingProxyType({})) -> None:
    """Ends what has begun to be there: nothing can be taken back any more."""
    try:
        for place, temporary in beside.items():
            os.replace(temporary, place)
        sync_folder(folder)
    except OSError as problem:
        told = f"is there, but its folder can't be written to the end: {problem.strerror}: check the disk"
        raise CannotWrite(f"{_show(dst)} {told}", dst) from None
