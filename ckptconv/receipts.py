"""Receipts (`conversion.json`): what was made of what, with the SHA-256 of every file, so that anybody can check it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptconv.containers.files import Source, Stamp
from ckptconv.containers.strictjson import BadJson, parse
from ckptconv.errors import CkptconvError, Damaged, NotACheckpoint
from ckptconv.text import printable

NAME = "conversion.json"
_LARGEST = 16 << 20
_PIECE = 1 << 20


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
    listed = list(files)
    if len(listed) == 1:
        return listed[0].sha256
    lines = "".join(f"{each.sha256}  {each.name}\n" for each in listed)
    return hashlib.sha256(os.fsencode(lines)).hexdigest()


def read(output: Path) -> Mapping[str, Any]:
    """The receipt of an output. Raises NotACheckpoint where there is none, Damaged where it is no receipt."""
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
        document = parse(data)
    except BadJson as problem:
        raise Damaged(f"{where} is no receipt: it {problem}", path) from None
    if not isinstance(document, dict) or not list(_listed(document)):
        raise Damaged(f"{where} is no receipt: expected `files`, a list of names, sizes and sha256", path)
    return document


def check(output: Path) -> tuple[Verdict, ...]:
    """Every file that the output's receipt names, read and compared with it."""
    document = read(output)
    folder = place(output).parent
    return tuple(_verdict(folder, each) for each in _listed(document))


def _listed(document: Mapping[str, Any]) -> Iterator[Hashed]:
    files = document.get("files")
    for each in files if isinstance(files, list) else ():
        if not isinstance(each, dict):
            continue
        name, size, sha256 = (each.get(key) for key in ("name", "size", "sha256"))
        if isinstance(name, str) and isinstance(size, int) and isinstance(sha256, str):
            yield Hashed(name, size, sha256)


def _verdict(folder: Path, told: Hashed) -> Verdict:
    parts = Path(told.name).parts
    if not parts or Path(told.name).is_absolute() or ".." in parts:
        return Verdict(told.name, "changed", "a name that leaves the folder")
    path = folder / told.name
    if not os.path.lexists(path):
        return Verdict(told.name, "missing", "it isn't there")
    try:
        with Source(path) as source:
            size = source.size
        if size != told.size:
            return Verdict(told.name, "changed", f"{size:,} bytes, {told.size:,} were written")
        found = hashed(path, told.name)
    except CkptconvError as problem:
        return Verdict(told.name, "changed", problem.message)
    if found.sha256 != told.sha256:
        return Verdict(told.name, "changed", f"SHA-256 {found.sha256[:12]}…, {told.sha256[:12]}… was written")
    return Verdict(told.name, "same", "")
