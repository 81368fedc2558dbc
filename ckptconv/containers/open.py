"""`open_checkpoint`: one way into every container, decided by the first bytes and never by the file's name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ckptconv.containers.checkpoint import Checkpoint
from ckptconv.containers.files import Source
from ckptconv.containers.reading import Reading
from ckptconv.errors import CkptconvError, NotACheckpoint, Unsafe
from ckptconv.memory import uncollected
from ckptconv.text import printable

_PREFERRED = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "model.pt",
    "checkpoint_best.pt",
    "checkpoint_last.pt",
    "model_state.pdparams",
)
_SUFFIXES = (".safetensors", ".pt", ".bin", ".pth", ".pdparams", ".torchscript", ".ptl")
_NO_WEIGHTS = (
    "training_args.bin",
    "optimizer.bin",
    "optimizer.pt",
    "scheduler.bin",
    "scheduler.pt",
    "scaler.pt",
    "rng_state.pth",
)
_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
_LEGACY_MAGIC_TEXT = b"L119547037146038801333356L\n."

_OTHER_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer, not the weights: run git lfs pull"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
    (b"\xfd7zXZ\0", "compressed with xz: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-zip archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89HDF\r\n", "an HDF5 file (Keras or TensorFlow), which ckptconv doesn't read"),
    (b"\x93NUMPY", "a numpy array, not a checkpoint"),
    (b"GGUF", "a GGUF file, which ckptconv doesn't read"),
    (b"PK\x05\x06", "an empty zip file"),
)


def open_checkpoint(path: str | os.PathLike[str], allow_unknown: bool = False) -> Checkpoint:
    """What a checkpoint holds and where; none of its tensors is read.

    path: a file of any container, an index of shards, or a directory with weights in it. allow_unknown: whether pickles
    may call functions of other packages; the calls are not made, but kept as records of what the file says.
    Raises NotACheckpoint, Damaged, Unsafe or Unsupported, each with one sentence that names the file.
    """
    path = Path(path)
    reading = Reading(allow_unknown)
    if not os.path.isdir(path):  # unlike Path.is_dir, never an OSError
        return _open_file(path, reading)
    chosen, notes = _choose(path)
    opened = _open_file(chosen, reading)
    return opened._replace(notes=notes + opened.notes)


def _open_file(path: Path, reading: Reading, shard: bool = False) -> Checkpoint:
    with uncollected(), Source(path) as source:
        try:
            return _reader(source, shard)(source, reading)
        except CkptconvError as problem:
            problem.path = problem.path or os.fspath(path)
            raise
        except RecursionError:
            raise Unsafe(f"{source.where} is refused as unsafe: it is nested too deeply", path) from None


def _choose(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The file with the weights in a directory, and a note where there are several."""
    where = printable(str(folder))
    try:
        names = sorted(os.listdir(folder))
    except OSError as problem:
        raise NotACheckpoint(f"{where} can't be listed: {problem.strerror}", folder) from None
    weights = [name for name in names if name.endswith(_SUFFIXES) and name not in _NO_WEIGHTS]
    preferred = [name for name in _PREFERRED if name in names]
    if not preferred and not weights:
        kinds = f"{', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}"
        raise NotACheckpoint(f"{where} has no weights in it: no {kinds} file", folder)
    if not preferred and len(weights) > 1:
        shown = ", ".join(map(printable, weights[:10])) + (" …" if len(weights) > 10 else "")
        raise NotACheckpoint(f"{where} has several weight files: name the one you mean ({shown})", folder)
    chosen = (preferred or weights)[0]
    others = [name for name in dict.fromkeys(preferred + weights) if name != chosen and not _is_shard_of(name, chosen)]
    if not others:
        return folder / chosen, ()
    shown = ", ".join(map(printable, others[:5])) + (" …" if len(others) > 5 else "")
    return folder / chosen, (f"the directory has several weight files: took {printable(chosen)}, not {shown}",)


def _is_shard_of(name: str, index: str) -> bool:
    stem, _, suffix = index.removesuffix(".index.json").rpartition(".")
    return index.endswith(".index.json") and name.startswith(f"{stem}-") and name.endswith(f".{suffix}")


def _reader(source: Source, shard: bool) -> Callable[[Source, Reading], Checkpoint]:
    """What opens a file that begins like this; only that reader is imported."""
    head = source.read(0, min(source.size, 512))
    if head.startswith(b"PK\x03\x04"):
        return _open_zip
    if _LEGACY_MAGIC in head[:32] or head.startswith(_LEGACY_MAGIC_TEXT):
        from ckptconv.containers.torch_legacy import open_torch_legacy

        return open_torch_legacy
    if head[8:9] == b"{" and not _is_text(head[:8]):
        from ckptconv.containers.safetensors import open_safetensors

        return open_safetensors
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        from ckptconv.containers.paddle import open_paddle

        return open_paddle
    if _is_text(head) and head.lstrip()[:1] == b"{" and not shard:
        return _open_index
    raise _what_it_is(source, head)


def _open_zip(source: Source, reading: Reading) -> Checkpoint:
    from ckptconv.containers.torch_zip import open_archive, open_torch_zip

    archive = open_archive(source)
    if not archive.is_script:
        return open_torch_zip(archive, reading)
    from ckptconv.containers.torchscript import open_torchscript

    return open_torchscript(archive, reading)


def _open_index(source: Source, reading: Reading) -> Checkpoint:
    from ckptconv.containers.sharded import open_sharded

    return open_sharded(source, lambda path: _open_file(path, reading, shard=True))


def _is_text(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as problem:
        if problem.start < len(head) - 3:  # else a character that was cut
            return False
    return bool(head) and not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head)


def _what_it_is(source: Source, head: bytes) -> CkptconvError:
    """The error that says what a file is which is no checkpoint."""
    if not head:
        return NotACheckpoint(f"{source.where} is an empty file", source.path)
    for magic, kind in _OTHER_KINDS:
        if head.startswith(magic):
            return NotACheckpoint(f"{source.where} is {kind}", source.path)
    if head[257:262] == b"ustar":
        return NotACheckpoint(f"{source.where} is a tar archive: unpack it first", source.path)
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        return NotACheckpoint(f"{source.where} is an HTML page, not the weights: the download went wrong", source.path)
    if not head.strip(b"\0"):
        return NotACheckpoint(
            f"{source.where} begins with nothing but zeros: it was probably never written", source.path
        )
    kind = "a text file" if _is_text(head) else "no torch, safetensors or sharded checkpoint"
    return NotACheckpoint(f"{source.where} is {kind}: it begins with {printable(repr(head[:16]))}", source.path)
