"""Output that appears whole or not at all: written beside its place, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ckptconv.containers.output import cannot_write, free_bytes, no_space
from ckptconv.errors import CannotWrite, OutputExists
from ckptconv.text import printable

FILE_SUFFIXES = (".pt", ".safetensors")
_INDEX = ".index.json"
_WEIGHTS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")


@dataclass(frozen=True)
class Stage:
    """path: where to write: the temporary file, or the temporary folder. removed: after the end, the names of the
    weight files of an earlier export that would have been taken for the new ones, and are gone."""

    path: Path
    removed: list[str] = field(default_factory=list)


@contextmanager
def staged(dst: Path, overwrite: bool, inputs: Iterable[Path] = (), need: int = 0) -> Iterator[Stage]:
    """A place to write `dst`, which is one file if its name ends in .pt or .safetensors, else a directory.

    What was written there replaces `dst` when the block ends; if the block raises, `dst` is as it was. A directory
    that exists keeps its other files; the new ones are moved in one by one, an index last. Links stay links: what they
    point to is replaced. inputs: files that must not be overwritten. need: bytes that will be written, if known.

    Raises OutputExists if `dst` is there (a directory: and not empty) and not to be overwritten, or is an input;
    CannotWrite for anything else that stands in the way. An OSError inside the block becomes CannotWrite too.
    """
    dst = Path(dst)
    try:
        target = Path(os.path.realpath(dst)) if dst.is_symlink() else dst
        work = _file if dst.name.endswith(FILE_SUFFIXES) else _folder
        _check_target(dst, target, work is _file, overwrite)
        _check_inputs(dst, target, inputs)
        _check_space(target.parent, need)
        with work(dst, target, overwrite) as stage:
            yield stage
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
    if not overwrite and (as_file or any(target.iterdir())):
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


def _show(path: Path) -> str:
    return printable(os.fspath(path))


def _temporary(folder: Path) -> Path:
    return folder / f".ckptconv-{os.getpid()}-{os.urandom(6).hex()}"


# ---- one file


@contextmanager
def _file(dst: Path, target: Path, overwrite: bool) -> Iterator[Stage]:
    temporary = _temporary(target.parent)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield Stage(temporary)
        _sync(temporary)
        if overwrite:
            temporary.replace(target)
        else:
            _move_new(temporary, target, dst)
        _sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _move_new(temporary: Path, target: Path, dst: Path) -> None:
    """Renames to a name that must be free: a link can't replace anything, unlike a rename."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise _exists(dst) from None
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise _exists(dst) from None
        temporary.rename(target)
        return
    temporary.unlink()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---- a directory


@contextmanager
def _folder(dst: Path, target: Path, overwrite: bool) -> Iterator[Stage]:
    there = target.exists()
    temporary = _temporary(target if there else target.parent)
    temporary.mkdir()
    try:
        stage = Stage(temporary)
        yield stage
        for path in (*_files_in(temporary), *_folders_in(temporary)):
            _sync(path)
        if there:
            stage.removed.extend(_move_into(temporary, target, dst, overwrite))
        else:
            _rename_new(temporary, target, dst)
        _sync(target if there else target.parent)
    except BaseException:
        _remove(temporary)
        raise


def _rename_new(temporary: Path, target: Path, dst: Path) -> None:
    if os.path.lexists(target):  # made by someone else in the meantime
        raise _exists(dst)
    temporary.rename(target)


def _move_into(temporary: Path, target: Path, dst: Path, overwrite: bool) -> list[str]:
    """Moves every file to its place, an index last, then takes away what would shadow them and returns its names."""
    names = sorted((path.relative_to(temporary) for path in _files_in(temporary)), key=_order)
    for name in names:
        if (target / name).is_dir():
            raise CannotWrite(f"{_show(target / name)} is a directory, where a file has to go: move it away", dst)
        if not overwrite and os.path.lexists(target / name):
            raise _exists(dst)
    for folder in _folders_in(temporary):
        (target / folder.relative_to(temporary)).mkdir(exist_ok=True)
    with ExitStack() as undo:
        for name in names:
            _put(temporary / name, target / name, undo)
        undo.pop_all()
    for folder in {(target / name).parent for name in names}:
        _sync(folder)
    removed = _stale(target, {str(name) for name in names})
    for stale in removed:
        (target / stale).unlink()
    _remove(temporary)
    return removed


def _put(new: Path, place: Path, undo: ExitStack) -> None:
    """Moves a file to its place; what was there comes back if a later file can't be moved to its own."""
    old = new.with_name(f"{new.name}.old")
    was_there = os.path.lexists(place)
    if was_there:
        with suppress(OSError):  # a file system without links: then there is no way back
            os.link(place, old, follow_symlinks=False)  # a second name, so that the place is never empty
    new.replace(place)
    if os.path.lexists(old):
        undo.callback(old.replace, place)
    elif not was_there:
        undo.callback(place.unlink)


def _order(name: Path) -> tuple[bool, str]:
    return name.name.endswith(_INDEX), str(name)


def _stale(target: Path, new: set[str]) -> list[str]:
    """Weight files of an earlier export that would be read instead of, or along with, the new ones."""
    if not any(name.endswith((*FILE_SUFFIXES, ".bin")) for name in new):
        return []
    return sorted(path.name for path in target.iterdir() if _WEIGHTS.fullmatch(path.name) and path.name not in new)


def _files_in(folder: Path) -> list[Path]:
    return [Path(root, name) for root, _, names in os.walk(folder) for name in names]


def _folders_in(folder: Path) -> list[Path]:
    return [Path(root) for root, _, _ in os.walk(folder)]


def _remove(folder: Path) -> None:
    for path in _files_in(folder):
        path.unlink(missing_ok=True)
    for path in reversed(_folders_in(folder)):
        path.rmdir()
