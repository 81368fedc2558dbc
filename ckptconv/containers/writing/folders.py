"""New files for a directory that is there: all of them or none, at every instant, also for a process that is killed.

The new directory is built whole beside the old one, where the old one's other files get a second name in it (a hard
link: nothing is copied, and who has them open keeps them). Then the two are swapped in one step (`renames.exchange`).
But the old directory is more than its files: shells stand in it, containers have it mounted, its owner and its ACL may
not be ours to give. So it is only out of sight for a moment: it gets the new files too, and is swapped back. Whoever is
killed on the way leaves a whole directory, old or new, and a temporary one that the next run removes.

Where swapping or linking isn't possible (a mount point, a folder around it that isn't ours, an old file system), the
files are moved in one by one, the weights behind the rest and their index last. A failure brings the old ones back; a
SIGKILL or a power cut in that moment leaves some old and some new files, each of them whole.

Either way the directory is locked meanwhile, so that of several runs one comes after the other.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from ckptconv.containers.writing.renames import UNSUPPORTED, exchange, rename_new
from ckptconv.containers.writing.temporary import close, is_temporary, locked
from ckptconv.errors import CannotWrite
from ckptconv.text import printable

_INDEX = ".index.json"
_SUFFIXES = (".pt", ".safetensors", ".bin", ".pdparams")
_WEIGHTS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?|model_state\.pdparams")


def put_into(target: Path, new: Path, overwrite: bool) -> list[str]:
    """Puts every file of the temporary folder `new` into the directory `target`, which keeps its other files.

    Weight files of an earlier export, that would be read instead of the new ones or along with them, are taken away:
    their names are returned. Raises FileExistsError without
    `overwrite` if the directory is not empty; CannotWrite; OSError. Then the directory is as it was.
    """
    with locked(target):
        names = sorted((path.relative_to(new) for path in files_in(new)), key=_order)
        if not overwrite:
            _require_empty(target)
        _check_room(target, names)
        stale = _stale(target, names)
        if new.parent == target or not _swap(target, new, names, stale, overwrite):
            _move_in(target, new, names, stale)
    return [str(name) for name in stale]


def _require_empty(folder: Path) -> None:
    if holds_something(folder):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(folder))


def holds_something(folder: Path) -> bool:
    """Whether there is anything in the folder but temporary files of ours."""
    return not all(is_temporary(name) for name in os.listdir(folder))


def _check_room(target: Path, names: Sequence[Path]) -> None:
    for name in names:
        if (target / name).is_dir() and not (target / name).is_symlink():
            told = "is a directory, where a file has to go: move it away"
            raise CannotWrite(f"{_show(target / name)} {told}", target / name)
        for folder in list(name.parents)[:-1]:
            if os.path.lexists(target / folder) and not (target / folder).is_dir():
                told = "is no directory, where one has to be: move it away"
                raise CannotWrite(f"{_show(target / folder)} {told}", target / folder)


def _order(name: Path) -> tuple[bool, bool, str]:
    return name.name.endswith(_INDEX), name.name.endswith(_SUFFIXES), str(name)


def _stale(target: Path, names: Sequence[Path]) -> list[Path]:
    if not any(name.name.endswith(_SUFFIXES) for name in names):
        return []
    there = (Path(name) for name in sorted(os.listdir(target)) if _WEIGHTS.fullmatch(name))
    return [name for name in there if name not in names and not (target / name).is_dir()]


# ---- whole directories, swapped


def _swap(target: Path, new: Path, names: Sequence[Path], stale: Sequence[Path], overwrite: bool) -> bool:
    """Makes `new` whole and swaps it with the target, and back. False, with nothing done, where that isn't possible."""
    try:
        _carry_over(target, new, {*names, *stale})
        exchange(new, target)
    except OSError as problem:
        if problem.errno in UNSUPPORTED or problem.errno == errno.EEXIST:  # EEXIST: a link where a folder has to go
            return False
        raise
    old = new  # from here on
    try:
        sync_folder(target.parent)
        if not overwrite:
            _require_empty(old)  # someone else may have been faster
    except BaseException:
        with suppress(OSError):
            exchange(old, target)
        raise
    with suppress(OSError):  # if the old directory can't come back, the new one stays, which is whole
        _renew(old, target, names, stale)
        exchange(old, target)
        sync_folder(target.parent)
    with suppress(OSError):
        _rescue(old, target, stale)
    return True


def _carry_over(target: Path, new: Path, without: set[Path]) -> None:
    """Gives every other file of the target a second name in `new`, in folders of the same mode and owner."""
    for source in folders_in(target):
        folder = new / source.relative_to(target)
        if source != target:
            _copy_folder(source, folder)
        for path in _entries(source)[1]:
            if path.relative_to(target) not in without:
                os.link(path, folder / path.name, follow_symlinks=False)
        sync_folder(folder)


def _copy_folder(source: Path, folder: Path) -> None:
    if not folder.is_dir():
        os.mkdir(folder)
    status = os.stat(source)
    with suppress(OSError):
        os.chown(folder, status.st_uid, status.st_gid)
    shutil.copystat(source, folder)


def _renew(old: Path, target: Path, names: Sequence[Path], stale: Sequence[Path]) -> None:
    """The new files for the directory that is out of sight: second names of those in the target."""
    for name in names:
        os.makedirs((old / name).parent, exist_ok=True)
        if os.path.lexists(old / name):
            os.unlink(old / name)
        os.link(target / name, old / name)
    for name in stale:
        os.unlink(old / name)
    for folder in {old, *((old / name).parent for name in names)}:
        sync_folder(folder)


def _rescue(hidden: Path, target: Path, stale: Sequence[Path]) -> None:
    """Moves out what others wrote, while it was in sight, into the directory that is to be removed."""
    for path in files_in(hidden):
        name = path.relative_to(hidden)
        if name not in stale and not os.path.lexists(target / name) and (target / name).parent.is_dir():
            os.rename(path, target / name)


# ---- file by file


def _move_in(target: Path, new: Path, names: Sequence[Path], stale: Sequence[Path]) -> None:
    """Moves every file to its place and the stale ones away; whatever fails, all of it is undone."""
    with ExitStack() as undo:
        for folder in sorted({folder for name in names for folder in list(name.parents)[:-1]}):
            if not (target / folder).is_dir():
                os.mkdir(target / folder)
                undo.callback(_quietly(os.rmdir), target / folder)
        for name in names:
            _put(new / name, target / name, undo)
        folders = {target, *((target / name).parent for name in names)}
        for folder in folders:
            sync_folder(folder)
        for name in stale:
            os.rename(target / name, _old(new / name))
            undo.callback(_quietly(os.rename), _old(new / name), target / name)
        sync_folder(target)
        undo.pop_all()


def _put(new: Path, place: Path, undo: ExitStack) -> None:
    old, was_there = _old(new), os.path.lexists(place)
    if was_there:
        try:
            os.link(place, old, follow_symlinks=False)  # a second name, so that the place is never empty
        except OSError as problem:
            if problem.errno not in UNSUPPORTED:
                raise
            os.rename(place, old)  # a file system without links
        undo.callback(_quietly(os.replace), old, place)
        os.replace(new, place)
    else:
        rename_new(new, place)
        undo.callback(_quietly(os.unlink), place)


def _old(new: Path) -> Path:
    return new.with_name(f"{new.name}.old")


def _quietly(call: Callable[..., None]) -> Callable[..., None]:
    def undo(*paths: Path) -> None:
        with suppress(OSError):
            call(*paths)

    return undo


# ---- walking


def files_in(folder: Path) -> list[Path]:
    """Every file below the folder, and every link, whatever it leads to. Raises OSError if a folder can't be read."""
    return [path for each in folders_in(folder) for path in _entries(each)[1]]


def folders_in(folder: Path) -> list[Path]:
    """The folder and every one below it, outermost first; links are not followed. Raises OSError."""
    return [folder, *(deep for inner in _entries(folder)[0] for deep in folders_in(inner))]


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """(the folders, everything else) in a folder, but for temporary ones of ours."""
    kinds: tuple[list[Path], list[Path]] = [], []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not is_temporary(entry.name):
                kinds[not entry.is_dir(follow_symlinks=False)].append(Path(entry.path))
    return kinds


def sync_folder(folder: Path) -> None:
    """Flushes a folder's names to the disk, where its file system can do that and we may open it. Raises OSError."""
    try:
        fd = os.open(folder, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except PermissionError:  # we may write here, not read
        return
    try:
        os.fsync(fd)
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        close(fd)


def _show(path: Path) -> str:
    return printable(os.fspath(path))
