"""Zips whose headers contradict each other or the file, bombs, and zips that only look like torch's."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

from tests.attacks.archives import FLOATS, ONE, PLAIN, Record, torch_zip, zipped
from tests.attacks.case import Case, holding
from tests.attacks.opcodes import get, mapping, pickled, put, storage, tensor

BIG = 0xFFFFFFFF


def archive(**lies: Any) -> list[Record]:
    """The records of a plain checkpoint; the fields of `w`'s storage lie."""
    return [
        Record("archive/data.pkl", PLAIN),
        Record("archive/data/0", FLOATS, **lies),
        Record("archive/version", b"3\n"),
    ]


def zip64(*numbers: int) -> bytes:
    return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


# Fields of one record's local or central header that lie.
HEADERS: dict[str, dict[str, Any]] = {
    "local-magic": {"local": {"magic": b"PK\3\5"}},
    "central-magic": {"central": {"magic": b"PK\1\3"}},
    "local-crc": {"local": {"crc": 1}},
    "central-crc": {"central": {"crc": 1}},
    "both-crc": {"local": {"crc": 1}, "central": {"crc": 1}},
    "local-size": {"local": {"size": 8, "packed": 8}},
    "local-size-zero": {"local": {"size": 0, "packed": 0, "crc": 0}},
    "central-size": {"central": {"size": 8, "packed": 8}},
    "both-size-short": {"local": {"size": 8, "packed": 8}, "central": {"size": 8, "packed": 8}},
    "both-size-long": {"local": {"size": 99, "packed": 99}, "central": {"size": 99, "packed": 99}},
    "both-size-giant": {"local": {"size": BIG - 1, "packed": BIG - 1}, "central": {"size": BIG - 1, "packed": BIG - 1}},
    "packed-only": {"local": {"packed": 8}, "central": {"packed": 8}},
    "method-deflate": {"local": {"method": 8}, "central": {"method": 8}},
    "method-local": {"local": {"method": 8}},
    "method-lzma": {"local": {"method": 14}, "central": {"method": 14}},
    "method-zstd": {"local": {"method": 93}, "central": {"method": 93}},
    "method-unknown": {"local": {"method": 999}, "central": {"method": 999}},
    "encrypted": {"local": {"flags": 1}, "central": {"flags": 1}},
    "encrypted-local": {"local": {"flags": 1}},
    "descriptor-local": {"local": {"flags": 8}},
    "start-zero": {"central": {"start": 0}},
    "start-plus": {"central": {"start": 100}},
    "start-end": {"central": {"start": 10_000_000}},
    "start-giant": {"central": {"start": BIG - 1}},
    "start-zip64": {"central": {"start": BIG}, "central_extra": zip64((1 << 64) - 1)},
    "size-zip64": {"central": {"size": BIG, "packed": BIG}, "central_extra": zip64(1 << 60, 1 << 60)},
    "size-zip64-both": {
        "central": {"size": BIG, "packed": BIG},
        "central_extra": zip64(1 << 60, 1 << 60),
        "local": {"size": BIG, "packed": BIG},
        "local_extra": zip64(1 << 60, 1 << 60),
    },
    "zip64-missing": {"central": {"size": BIG, "packed": BIG}},
    "zip64-short": {"central": {"size": BIG, "packed": BIG}, "central_extra": zip64(16)},
    "zip64-cut": {"central": {"size": BIG, "packed": BIG}, "central_extra": struct.pack("<2H", 1, 400)},
    "disk": {"central": {"disk": 5}},
    "name-other": {"local_name": b"archive/data/1"},
    "name-shorter": {"local_name": b"archive/data"},
    "named-long": {"central": {"named": 60_000}},
    "extra-long": {"central": {"extra": 60_000}},
    "extra-local-long": {"local": {"extra": 60_000}},
    "extra-local-four": {"local": {"extra": 4}},
    "comment-long": {"central": {"comment": 60_000}},
}
END = {
    "count-more": {"here": 9, "count": 9},
    "count-fewer": {"here": 1, "count": 1},
    "count-none": {"here": 0, "count": 0},
    "count-most": {"here": 0xFFFF, "count": 0xFFFF},
    "here": {"here": 1},
    "disk": {"disk": 1},
    "first-disk": {"first": 3},
    "size": {"size": 10},
    "size-most": {"size": BIG},
    "start": {"start": 0},
    "start-most": {"start": BIG},
    "comment": {"comment": 5},
}


def _headers() -> Iterator[Case]:
    for what, lies in HEADERS.items():
        # a record's bytes are read only where its values are
        must = "looked at" if what in ("both-crc", "method-deflate") else "refused"
        data = zipped(archive(**lies))
        yield Case(f"zip-lies/header-{what}", f"a record's header lies ({what})", must, holding(data), forms=False)
        records = [Record("archive/data.pkl", PLAIN, **lies), Record("archive/data/0", FLOATS)]
        if what not in ("local-size", "central-size", "named-long", "extra-long", "comment-long", "start-zero"):
            wrong = f"the header of data.pkl lies ({what})"
            yield Case(f"zip-lies/pickle-{what}", wrong, "refused", holding(zipped(records)), forms=False)
    for what, end in END.items():
        yield Case(f"zip-lies/end-{what}", f"the end record lies ({what})", "refused", holding(zipped(archive(), end)))


def _end64(count: int, size: int, start: int, place: int | None = None, length: int = 44) -> bytes:
    """A zip64 end record and its locator."""
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", length, 45, 45, 0, 0, count, count, size, start)
    return record + struct.pack("<4sIQI", b"PK\6\7", 0, start + size if place is None else place, 1)


def _directories() -> Iterator[Case]:
    plain = zipped(archive())
    start = plain.rindex(b"archive/data.pkl") - 46
    size = len(plain) - 22 - start
    for what, wrong, more in (
        ("zip64-count", "a zip64 end record with 2**40 records", _end64(1 << 40, size, start)),
        ("zip64-size", "a zip64 directory of 2**60 bytes", _end64(3, 1 << 60, start)),
        ("zip64-start", "a zip64 directory at 2**63", _end64(3, size, 1 << 63, start + size)),
        ("zip64-place", "a zip64 end record somewhere else", _end64(3, size, start, 0)),
        ("zip64-length", "a zip64 end record of another length", _end64(3, size, start, None, 1 << 40)),
        ("zip64-alone", "a zip64 locator without a record", struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)),
        ("junk", "junk before the end record", b"junk"),
    ):
        yield Case(f"zip-lies/{what}", wrong, "refused", holding(zipped(archive(), before_end=more)), forms=False)
    other = zipped([Record("archive/data.pkl", pickled(b"N"))])
    for what, wrong, data in (
        ("behind", "bytes behind the end record", plain + b"\0"),
        ("twice", "two zips one behind the other", plain + other),
        ("in-comment", "a zip in the comment of another", zipped(archive(), comment=other)),
        ("before", "bytes before the first record", b"PK\3\4" + plain),
        ("no-end", "a zip without its directory", plain[:start]),
        ("end-only", "an end record and nothing else", b"PK\3\4" + plain[-22:]),
        ("local-only", "a local header and nothing else", plain[:30]),
        ("safetensors-behind", "a safetensors file behind a zip", plain + ONE),
    ):
        yield Case(f"zip-lies/{what}", wrong, "refused", holding(data), forms=False)


def _names() -> Iterator[Case]:
    data, pickle = Record("archive/data/0", FLOATS), Record("archive/data.pkl", PLAIN)
    sets = {
        "pickle-twice": [pickle, pickle, data],
        "storage-twice": [pickle, data, Record("archive/data/0", bytes(16))],
        "two-roots": [pickle, data, Record("other/data.pkl", PLAIN)],
        "nested-root": [pickle, data, Record("archive/archive/data.pkl", PLAIN)],
        "other-root": [pickle, Record("other/data/0", FLOATS)],
        "no-storage": [pickle],
        "no-pickle": [Record("archive/data/0", FLOATS)],
        "pickle-in-capitals": [Record("archive/DATA.PKL", PLAIN), data],
        "backslash": [Record("archive\\data.pkl", PLAIN), data],
        "storage-as-folder": [pickle, Record("archive/data/0/", FLOATS)],
        "storage-short": [pickle, Record("archive/data/0", FLOATS[:15])],
        "storage-empty": [pickle, Record("archive/data/0", b"")],
        "pickle-empty": [Record("archive/data.pkl", b""), data],
        "byteorder-odd": [pickle, data, Record("archive/byteorder", b"middle")],
        "byteorder-long": [pickle, data, Record("archive/byteorder", b"little" * 100)],
        "torchscript-old": [Record("archive/model.json", b"{}"), data],
        "npz": [Record("w.npy", b"\x93NUMPY\1\0")],
        "docx": [Record("[Content_Types].xml", b"<xml/>")],
        "nothing": [Record("x", b"")],
    }
    for what, records in sets.items():
        yield Case(
            f"zip-lies/{what}", f"records that don't make a checkpoint ({what})", "refused", holding(zipped(records))
        )


def _overlaps() -> Iterator[Case]:
    """Records that share their bytes, as in bombs that need no nesting (Fifield, USENIX WOOT 2019)."""
    first = zipped([Record("archive/data.pkl", PLAIN)])
    place = len(first) - 22 - 46 - len("archive/data.pkl")
    shared = [
        Record("archive/data.pkl", PLAIN),
        Record("archive/data/0", FLOATS),
        Record("archive/data/1", b"", central={"start": place, "size": 16, "packed": 16, "crc": zlib.crc32(FLOATS)}),
    ]
    yield Case("zip-lies/overlap", "two records with the same bytes", "refused", holding(zipped(shared)), forms=False)
    inside = zipped([Record("archive/data/1", FLOATS)])[: 30 + 14 + 16]
    quoted = [
        Record("archive/data.pkl", PLAIN),
        Record("archive/data/0", inside),
        Record(
            "archive/data/1", b"", central={"start": place + 44, "size": 16, "packed": 16, "crc": zlib.crc32(FLOATS)}
        ),
    ]
    yield Case("zip-lies/quoted", "a record inside of another", "refused", holding(zipped(quoted)), forms=False)


def _bombs() -> Iterator[Case]:
    def one(size: int) -> bytes:
        return torch_zip(PLAIN, {"0": bytes(size)}, deflated=True)

    for megabytes in (2, 60, 100):
        wrong = f"a storage of {megabytes} MB out of {megabytes} kB"
        yield Case(
            f"zip-lies/bomb-{megabytes}", wrong, "refused", holding(lambda size=megabytes << 20: one(size)), forms=False
        )  # type: ignore[misc]
    pickle = lambda: torch_zip(PLAIN + bytes(50 << 20), deflated=True)  # noqa: E731
    yield Case("zip-lies/bomb-pickle", "a pickle of 50 MB out of 50 kB", "refused", holding(pickle), forms=False)
    many = lambda: torch_zip(PLAIN, {str(n): bytes((1 << 20) - n) for n in range(700)}, deflated=True)  # noqa: E731
    yield Case("zip-lies/bomb-many", "700 storages of 1 MB each out of 1 kB", "refused", holding(many), forms=False)
    lying = Record("archive/data/0", bytes(1 << 20), True, {"size": 16}, {"size": 16})
    data = zipped([Record("archive/data.pkl", PLAIN), lying])
    yield Case("zip-lies/bomb-lying", "1 MB that says it is 16 bytes", "looked at", holding(data), forms=False)
    hollow = Record("archive/data/0", FLOATS, True, {"size": 1 << 20}, {"size": 1 << 20})
    data = zipped([Record("archive/data.pkl", PLAIN), hollow])
    yield Case("zip-lies/bomb-hollow", "16 bytes that say they are 1 MB", "looked at", holding(data), forms=False)
    records = lambda: zipped([*archive(), *(Record(f"archive/x{n}", b"") for n in range(65_000))])  # noqa: E731
    yield Case("zip-lies/many-records", "65,000 empty records", "read", holding(records), forms=False)
    long = "archive" * 8000 + "/"

    def repeated() -> bytes:
        body = storage() + put(0) + b"0" + (get(0) + b"0") * 1_000_000 + mapping(("w", tensor()))
        return torch_zip(pickled(body), root=long)

    yield Case("zip-lies/long-root", "a folder's name of 56,000 letters", "read", holding(repeated), forms=False)


CASES = (*_headers(), *_directories(), *_names(), *_overlaps(), *_bombs())
