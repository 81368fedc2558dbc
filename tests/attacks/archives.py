"""Containers written field by field, so that every field can lie: zip, legacy torch files, safetensors."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.attacks.opcodes import integer, mapping, pickled, sequence, tensor, text

FLOATS = struct.pack("<4f", 1.0, -2.0, 0.5, 4.0)
PLAIN = pickled(mapping(("w", tensor())))
_LOCAL = "<4s5H3I2H"
_CENTRAL = "<4s6H3I5H2I"
_LOCAL_NAMES = ("magic", "version", "flags", "method", "time", "date", "crc", "packed", "size", "named", "extra")
_CENTRAL_NAMES = (
    *("magic", "made", "version", "flags", "method", "time", "date", "crc", "packed", "size"),
    *("named", "extra", "comment", "disk", "inner", "outer", "start"),
)


@dataclass(frozen=True)
class Record:
    """A file in a zip. local, central: fields of its two headers that lie. gap: bytes before it."""

    name: str | bytes
    data: bytes
    deflated: bool = False
    local: Mapping[str, Any] = field(default_factory=dict)
    central: Mapping[str, Any] = field(default_factory=dict)
    gap: bytes = b""
    local_extra: bytes = b""
    central_extra: bytes = b""
    local_name: bytes | None = None


def zipped(
    records: Sequence[Record], end: Mapping[str, int] | None = None, comment: bytes = b"", before_end: bytes = b""
) -> bytes:
    """A zip of the records; `end`: fields of the end record that lie."""
    body, directory = b"", b""
    for record in records:
        body += record.gap
        start = len(body)
        packed = _deflated(record.data) if record.deflated else record.data
        told = record.name if isinstance(record.name, bytes) else record.name.encode()
        sizes = (zlib.crc32(record.data), len(packed), len(record.data))
        method = 8 if record.deflated else 0
        here = told if record.local_name is None else record.local_name
        local = (b"PK\3\4", 20, 0, method, 0, 0, *sizes, len(here), len(record.local_extra))
        body += _lying(_LOCAL, _LOCAL_NAMES, local, record.local) + here + record.local_extra + packed
        extra = len(record.central_extra)
        central = (b"PK\1\2", 20, 20, 0, method, 0, 0, *sizes, len(told), extra, 0, 0, 0, 0, start)
        directory += _lying(_CENTRAL, _CENTRAL_NAMES, central, record.central) + told + record.central_extra
    last: dict[str, int] = {"disk": 0, "first": 0, "here": len(records), "count": len(records)}
    last |= {"size": len(directory), "start": len(body), "comment": len(comment), **(end or {})}
    return body + directory + before_end + struct.pack("<4s4H2IH", b"PK\5\6", *last.values()) + comment


def _lying(layout: str, names: Sequence[str], values: Sequence[Any], lies: Mapping[str, Any]) -> bytes:
    return struct.pack(layout, *(lies.get(name, value) for name, value in zip(names, values, strict=True)))


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def torch_zip(
    pickle: bytes = PLAIN,
    storages: Mapping[str, bytes] | None = None,
    more: Sequence[Record] = (),
    deflated: bool = False,
    root: str = "archive/",
) -> bytes:
    """What torch.save writes since 1.6, around any pickle."""
    data = {"0": FLOATS} if storages is None else storages
    records = [Record(f"{root}data.pkl", pickle, deflated), Record(f"{root}byteorder", b"little")]
    records += [Record(f"{root}data/{key}", content, deflated) for key, content in data.items()]
    return zipped([*records, Record(f"{root}version", b"3\n"), *more])


MAGIC = pickled(b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little"))
PROTOCOL = pickled(integer(1001))
SYSTEM = pickled(mapping(("little_endian", b"\x88")))


def legacy(
    pickle: bytes = PLAIN,
    storages: Sequence[tuple[int, bytes]] = ((4, FLOATS),),
    keys: bytes | None = None,
    magic: bytes = MAGIC,
    protocol: bytes = PROTOCOL,
    system: bytes = SYSTEM,
    tail: bytes = b"",
) -> bytes:
    """What torch.save wrote before 1.6, around any pickle."""
    listed = pickled(sequence(*(text(str(n)) for n in range(len(storages))))) if keys is None else keys
    data = b"".join(struct.pack("<q", numel) + content for numel, content in storages)
    return magic + protocol + system + pickle + listed + data + tail


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A header (any JSON, or bytes as they are) and data."""
    told = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(told) if length is None else length) + told + data


def entry(begin: Any, end: Any, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    """A tensor in such a header; by default of as many floats as there are bytes for."""
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


ONE = safetensors({"w": entry(0, 16)}, FLOATS)


def index(weight_map: object, **more: object) -> bytes:
    """An index of shards."""
    return json.dumps({"metadata": {}, "weight_map": weight_map, **more}).encode()
