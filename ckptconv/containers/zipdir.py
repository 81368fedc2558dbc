"""The directory of a zip file, read strictly: what the central directory says must hold in the file itself.

The format: PKWARE APPNOTE 6.3; torch writes it with zip64 records and data descriptors (caffe2/serialize).
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from ckptconv.containers.files import Source
from ckptconv.errors import CkptconvError, Damaged, Unsafe, Unsupported
from ckptconv.text import printable

_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_DIRECTORY_LIMIT = 64 << 20
_RECORDS_LIMIT = 300_000
_INFLATED_LIMIT = 64 << 20  # bytes of one compressed record
_RATIO_LIMIT, _RATIO_FREE = 200, 1 << 20
_GROWTH, _GROWTH_FREE = 64, 256 << 20  # of all compressed records together
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _DESCRIPTOR = 1, 8
_32 = 0xFFFFFFFF


class Record(NamedTuple):
    """A file in the zip. start: where its bytes lie; packed: how many; nbytes: once inflated. crc32: maybe None."""

    name: str
    start: int
    packed: int
    nbytes: int
    deflated: bool
    crc32: int | None


class _Entry(NamedTuple):
    name: bytes
    flags: int
    method: int
    crc32: int
    packed: int
    nbytes: int
    header: int


def read_directory(source: Source) -> dict[str, Record]:
    """Every record by name. Raises Damaged, Unsafe (asks for too much) or Unsupported (encrypted, odd compression)."""
    count, start, size = _find_directory(source)
    entries = _central(source, source.read(start, size), count)
    window = _Window(source, start)
    records: dict[str, Record] = {}
    end_before = 0
    for entry in sorted(entries, key=lambda entry: entry.header):
        if entry.header < end_before:
            raise _damaged(source, f"its record {_show(entry)} overlaps the one before")
        record = _locate(source, window, entry)
        end_before = record.start + record.packed
        if end_before > start:
            raise _damaged(source, f"its record {_show(entry)} runs into the directory")
        if record.name in records:
            raise _damaged(source, f"it has two records named {_show(entry)}")
        records[record.name] = record
    inflated = sum(record.nbytes for record in records.values() if record.deflated)
    if inflated > _GROWTH * source.size + _GROWTH_FREE:
        raise Unsafe(
            f"{source.where} is refused as unsafe: its compressed records unpack to {inflated:,} bytes", source.path
        )
    return records


def read_record(source: Source, record: Record, limit: int = _INFLATED_LIMIT) -> bytes:
    """All bytes of a record, its checksum verified. Raises Unsafe if there are more than `limit`, or Damaged."""
    if record.nbytes > limit:
        raise Unsafe(
            f"{source.where} is refused as unsafe: its record {printable(record.name)} has {record.nbytes:,} bytes; "
            f"{limit:,} is the most that is read at once",
            source.path,
        )
    data = source.read(record.start, record.packed)
    if record.deflated:
        data = inflate(source, data, record.nbytes)
    if record.crc32 is not None and zlib.crc32(data) != record.crc32:
        raise _damaged(source, f"the checksum of its record {printable(record.name)} is wrong")
    return data


def inflate(source: Source, packed: bytes, nbytes: int) -> bytes:
    """Exactly `nbytes` out of raw deflate data. Raises Damaged."""
    unpacker = zlib.decompressobj(-15)
    try:
        data = unpacker.decompress(packed, nbytes + 1)
    except zlib.error as problem:
        raise _damaged(source, f"a compressed record can't be unpacked ({problem})") from None
    if len(data) != nbytes or not unpacker.eof:
        raise _damaged(source, f"a compressed record has {len(data)} bytes, its directory says {nbytes}")
    return data


def _find_directory(source: Source) -> tuple[int, int, int]:
    """Number of records, start and size of the central directory, which must lie right before its end record."""
    tail_start = max(0, source.size - _END.size - 0xFFFF)
    tail = source.read(tail_start, source.size - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise _damaged(source, "it has no zip directory at its end: it was probably cut off while it was copied")
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        raise _damaged(source, "bytes follow its zip directory")
    end = tail_start + at
    if end >= _LOCATOR.size and source.read(end - _LOCATOR.size, 4) == b"PK\x06\x07":
        end, count, size, start = _find_directory64(source, end - _LOCATOR.size)
    elif disk or first_disk or here != count:
        raise _damaged(source, "its zip directory claims to be one of several")
    if start + size != end:
        raise _damaged(source, "its zip directory isn't where its end record says")
    if size > _DIRECTORY_LIMIT or count > _RECORDS_LIMIT:
        raise Unsafe(f"{source.where} is refused as unsafe: its zip directory lists {count:,} records", source.path)
    return count, start, size


def _find_directory64(source: Source, locator: int) -> tuple[int, int, int, int]:
    _, disk, end, disks = _LOCATOR.unpack(source.read(locator, _LOCATOR.size))
    if end + _END64.size != locator or disk or disks > 1:
        raise _damaged(source, "its zip64 end record isn't where its locator says")
    magic, length, _, _, disk, first_disk, here, count, size, start = _END64.unpack(source.read(end, _END64.size))
    if magic != b"PK\x06\x06" or length != _END64.size - 12 or disk or first_disk or here != count:
        raise _damaged(source, "its zip64 end record makes no sense")
    return end, count, size, start


def _central(source: Source, directory: bytes, count: int) -> list[_Entry]:
    entries, at = [], 0
    for _ in range(count):
        if at + _CENTRAL.size > len(directory):
            raise _damaged(source, "its zip directory ends too early")
        magic, _, _, flags, method, _, _, crc, packed, nbytes, named, extra, comment, disk, _, _, header = (
            _CENTRAL.unpack_from(directory, at)
        )
        body = at + _CENTRAL.size
        at = body + named + extra + comment
        if magic != b"PK\x01\x02" or at > len(directory) or disk not in (0, 0xFFFF):
            raise _damaged(source, "its zip directory makes no sense")
        name = directory[body : body + named]
        if _32 in (packed, nbytes, header):
            wide = _zip64(source, directory[body + named : body + named + extra])
            nbytes, packed, header = (_widen(source, value, wide) for value in (nbytes, packed, header))
        entry = _Entry(name, flags, method, crc, packed, nbytes, header)
        _check_entry(source, entry)
        entries.append(entry)
    if at != len(directory):
        raise _damaged(source, "bytes are left over in its zip directory")
    return entries


def _check_entry(source: Source, entry: _Entry) -> None:
    if entry.flags & _ENCRYPTED:
        raise Unsupported(f"{source.where} is not supported: its record {_show(entry)} is encrypted", source.path)
    if entry.method not in (_STORED, _DEFLATED):
        raise Unsupported(
            f"{source.where} is not supported: its record {_show(entry)} is compressed in an unusual way", source.path
        )
    if entry.method == _STORED and entry.packed != entry.nbytes:
        raise _damaged(source, f"its record {_show(entry)} has two sizes, {entry.packed} and {entry.nbytes}")
    if entry.method == _DEFLATED and entry.nbytes > _INFLATED_LIMIT:
        raise Unsupported(
            f"{source.where} is not supported: its record {_show(entry)} is compressed, which is read up to "
            f"{_INFLATED_LIMIT:,} bytes: save it again with torch.save",
            source.path,
        )
    if entry.method == _DEFLATED and entry.nbytes > _RATIO_FREE and entry.nbytes > _RATIO_LIMIT * entry.packed:
        raise Unsafe(
            f"{source.where} is refused as unsafe: its record {_show(entry)} of {entry.packed:,} bytes unpacks "
            f"to {entry.nbytes:,}",
            source.path,
        )


def _locate(source: Source, window: _Window, entry: _Entry) -> Record:
    """Where the record's bytes begin, from its local header, which must agree with the directory."""
    if entry.header + _LOCAL.size > window.end:
        raise _damaged(source, f"the header of its record {_show(entry)} runs into the directory")
    magic, _, flags, method, _, _, crc, packed, nbytes, named, extra = _LOCAL.unpack(
        window.read(entry.header, _LOCAL.size)
    )
    body = entry.header + _LOCAL.size
    if magic != b"PK\x03\x04" or body + named + extra > window.end or window.read(body, named) != entry.name:
        raise _damaged(source, f"it has no record {_show(entry)} where its directory says")
    if _32 in (packed, nbytes):
        wide = _zip64(source, window.read(body + named, extra))
        nbytes, packed = (_widen(source, value, wide) for value in (nbytes, packed))
    agree = method == entry.method and not (flags ^ entry.flags) & (_ENCRYPTED | _DESCRIPTOR)
    here, there = (crc, packed, nbytes), (entry.crc32, entry.packed, entry.nbytes)
    if here != there:  # but for what is told behind the bytes, and 0 here
        told_later = (0,) if flags & _DESCRIPTOR else ()
        agree = agree and all(local in (central, *told_later) for local, central in zip(here, there, strict=True))
    if not agree:
        raise _damaged(source, f"the header of its record {_show(entry)} contradicts the directory")
    # torch.serialization.set_crc32_options(False) writes 0 for every checksum
    crc32 = entry.crc32 if entry.crc32 or not entry.nbytes else None
    return Record(_decode(entry), body + named + extra, entry.packed, entry.nbytes, entry.method == _DEFLATED, crc32)


def _zip64(source: Source, extra: bytes) -> list[int]:
    """The 8-byte numbers of the zip64 extra field, in order, last first."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == 1 and at + 4 + size <= len(extra):
            return [*reversed(struct.unpack_from(f"<{size // 8}Q", extra, at + 4))]
        at += 4 + size
    raise _damaged(source, "a zip64 size is missing")


def _widen(source: Source, value: int, wide: list[int]) -> int:
    if value != _32:
        return value
    if not wide:
        raise _damaged(source, "a zip64 size is missing")
    return wide.pop()


def _decode(entry: _Entry) -> str:
    try:
        return entry.name.decode("utf-8")
    except UnicodeDecodeError:
        return entry.name.decode("cp437")


def _show(entry: _Entry) -> str:
    return printable(_decode(entry))


def _damaged(source: Source, what: str) -> CkptconvError:
    return Damaged(f"{source.where} is damaged: {what}", source.path)


class _Window:
    """Reads small pieces in ascending order, so that headers of small records share a system call."""

    def __init__(self, source: Source, end: int) -> None:
        self.source = source
        self.end = end
        self._start = 0
        self._data = b""

    def read(self, start: int, count: int) -> bytes:
        at = start - self._start
        if at < 0 or at + count > len(self._data):
            self._data = self.source.read(start, min(max(count, 8192), max(self.source.size - start, count)))
            self._start, at = start, 0
        return self._data[at : at + count]
