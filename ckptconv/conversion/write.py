"""A prepared conversion → files. Bytes stream from file to file; the output appears whole or not at all."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ckptconv.containers.checkpoint import PADDLE_NAMES
from ckptconv.containers.plain import plain
from ckptconv.containers.read import Reader
from ckptconv.containers.writing import write_paddle, write_safetensors, write_sharded_safetensors, write_torch
from ckptconv.containers.writing.atomic import FILE_SUFFIXES, staged
from ckptconv.containers.writing.items import Item
from ckptconv.containers.writing.output import Create, Output, write_file
from ckptconv.conversion.cast import Overflow
from ckptconv.conversion.hashing import hashing
from ckptconv.conversion.prepare import Prepared
from ckptconv.conversion.receipt import receipt
from ckptconv.conversion.stream import stream
from ckptconv.errors import WrongUse
from ckptconv.plan import Step
from ckptconv.progress import Progress, counted, counter
from ckptconv.receipts import NAME, place
from ckptconv.text import printable

_OTHER_SUFFIXES = frozenset({".bin", ".pth", ".ckpt", ".pkl", ".pickle", ".torchscript", ".ptl"})
# The one file that a directory of such a container has; of others it may be several.
_WHOLE = {"torch": "model.pt", "paddle": "model_state.pdparams"}


@dataclass(frozen=True)
class Written:
    """What was written: files relative to the output, key → overflows of the cast, what is worth telling."""

    files: tuple[str, ...]
    overflowed: Mapping[str, int]
    notes: tuple[str, ...]


def write(prepared: Prepared, output: Path, progress: Progress) -> Written:
    """Write what was prepared. Raises OutputExists or CannotWrite, and then nothing of it is there."""
    overflows: dict[str, Overflow] = {}
    with Reader(prepared.checkpoint) as reader:
        items = _items(prepared, reader, overflows, progress)
        files, notes = _write_all(prepared, output, items)
    overflowed = {key: overflow.count for key, overflow in overflows.items() if overflow.count}
    return Written(tuple(files), overflowed, tuple(notes))


def _items(prepared: Prepared, reader: Reader, overflows: dict[str, Overflow], progress: Progress) -> list[Item]:
    count = counter(progress, sum(step.nbytes for step in prepared.plan.steps if step.tied_to is None))
    return [
        Item(step.key, step.dtype, step.shape, _metered(step, prepared, reader, overflows, count), step.tied_to)
        for step in prepared.plan.steps
    ]


def _metered(
    step: Step, prepared: Prepared, reader: Reader, overflows: dict[str, Overflow], count: Callable[[int], None]
) -> Callable[[], Iterator[Any]]:
    """A function that yields the target tensor's bytes, and counts them."""

    def chunks() -> Iterator[Any]:
        overflow = overflows.setdefault(step.key, Overflow())
        return counted(stream(step, prepared.state_dict, reader, overflow), count)

    return chunks


def _write_all(prepared: Prepared, output: Path, items: list[Item]) -> tuple[list[str], list[str]]:
    """(files written, relative to a directory or the name of the one file; what is worth telling)."""
    need = sum(item.nbytes for item in items if item.tied_to is None)
    single = output.name.endswith(FILE_SUFFIXES)
    if output.suffix in _OTHER_SUFFIXES:
        raise WrongUse(
            f"{printable(output.name)}: a file's name must end in .pt, .safetensors or .pdparams, a directory's in "
            "none of them."
        )
    with (
        staged(output, prepared.options.overwrite, prepared.checkpoint.files, need) as stage,
        hashing(prepared.checkpoint) if prepared.options.receipt else nullcontext() as hashes,
    ):
        write = partial(_write_file, output) if single else _write_folder
        written = write(prepared, stage.path, items, hashes.create if hashes else Output)
        document = receipt(prepared, hashes.sources(), hashes.written(written)) if hashes else None
        left = place(output) if single else output / NAME
        if document and single:
            stage.beside[left] = document
        elif document:
            write_file(stage.path / NAME, document)
    removed = list(stage.removed)
    if not document and left.is_file():  # of what was there before
        left.unlink()
        removed.append(left.name)
    files = [*written, *([left.name] if document else [])]
    return files, [*_untold(prepared, output, single), *(f"removed the older {name}" for name in removed)]


def _write_file(output: Path, prepared: Prepared, path: Path, items: list[Item], create: Create) -> dict[str, Path]:
    _write_weights(prepared, path, output.suffix, items, create)
    return {output.name: path}


def _write_folder(prepared: Prepared, folder: Path, items: list[Item], create: Create) -> dict[str, Path]:
    """Name → where it was written, of every file."""
    for name, content in prepared.extras.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_file(folder / name, content, create)
    whole = _WHOLE.get(prepared.target.container) if prepared.target else None
    if whole:
        _write_weights(prepared, folder / whole, Path(whole).suffix, items, create)
        names = [whole]
    else:
        metadata = prepared.checkpoint.metadata
        names = write_sharded_safetensors(folder, items, metadata, prepared.options.max_shard_size, create)
    return {name: folder / name for name in (*names, *prepared.extras)}


def _write_weights(prepared: Prepared, path: Path, suffix: str, items: list[Item], create: Create) -> None:
    """suffix: of the name that the file at `path` will have."""
    if suffix == ".safetensors":
        write_safetensors(path, items, prepared.checkpoint.metadata, create)
    elif suffix == ".pdparams":
        write_paddle(path, items, _program_names(prepared), create)
    else:
        write_torch(path, items, _entry(prepared), _beside(prepared), create)


def _program_names(prepared: Prepared) -> dict[str, str] | None:
    """What Paddle calls the parameters in the program, if the keys are still those of a Paddle file. paddle.load needs
    no such names, and makes up its own for a file without them."""
    said = plain(prepared.checkpoint.other.get(PADDLE_NAMES)) if prepared.target is None else None
    keys = {step.key for step in prepared.plan.steps}
    return {key: str(name) for key, name in said.items() if key in keys} if isinstance(said, dict) else None


def _beside(prepared: Prepared) -> dict[str, Any]:
    """The entries beside the state dict. fairseq's `args`, up to 0.10, are an argparse.Namespace."""
    document = prepared.config.document("")
    args = document.get("args")
    if prepared.target and isinstance(args, dict):
        document = {**document, "args": Namespace(**args)}
    return {**prepared.entries, **document}


def _entry(prepared: Prepared) -> str | None:
    """The top-level entry that the state dict is written under: the layout's; with --to same, the source's."""
    return prepared.target.entry if prepared.target else prepared.entry or None


def _untold(prepared: Prepared, output: Path, single: bool) -> list[str]:
    notes = []
    if single and prepared.extras:
        names = ", ".join(prepared.extras)
        notes.append(f"one file holds the weights only; for {names} give a directory as the output")
    document = {**prepared.entries, **prepared.config.document("")}
    if document and (output.suffix in (".safetensors", ".pdparams") or not (prepared.target or single)):
        container = "a Paddle file" if output.suffix == ".pdparams" else "safetensors"
        entries = ", ".join(map(printable, document))
        notes.append(f"{container} has no place for {entries}: write a .pt file to keep them")
    return notes
