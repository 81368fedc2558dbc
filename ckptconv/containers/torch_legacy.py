"""Reads what torch.save wrote before torch 1.6: five pickles one after the other, then the storages.

The pickles: a magic number, the protocol 1001, system information, the object, the sorted list of storage keys. Then,
for every key, the number of elements (int64) and their bytes, little-endian (torch/serialization.py `_legacy_save`).
"""

from __future__ import annotations

import gc
import struct
from collections.abc import Mapping

from ckptconv.containers.checkpoint import Checkpoint, Storage
from ckptconv.containers.files import Source
from ckptconv.containers.inert import List, Node, StorageRef
from ckptconv.containers.pickles import PICKLE_LIMIT, BadView, Persist, Pickle, Truncated, read_pickle
from ckptconv.containers.reading import Reading
from ckptconv.containers.rebuild import REBUILD, StorageId, storage_id
from ckptconv.containers.statedicts import split, third_party_note
from ckptconv.errors import Damaged, Unsafe, Unsupported
from ckptconv.text import printable

MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_FIRST_READ = 1 << 20
_COLLECTED = 4 << 20


def open_torch_legacy(source: Source, reading: Reading) -> Checkpoint:
    """The checkpoint in a legacy torch file. Raises Damaged, Unsafe or Unsupported."""
    names, keys, data, object_start, storages_start = _read_head(source, reading)
    if len(data) > _COLLECTED:
        gc.collect()  # the first reading of the object, if there are cycles in it
    places = _locate(source, names, keys, storages_start)
    persist: Persist = lambda pid: _reference(storage_id(pid), places)  # noqa: E731
    pickle = read_pickle(data, source.where, persist, REBUILD, object_start, reading)
    reading.memory -= pickle.memory
    entries, other = split(pickle.root, source.path, reading)
    return Checkpoint(
        path=source.path,
        container="torch legacy",
        files=(source.path,),
        entries=entries,
        other=other,
        globals=tuple(name.full for name in pickle.globals),
        notes=third_party_note(pickle.globals),
        stamps={source.path: source.stamp},
    )


def _read_head(source: Source, reading: Reading) -> tuple[dict[str, StorageId], list[str], bytes, int, int]:
    """The storages that the object names, the key list, the bytes of the pickles, where the object and the data begin.

    How long the pickles are can't be known before they are read, so more of the file is taken until they fit.
    """
    size = _FIRST_READ
    while True:
        data = source.read(0, min(size, source.size))
        try:
            return _parse_head(source, data, reading)
        except Truncated:
            if len(data) == source.size:
                raise
            if len(data) >= PICKLE_LIMIT:
                raise Unsafe(
                    f"{source.where} is refused as unsafe: its pickles take more than {PICKLE_LIMIT:,} bytes",
                    source.path,
                ) from None
        size *= 4


def _parse_head(
    source: Source, data: bytes, reading: Reading
) -> tuple[dict[str, StorageId], list[str], bytes, int, int]:
    names: dict[str, StorageId] = {}

    def collect(pid: Node) -> StorageRef:
        named = _whole(storage_id(pid))
        first = names.setdefault(named.key, named)
        if (first.nbytes, first.dtype) != (named.nbytes, named.dtype):
            raise BadView(f"gives storage {printable(named.key)} a second size or type")
        return StorageRef(named.kind, named.key, named.location, named.dtype, None)

    magic = read_pickle(data, source.where, reading=reading)
    protocol = read_pickle(data, source.where, start=magic.end, reading=reading)
    system = read_pickle(data, source.where, start=protocol.end, reading=reading)
    if magic.root != MAGIC or type(protocol.root) is not int or protocol.root != _PROTOCOL:
        raise Unsupported(f"{source.where} is a legacy torch file of an unknown version", source.path)
    content = read_pickle(data, source.where, collect, start=system.end, reading=reading)
    keys = read_pickle(data, source.where, start=content.end, reading=reading)
    return names, _key_list(source, keys, names), data, system.end, keys.end


def _key_list(source: Source, keys: Pickle, names: dict[str, StorageId]) -> list[str]:
    listed = keys.root.items if type(keys.root) is List else []
    if any(type(key) is not str for key in listed) or len(listed) != len(set(listed)) or set(listed) != names.keys():
        raise Damaged(f"{source.where} is damaged: its list of storages doesn't match the tensors in it", source.path)
    return list(listed)


def _locate(source: Source, names: dict[str, StorageId], keys: list[str], start: int) -> dict[str, Storage]:
    places: dict[str, Storage] = {}
    for key in keys:
        (numel,) = struct.unpack("<q", source.read(start, 8))
        named = names[key]
        if numel != named.numel:
            told = f"{named.numel} elements in the pickle and {numel} in the data"
            raise Damaged(f"{source.where} is damaged: storage {printable(key)} has {told}", source.path)
        if start + 8 + named.nbytes > source.size:
            raise Damaged(f"{source.where} is truncated: it ends inside storage {printable(key)}", source.path)
        places[key] = Storage(source.path, start + 8, named.nbytes)
        start += 8 + named.nbytes
    if start != source.size:
        raise Damaged(f"{source.where} is damaged: {source.size - start} bytes follow its last storage", source.path)
    return places


def _whole(named: StorageId) -> StorageId:
    """The storage itself where a part of it is named: the part must lie inside."""
    if named.view is not None:
        _, offset, numel = named.view
        if offset + numel > named.numel:
            raise BadView(f"lies in a part of storage {printable(named.key)} that goes beyond its end")
    return named


def _reference(named: StorageId, places: Mapping[str, Storage]) -> StorageRef:
    place = places[named.key]
    if named.view is not None:
        _, offset, numel = named.view
        place = Storage(place.path, place.start + offset * named.itemsize, numel * named.itemsize)
    return StorageRef(named.kind, named.key, named.location, named.dtype, place)
