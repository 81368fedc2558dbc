"""Reads what torch.save writes since torch 1.6: a zip with `<root>/data.pkl` and one record per storage.

`open_archive` and `unpickle` serve TorchScript archives as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ckptconv.containers.checkpoint import Checkpoint, Storage
from ckptconv.containers.files import Source
from ckptconv.containers.inert import Node, StorageRef
from ckptconv.containers.pickles import PICKLE_LIMIT, BadView, Pickle, read_pickle
from ckptconv.containers.reading import Reading
from ckptconv.containers.rebuild import REBUILD, StorageId, storage_id
from ckptconv.containers.statedicts import split, third_party_note
from ckptconv.containers.zipdir import Record, read_directory, read_record
from ckptconv.errors import Damaged, NotACheckpoint, Unsupported
from ckptconv.text import printable

_NO_CHECKSUM = "was saved without checksums (torch.serialization.set_crc32_options), so its bytes can't be verified"


BYTE_ORDER, FORMAT_VERSION = "byteorder", ".format_version"


class Archive(NamedTuple):
    """One of torch's zips. root: the folder that all records lie in, with its slash, or "". swap: big-endian."""

    source: Source
    records: Mapping[str, Record]
    root: str
    swap: bool

    @property
    def is_script(self) -> bool:
        """Whether torch.jit.save wrote it: there is code in it."""
        code = f"{self.root}code/"
        return f"{self.root}constants.pkl" in self.records or any(name.startswith(code) for name in self.records)

    @property
    def telling(self) -> frozenset[str]:
        """The records that tell which torch wrote the zip (`containers.producer`)."""
        return frozenset(name for name in (BYTE_ORDER, FORMAT_VERSION) if f"{self.root}{name}" in self.records)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth telling about the zip itself."""
        return (_NO_CHECKSUM,) if any(record.crc32 is None for record in self.records.values()) else ()


def open_archive(source: Source) -> Archive:
    """The zip's directory. Raises NotACheckpoint for another zip, or Damaged."""
    records = read_directory(source)
    root = _find_root(source, records)
    return Archive(source, records, root, _is_big_endian(source, records.get(f"{root}{BYTE_ORDER}")))


def open_torch_zip(archive: Archive, reading: Reading) -> Checkpoint:
    """The checkpoint that torch.save wrote. Raises Damaged, Unsafe or Unsupported."""
    source = archive.source
    pickle = unpickle(archive, "data", reading)
    entries, other = split(pickle.root, source.path, reading)
    return Checkpoint(
        path=source.path,
        container="torch zip",
        files=(source.path,),
        entries=entries,
        other=other,
        globals=tuple(name.full for name in pickle.globals),
        notes=third_party_note(pickle.globals) + archive.notes,
        stamps={source.path: source.stamp},
        records=archive.telling,
    )


def _find_root(source: Source, records: Mapping[str, Record]) -> str:
    """`archive/`, from the one record archive/data.pkl."""
    pickles = [name for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
    if not pickles and any(name.endswith("/model.json") for name in records):
        raise Unsupported(
            f"{source.where} is not supported: it is a TorchScript archive of torch 1.3 or older: "
            "read it with torch.jit.load and write its state_dict() with torch.save",
            source.path,
        )
    if not pickles:
        raise NotACheckpoint(f"{source.where} is a zip file, but not one of torch's: it has no data.pkl", source.path)
    if len(pickles) > 1:
        shown = ", ".join(map(printable, pickles[:5]))
        raise Damaged(f"{source.where} is damaged: it has several data.pkl ({shown})", source.path)
    root = pickles[0].removesuffix("data.pkl")
    outside = next((name for name in records if not name.startswith(root) or ".." in name.split("/")), None)
    if outside is not None:
        raise Damaged(
            f"{source.where} is damaged: its record {printable(outside)} lies outside of {printable(root)}", source.path
        )
    return root


def _is_big_endian(source: Source, record: Record | None) -> bool:
    if record is None:  # torch before 2.1 didn't say, and ran on little-endian machines
        return False
    order = read_record(source, record, 64)
    if order not in (b"little", b"big"):
        raise Damaged(f"{source.where} is damaged: its byte order is {printable(order.decode('latin-1'))}", source.path)
    return order == b"big"


def unpickle(archive: Archive, name: str, reading: Reading) -> Pickle:
    """The pickle `<name>.pkl`, whose storages are the records in `<name>/`. Raises Damaged, Unsafe or Unsupported."""
    source, records, root, swap = archive
    known: dict[str, Storage] = {}
    kinds: dict[str, StorageId] = {}
    folder = f"{root}{name}/"
    storages = {name.removeprefix(folder): record for name, record in records.items() if name.startswith(folder)}

    def persist(pid: Node) -> StorageRef:
        named = storage_id(pid)
        if named.location == "meta":
            return StorageRef(named.kind, named.key, named.location, named.dtype, None)
        record = storages.get(named.key)
        if record is None:
            raise BadView(f"lies in storage {printable(named.key)}, which the file lacks")
        if named.nbytes > record.nbytes:
            key, have = printable(named.key), record.nbytes
            raise BadView(f"lies in storage {key} of {named.nbytes} bytes, of which the file has {have}")
        first = kinds.setdefault(named.key, named)
        if first is not named and first.dtype != named.dtype:
            raise BadView(f"lies in storage {printable(named.key)} under a second type")
        if named.key not in known:
            packed = record.packed if record.deflated else None
            known[named.key] = Storage(source.path, record.start, record.nbytes, record.crc32, swap, packed)
        return StorageRef(named.kind, named.key, named.location, named.dtype, known[named.key])

    record = records[f"{root}{name}.pkl"]
    data = read_record(source, record, PICKLE_LIMIT)
    pickle = read_pickle(data, source.where, persist, REBUILD, reading=reading)
    reading.memory -= pickle.memory
    if pickle.end != record.nbytes:
        raise Damaged(f"{source.where} is damaged: bytes follow the end of its pickle", source.path)
    return pickle
