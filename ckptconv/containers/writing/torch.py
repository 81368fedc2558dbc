"""Writes what torch.load reads: a zip with `archive/data.pkl` and one stored record per tensor, aligned to 64 bytes.

The format: PKWARE APPNOTE 6.3, as caffe2/serialize reads it (also with mmap=True). No time stamps, one fixed root.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from isal.isal_zlib import crc32

from ckptconv.containers.writing.emit import Emitter, TensorRef
from ckptconv.containers.writing.items import Bytes, Item, split_tied
from ckptconv.containers.writing.output import Create, Output
from ckptconv.parallel import ahead

_ALIGNMENT = 64
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")
_UTF8 = 0x0800
_NEW_YEAR_1980 = 0x21  # the zip format's first day
_16, _32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True)
class _Record:
    """One file of the zip. header: where its local header begins."""

    name: bytes
    size: int
    pieces: Callable[[], Iterable[Bytes]]
    header: int

    @property
    def wide(self) -> bool:
        return self.size >= _32

    @property
    def extra(self) -> bytes:
        """The zip64 sizes, where they are needed, and padding (torch's own field, 'FB') up to the alignment."""
        sizes = struct.pack("<2H2Q", 1, 16, self.size, self.size) if self.wide else b""
        end = self.header + _LOCAL.size + len(self.name) + len(sizes) + 4
        padding = -end % _ALIGNMENT
        return sizes + struct.pack("<2H", 0x4246, padding) + b"Z" * padding

    @property
    def end(self) -> int:
        return self.header + _LOCAL.size + len(self.name) + len(self.extra) + self.size

    def local(self, checksum: int) -> bytes:
        size = _32 if self.wide else self.size
        lengths = (checksum, size, size, len(self.name), len(self.extra))
        fixed = _LOCAL.pack(b"PK\3\4", 45 if self.wide else 20, _UTF8, 0, 0, _NEW_YEAR_1980, *lengths)
        return fixed + self.name + self.extra

    def central(self, checksum: int) -> bytes:
        far = self.header >= _32
        wide = [self.size, self.size] * self.wide + [self.header] * far
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        size = _32 if self.wide else self.size
        lengths = (checksum, size, size, len(self.name), len(extra), 0, 0, 0, 0, _32 if far else self.header)
        needed = 45 if wide else 20
        return _CENTRAL.pack(b"PK\1\2", needed, needed, _UTF8, 0, 0, _NEW_YEAR_1980, *lengths) + self.name + extra


def write_torch(
    path: Path, items: Sequence[Item], entry: str | None, other: Mapping[str, Any], create: Create = Output
) -> None:
    """Writes the items as one torch zip.

    entry: the top-level entry that the state dict lies under, or None: it is the top level. other: top-level entries
    beside it, of None, bool, int, float, str, list, tuple and dict. A tied item shares its owner's storage. The result
    loads with torch.load(weights_only=True). Raises CannotWrite; Damaged if an item yields more or fewer bytes than
    its shape says; TypeError and ValueError for values that the caller must not give.
    """
    stored, tied = split_tied(items)
    names = {item.key: str(number) for number, item in enumerate(stored)}
    state = {
        item.key: TensorRef(item.dtype, item.shape, names[tied.get(item.key, item.key)], item.nbytes) for item in items
    }
    inside = state if entry is None else {entry: state}
    if inside.keys() & other.keys():
        raise ValueError("an entry beside the state dict has its name")
    emitter = Emitter()
    emitter.value({**inside, **other})
    contents: list[tuple[str, int, Callable[[], Iterable[Bytes]]]] = [
        _fixed("data.pkl", emitter.finish()),
        _fixed("byteorder", b"little"),
        *((f"data/{names[item.key]}", item.nbytes, item.pieces) for item in stored),
        _fixed("version", b"3\n"),
    ]
    _write_zip(path, contents, create)


def _fixed(name: str, data: bytes) -> tuple[str, int, Callable[[], Iterable[Bytes]]]:
    return name, len(data), lambda: (data,)


def _write_zip(path: Path, contents: Iterable[tuple[str, int, Callable[[], Iterable[Bytes]]]], create: Create) -> None:
    records: list[_Record] = []
    start = 0
    for name, size, pieces in contents:
        records.append(_Record(f"archive/{name}".encode(), size, pieces, start))
        start = records[-1].end
    size = start + sum(len(record.central(0)) for record in records)
    with create(path, size + _END64.size + _LOCATOR.size + _END.size) as output:
        checksums = list(_write_records(output, records))
        output.write_all(record.central(crc) for record, crc in zip(records, checksums, strict=True))
        output.write(_end(len(records), start, size - start))


def _write_records(output: Output, records: Sequence[_Record]) -> Iterator[int]:
    """Headers and bytes; a record's checksum is put into its header when it is known. Yields the checksums."""
    pieces = ahead(_pieces(records), size=lambda numbered: len(numbered[1]))
    for number, numbered in groupby(pieces, key=itemgetter(0)):
        record, crc = records[number], 0
        output.write(record.local(0))
        for _, piece in numbered:
            crc = crc32(piece, crc)
            output.write(piece)
        output.patch(record.header, record.local(crc))
        output.settle()
        yield crc


def _pieces(records: Sequence[_Record]) -> Iterator[tuple[int, Bytes]]:
    """The records' bytes, each piece with the number of its record; of an empty record an empty piece."""
    for number, record in enumerate(records):
        yield number, b""
        for piece in record.pieces():
            yield number, piece


def _end(count: int, start: int, size: int) -> bytes:
    """The end records, with zip64 ones always, as torch writes them."""
    wide = _END64.pack(b"PK\6\6", _END64.size - 12, 45, 45, 0, 0, count, count, size, start)
    locator = _LOCATOR.pack(b"PK\6\7", 0, start + size, 1)
    few = min(count, _16)
    return wide + locator + _END.pack(b"PK\5\6", 0, 0, few, few, min(size, _32), min(start, _32), 0)
