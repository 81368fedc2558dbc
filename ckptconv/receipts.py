"""Receipts (`conversion.json`): what was made of what, with the SHA-256 of every file, so that anybody can check it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ckptconv.containers.files import Source, Stamp, from_elsewhere, stored_on_disk
from ckptconv.containers.strictjson import BadJson, parse
from ckptconv.errors import CkptconvError, Damaged, NotACheckpoint, Unsafe
from ckptconv.text import printable

NAME = "conversion.json"
_LARGEST = 16 << 20
_PIECE = 1 << 20
_FILES_LIMIT = 10_000  # shards, and a dozen more
_VALUES_LIMIT = 1_000_000
_HOLES_LIMIT = 256 << 20  # bytes that are on no disk, of all files
_GROWTH = 64  # so many bytes may one on the disk stand for: a file system that compresses


@dataclass(frozen=True)
class Hashed:
    """One file: its name relative to the folder of the receipt (or of the source), bytes, SHA-256 in hexadecimal."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Verdict:
    """What became of a file that a receipt names. status: `same`, `changed` or `missing`. told: how, in words."""

    name: str
    status: str
    told: str


def place(output: Path) -> Path:
    """Where the receipt of an output lies: in a directory, or beside a file as `model.pt.conversion.json`, since other
    outputs may lie in the same folder."""
    return output / NAME if output.is_dir() else output.with_name(f"{output.name}.{NAME}")


def hashed(
    path: Path,
    name: str,
    stamp: tuple[int, int, int, int] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Hashed:
    """Size and SHA-256 of a file. stamp: what `fstat` said when it was opened before. stopped: asked now and then.

    Raises NotACheckpoint or Damaged where it can't be read, changes meanwhile, or has changed since `stamp`;
    InterruptedError once `stopped`.
    """
    import hashlib

    digest = hashlib.sha256()
    with Source(path) as source:
        source.check_unchanged(stamp and Stamp(*stamp))
        for start in range(0, source.size, _PIECE):
            if stopped():
                raise InterruptedError
            digest.update(source.read(start, min(_PIECE, source.size - start)))
        source.check_unchanged()
        return Hashed(name, source.size, digest.hexdigest())


def combined(files: Iterable[Hashed]) -> str:
    """One SHA-256 for several files: of the one file, or else of the lines that `sha256sum` prints for them."""
    import hashlib

    listed = list(files)
    if len(listed) == 1:
        return listed[0].sha256
    lines = "".join(f"{each.sha256}  {each.name}\n" for each in listed)
    return hashlib.sha256(os.fsencode(lines)).hexdigest()


class Hashes:
    """SHA-256 of several files. Each is read once, however often and by whatever name it is asked for, and files that
    are little but holes aren't read at all: a terabyte of them takes no room on the disk, and an hour to read."""

    def __init__(self) -> None:
        self._known: dict[Stamp, Hashed] = {}
        self._holes = _HOLES_LIMIT

    def of(self, path: Path, stamp: Stamp, stopped: Callable[[], bool] = lambda: False) -> Hashed:
        """The file at `path`, which is as `stamp` says. Raises as `hashed` does, and Unsafe for holes."""
        if stamp not in self._known:
            stored = stored_on_disk(path)
            self._holes -= max(0, stamp.size - _GROWTH * stored)
            if self._holes < 0:
                where = printable(str(path))
                raise Unsafe(f"{where} is refused as unsafe: {stored:,} of its {stamp.size:,} bytes are no holes", path)
            self._known[stamp] = hashed(path, path.name, stamp, stopped)
        return replace(self._known[stamp], name=path.name)


def read(output: Path) -> tuple[Hashed, ...]:
    """The files that the receipt of an output names. Raises NotACheckpoint where there is none, Damaged where it is no
    receipt."""
    path = place(output)
    if not path.exists():
        raise NotACheckpoint(
            f"{printable(str(output))} has no receipt ({printable(path.name)}): expected the output of `ckptconv "
            "convert`; to compare it with what it was made of, give both: ckptconv verify SRC DST",
            output,
        )
    where = printable(str(path))
    with Source(path) as source:
        if source.size > _LARGEST:
            raise Damaged(f"{where} is no receipt: {source.size:,} bytes, expected at most {_LARGEST:,}", path)
        data = source.read(0, source.size)
    try:
        listed = tuple(_listed(parse(data, _VALUES_LIMIT)))
    except BadJson as problem:
        raise Damaged(f"{where} is no receipt: it {problem}", path) from None
    if not listed or None in listed:
        raise Damaged(f"{where} is no receipt: expected `files`, a list of names, sizes and sha256", path)
    if len(listed) > _FILES_LIMIT:
        raise Damaged(f"{where} is no receipt: it names {len(listed):,} files, expected at most {_FILES_LIMIT:,}", path)
    return tuple(filter(None, listed))


def check(output: Path) -> tuple[Verdict, ...]:
    """Every file that the output's receipt names, read and compared with it."""
    folder, hashes = place(output).parent, Hashes()
    return tuple(_verdict(folder, each, hashes) for each in read(output))


def _listed(document: Any) -> Iterator[Hashed | None]:
    """What it says of each file; None where it doesn't."""
    files = document.get("files") if isinstance(document, dict) else None
    for each in files if isinstance(files, list) else ():
        match each:
            case {"name": str(name), "size": int(size), "sha256": str(sha256)}:
                yield Hashed(name, size, sha256)
            case _:
                yield None


def _verdict(folder: Path, told: Hashed, hashes: Hashes) -> Verdict:
    parts = Path(told.name).parts
    if not parts or Path(told.name).is_absolute() or ".." in parts:
        return Verdict(told.name, "changed", "a name that leaves the folder")
    path = folder / told.name
    if not os.path.lexists(path):
        return Verdict(told.name, "missing", "it isn't there")
    if from_elsewhere(path, folder):
        return Verdict(told.name, "changed", "a link that leaves the folder")
    try:
        with Source(path) as source:
            stamp = source.stamp
        if stamp.size != told.size:
            return Verdict(told.name, "changed", f"{stamp.size:,} bytes, {told.size:,} were written")
        found = hashes.of(path, stamp)
    except CkptconvError as problem:
        return Verdict(told.name, "changed", problem.message)
    if found.sha256 != told.sha256:
        return Verdict(told.name, "changed", f"SHA-256 {found.sha256[:12]}…, {told.sha256[:12]}… was written")
    return Verdict(told.name, "same", "")
