"""Reads what torch.save writes since torch 1.6: a zip with `<root>/data.pkl` and one record per storage."""

from __future__ import annotations

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


def open_torch_zip(source: Source, reading: Reading) -> Checkpoint:
    """The checkpoint in a torch zip. Raises NotACheckpoint for another zip, Damaged, Unsafe or Unsupported."""
    records = read_directory(source)
    root = _find_root(source, records)
    swap = _is_big_endian(source, records.get(f"{root}byteorder"))
    pickle = _unpickle(source, records, root, swap, reading)
    if pickle.end != records[f"{root}data.pkl"].nbytes:
        raise Damaged(f"{source.where} is damaged: bytes follow the end of its pickle", source.path)
    entries, other = split(pickle.root, source.path, reading)
    unverified = any(record.crc32 is None for record in records.values())
    return Checkpoint(
        path=source.path,
        container="torch zip",
        files=(source.path,),
        entries=entries,
        other=other,
        globals=tuple(name.full for name in pickle.globals),
        notes=third_party_note(pickle.globals) + ((_NO_CHECKSUM,) if unverified else ()),
        stamps={source.path: source.stamp},
    )


def _find_root(source: Source, records: dict[str, Record]) -> str:
    """`archive/`, from the one record archive/data.pkl."""
    pickles = [name for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
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
    if f"{root}constants.pkl" in records or any(name.startswith(f"{root}code/") for name in records):
        raise Unsupported(
            f"{source.where} is a TorchScript archive, which ckptconv can't read yet: "
            "save the model's state_dict() with torch.save instead",
            source.path,
        )
    return root


def _is_big_endian(source: Source, record: Record | None) -> bool:
    if record is None:  # torch before 2.1 didn't say, and ran on little-endian machines
        return False
    order = read_record(source, record, 64)
    if order not in (b"little", b"big"):
        raise Damaged(f"{source.where} is damaged: its byte order is {printable(order.decode('latin-1'))}", source.path)
    return order == b"big"


def _unpickle(source: Source, records: dict[str, Record], root: str, swap: bool, reading: Reading) -> Pickle:
    known: dict[str, Storage] = {}
    kinds: dict[str, StorageId] = {}
    folder = f"{root}data/"
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
        if first.dtype != named.dtype:
            raise BadView(f"lies in storage {printable(named.key)} under a second type")
        if named.key not in known:
            packed = record.packed if record.deflated else None
            known[named.key] = Storage(source.path, record.start, record.nbytes, record.crc32, swap, packed)
        return StorageRef(named.kind, named.key, named.location, named.dtype, known[named.key])

    data = read_record(source, records[f"{root}data.pkl"], PICKLE_LIMIT)
    pickle = read_pickle(data, source.where, persist, REBUILD, reading=reading)
    reading.memory -= pickle.memory
    return pickle
