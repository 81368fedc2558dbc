"""Opcodes that push a value: numbers, text and bytes, and how their arguments are read."""

from __future__ import annotations

import codecs
import struct

from ckptconv.containers.inert import Node
from ckptconv.containers.pickles.machine import Handler, Machine
from ckptconv.text import printable

_TEXT_LIMIT = 4096
_LONG_LIMIT = 16
_DIGITS_LIMIT = 40

u16 = struct.Struct("<H").unpack_from
u32 = struct.Struct("<I").unpack_from
i32 = struct.Struct("<i").unpack_from
u64 = struct.Struct("<Q").unpack_from
f64 = struct.Struct(">d").unpack_from


def read_line(m: Machine, at: int) -> tuple[bytes, int]:
    """An argument that ends at a newline, and where the next opcode is."""
    end = m.data.find(b"\n", at, at + _TEXT_LIMIT + 1)
    if end < 0:
        raise (
            m.truncated() if m.size - at <= _TEXT_LIMIT else m.damaged(f"holds a line longer than {_TEXT_LIMIT} bytes")
        )
    return m.data[at:end], end + 1


def read_index(m: Machine, at: int) -> tuple[int, int]:
    """A memo number in text form, and where the next opcode is."""
    line, after = read_line(m, at)
    if not line.isdigit() or len(line) > 10:
        raise m.damaged(f"has '{printable(line.decode('latin-1'))}' where a memo number belongs")
    return int(line), after


def integer(m: Machine, line: bytes) -> int:
    """An integer in text form."""
    if len(line) > _DIGITS_LIMIT or not line[line[:1] in (b"+", b"-") :].isdigit():
        raise m.damaged(f"has '{printable(line.decode('latin-1'), 50)}' where an integer belongs")
    return int(line)


def string(data: bytes) -> str:
    """Python 2's str: UTF-8 as torch.load reads it, or else one character per byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _constant(value: Node) -> Handler:
    def push(m: Machine, at: int) -> int:
        m.stack.append(value)
        return at

    return push


def _binint1(m: Machine, at: int) -> int:
    m.stack.append(m.data[at])
    return at + 1


def _binint2(m: Machine, at: int) -> int:
    m.stack.append(u16(m.data, at)[0])
    m.spent += 32
    return at + 2


def _binint(m: Machine, at: int) -> int:
    m.stack.append(i32(m.data, at)[0])
    m.spent += 32
    return at + 4


def _binfloat(m: Machine, at: int) -> int:
    m.stack.append(f64(m.data, at)[0])
    m.spent += 32
    return at + 8


def _long(m: Machine, at: int, count: int) -> int:
    if not 0 <= count <= _LONG_LIMIT:
        raise m.damaged(f"holds an integer of {count} bytes; {_LONG_LIMIT} is the most that is read")
    m.stack.append(int.from_bytes(m.take(at, count), "little", signed=True))
    return at + count


def _long1(m: Machine, at: int) -> int:
    return _long(m, at + 1, m.data[at])


def _long4(m: Machine, at: int) -> int:
    return _long(m, at + 4, i32(m.data, at)[0])


def _int_line(m: Machine, at: int) -> int:
    line, after = read_line(m, at)
    m.stack.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else integer(m, line))
    m.spent += 64
    return after


def _long_line(m: Machine, at: int) -> int:
    line, after = read_line(m, at)
    m.stack.append(integer(m, line.removesuffix(b"L")))
    m.spent += 64
    return after


def _float_line(m: Machine, at: int) -> int:
    line, after = read_line(m, at)
    try:
        m.stack.append(float(line))
    except ValueError:
        raise m.damaged(f"has '{printable(line.decode('latin-1'), 50)}' where a number belongs") from None
    m.spent += 32
    return after


def _string_line(m: Machine, at: int) -> int:
    line, after = read_line(m, at)
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b'"', b"'"):
        raise m.damaged("holds a text without its quotes")
    try:
        m.stack.append(string(codecs.escape_decode(line[1:-1])[0]))
    except ValueError:
        raise m.damaged("holds a text with a broken escape") from None
    m.spent += len(line) + 64
    return after


def _unicode_line(m: Machine, at: int) -> int:
    line, after = read_line(m, at)
    m.stack.append(str(line, "raw-unicode-escape"))
    m.spent += 4 * len(line) + 64
    return after


def _text(m: Machine, at: int, count: int) -> int:
    data = m.take(at, count)
    if count > _TEXT_LIMIT and not data.isascii():
        m.reserve(4 * count)  # one letter above U+FFFF makes all of them take 4 bytes
    m.stack.append(str(data, "utf-8", "surrogatepass"))
    return at + count


def _short_text(m: Machine, at: int) -> int:
    return _text(m, at + 1, m.data[at])


def _text4(m: Machine, at: int) -> int:
    count = u32(m.data, at)[0]
    end = at + 4 + count
    if end > m.size:
        raise m.truncated()
    if count > _TEXT_LIMIT:
        return _text(m, at + 4, count)
    m.stack.append(str(m.data[at + 4 : end], "utf-8", "surrogatepass"))
    m.spent += count + 64
    return int(end)


def _text8(m: Machine, at: int) -> int:
    return _text(m, at + 8, u64(m.data, at)[0])


def _string1(m: Machine, at: int) -> int:
    m.stack.append(string(m.take(at + 1, m.data[at])))
    return at + 1 + m.data[at]


def _string4(m: Machine, at: int) -> int:
    count = i32(m.data, at)[0]
    if count < 0:
        raise m.damaged("holds a text of negative length")
    m.stack.append(string(m.take(at + 4, count)))
    return int(at + 4 + count)


def _bytes(m: Machine, at: int, count: int) -> int:
    m.stack.append(m.take(at, count))
    return at + count


def _bytes1(m: Machine, at: int) -> int:
    return _bytes(m, at + 1, m.data[at])


def _bytes4(m: Machine, at: int) -> int:
    return _bytes(m, at + 4, u32(m.data, at)[0])


def _bytes8(m: Machine, at: int) -> int:
    return _bytes(m, at + 8, u64(m.data, at)[0])


VALUES: dict[bytes, Handler] = {
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b")": _constant(()),
    b"I": _int_line,
    b"L": _long_line,
    b"F": _float_line,
    b"S": _string_line,
    b"V": _unicode_line,
    b"J": _binint,
    b"K": _binint1,
    b"M": _binint2,
    b"\x8a": _long1,
    b"\x8b": _long4,
    b"G": _binfloat,
    b"\x8c": _short_text,
    b"X": _text4,
    b"\x8d": _text8,
    b"U": _string1,
    b"T": _string4,
    b"C": _bytes1,
    b"B": _bytes4,
    b"\x8e": _bytes8,
    b"\x96": _bytes8,  # a bytearray
}
