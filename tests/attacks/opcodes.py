"""Pickles written opcode by opcode (CPython's Lib/pickletools.py says what each means)."""

from __future__ import annotations

import struct

NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"
EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT = b")", b"]", b"}"
REDUCE, BUILD, NEWOBJ, NEWOBJ_EX, OBJ, BINPERSID = b"R", b"b", b"\x81", b"\x92", b"o", b"Q"
MARK, POP, DUP, STOP = b"(", b"0", b"2", b"."


def pickled(body: bytes, protocol: int = 2) -> bytes:
    """A whole pickle."""
    return (bytes((0x80, protocol)) if protocol >= 2 else b"") + body + STOP


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def blob(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes((len(data),)) + data


def name(module: str, attribute: str) -> bytes:
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def stack_name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def group(*items: bytes) -> bytes:
    """A tuple."""
    return MARK + b"".join(items) + b"t"


def call(target: bytes, *arguments: bytes) -> bytes:
    return target + group(*arguments) + REDUCE


def sequence(*items: bytes) -> bytes:
    """A list."""
    return EMPTY_LIST + MARK + b"".join(items) + b"e"


def mapping(*pairs: tuple[str, bytes]) -> bytes:
    return EMPTY_DICT + MARK + b"".join(text(key) + value for key, value in pairs) + b"u"


def put(number: int) -> bytes:
    return b"r" + struct.pack("<I", number)


def get(number: int) -> bytes:
    return b"j" + struct.pack("<I", number)


ORDERED = call(name("collections", "OrderedDict"))


def storage(key: str = "0", numel: int = 4, kind: str = "FloatStorage", location: str = "cpu") -> bytes:
    """What torch pickles of a storage."""
    return group(text("storage"), name("torch", kind), text(key), text(location), integer(numel)) + BINPERSID


def tensor(
    size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), offset: int = 0, of: bytes | None = None
) -> bytes:
    """What torch pickles of a tensor; by default four floats in storage 0."""
    sizes, strides = (group(*map(integer, numbers)) for numbers in (size, stride))
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, storage() if of is None else of, integer(offset), sizes, strides, FALSE, ORDERED)


TOUCH = text("touch canary")  # in the working folder, which the harness looks at
SYSTEM = name("os", "system")
RUN = call(SYSTEM, TOUCH)
