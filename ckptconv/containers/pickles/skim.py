"""A pickle that lies in a file with gigabytes of arrays in it, without the arrays' bytes.

`skim` goes through the instructions as CPython's Lib/pickletools.py describes them, without carrying any out, and
leaves bytes where they are: instead of them, and of the text that protocol 2 spells bytes with, the result pushes the
persistent id (start, count, whether it is text). It is for `read_pickle`, which checks everything.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from ckptconv.containers.files import Source
from ckptconv.containers.pickles.machine import Truncated
from ckptconv.errors import Damaged, Unsafe

_WINDOW = 1 << 20
_SHORT = 8300  # bytes that an instruction with two lines may take, which are the longest but for text and bytes
_LIMIT = 32 << 20  # bytes of the result; 50,000 arrays take 8 MB
_STEPS = 4_000_000  # 50,000 arrays take 2 million

_LINE, _LINES = -1, -2
_FIXED = dict.fromkeys(b"(012.NQR)]}bdeatsul\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98o", 0)
_FIXED |= {ord("K"): 1, ord("h"): 1, ord("q"): 1, 0x80: 1, 0x82: 1, ord("M"): 2, 0x83: 2, 0x84: 4}
_FIXED |= {ord("J"): 4, ord("j"): 4, ord("r"): 4, ord("G"): 8}
_FIXED |= dict.fromkeys(b"FILSVgpP", _LINE) | dict.fromkeys(b"ci", _LINES)
# What kind of argument it is, and how many bytes say how long.
_TEXT, _BYTES, _INLINE = range(3)
_LONG = {0x8C: (_TEXT, 1), ord("X"): (_TEXT, 4), 0x8D: (_TEXT, 8)}
_LONG |= {ord("C"): (_BYTES, 1), ord("B"): (_BYTES, 4), 0x8E: (_BYTES, 8), 0x96: (_BYTES, 8)}
_LONG |= {0x8A: (_INLINE, 1), 0x8B: (_INLINE, 4), ord("U"): (_INLINE, 1), ord("T"): (_INLINE, 4)}
_PUTS, _GETS = {ord("q"): 1, ord("r"): 4}, {ord("h"): 1, ord("j"): 4}
_MEMO = _PUTS.keys() | _GETS.keys()
_FRAME, _STOP, _PERSISTENT = 0x95, ord("."), ord("Q")
_ENCODE = b"c_codecs\nencode\n"
_REFERENCE = struct.Struct("<2sq2sq3s")


@dataclass(frozen=True)
class Skimmed:
    """pickle: what is left. end: where it ends in the file. letters: texts of one letter, spelt bytes or not, since
    Python has one object for all that are the same: where they lie, and how many bytes they take."""

    pickle: bytes
    end: int
    letters: Mapping[bytes, tuple[int, int]]


def skim(source: Source) -> Skimmed:
    """The pickle at the start of a file, without the bytes in it. Where it makes no sense, the result breaks off, so
    that `read_pickle` says why. Raises Truncated, Damaged or Unsafe (too long without the bytes)."""
    skimmer = _Skimmer(source)
    for _ in range(_STEPS):
        going_on = skimmer.step()
        skimmer.reserve(0)
        if not going_on:
            return Skimmed(bytes(skimmer.out), skimmer.start + skimmer.at, skimmer.letters)
    raise Unsafe(
        f"{source.where} is refused as unsafe: its pickle has more instructions than any model needs", source.path
    )


class _Skimmer:
    """out: the result so far. data: a piece of the file, which begins at its byte `start`. at: the next instruction.

    encoders: the places in the memo where `_codecs.encode` is. spells: whether it is what was pushed last.
    letters: as in Skimmed.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.out = bytearray()
        self.data = b""
        self.start = self.at = 0
        self.encoders: set[int] = set()
        self.spells = False
        self.letters: dict[bytes, tuple[int, int]] = {}

    def step(self) -> bool:
        """One instruction; False if it was the last, or no instruction."""
        if self.at + _SHORT > len(self.data):
            self.go_to(self.start + self.at)
        data, at = self.data, self.at
        if at >= len(data):
            return False
        code = data[at]
        size = _FIXED.get(code)
        if size is None:
            return self.long(code)
        if size < 0:
            size = self.lines(-size) if size else 0
        if code in _MEMO:
            self.remember(code)
        else:
            self.spells = code == _ENCODE[0] and data.startswith(_ENCODE, at)
        self.copy(1 + size)
        if code == _PERSISTENT:
            raise Damaged(f"{self.source.where} is damaged: its pickle refers to a storage, where none can be")
        return code != _STOP and self.at <= len(data)

    def remember(self, code: int) -> None:
        """Keeps track of where in the memo `_codecs.encode` is."""
        at = self.at + 1
        if code in _PUTS:
            index = int.from_bytes(self.data[at : at + _PUTS[code]], "little")
            (self.encoders.add if self.spells else self.encoders.discard)(index)
        else:
            self.spells = int.from_bytes(self.data[at : at + _GETS[code]], "little") in self.encoders

    def lines(self, count: int) -> int:
        """Bytes of an argument of so many lines."""
        end = self.at + 1
        for _ in range(count):
            end = self.data.find(b"\n", end, end + _SHORT // 2) + 1 or len(self.data) + 1
        return end - self.at - 1

    def long(self, code: int) -> bool:
        """An instruction whose argument says how long it is."""
        spells, self.spells = self.spells, False
        if code == _FRAME:
            return self.frame()
        kind, width = _LONG.get(code, (None, 0))
        begin = self.at + 1 + width
        if kind is None or begin > len(self.data):
            self.copy(1 + width)
            return False
        count = int.from_bytes(self.data[self.at + 1 : begin], "little")
        place = self.start + begin
        if place + count > self.source.size:
            raise truncated(self.source)
        is_letter = kind == _TEXT and count <= 2 and self.is_letter(begin, count)
        if kind == _BYTES or (kind == _TEXT and spells and not is_letter):
            self.out += _reference(place, count, kind == _TEXT)
            self.go_to(place + count)
        else:
            self.copy(1 + width)
            self.inline(count)
        return True

    def is_letter(self, begin: int, count: int) -> bool:
        """Whether a text of so many bytes is one letter up to U+00FF; if so, its place is remembered."""
        text = self.data[begin : begin + count]
        try:
            letter = text.decode("utf-8").encode("latin-1")
        except UnicodeError:
            return False
        if len(letter) == 1:
            self.letters.setdefault(letter, (self.start + begin, count))
        return len(letter) == 1

    def frame(self) -> bool:
        """Frames are for reading ahead; their lengths would be wrong without the bytes."""
        end = self.at + 9
        length = int.from_bytes(self.data[self.at + 1 : end], "little")
        if self.start + end + length > self.source.size:
            raise truncated(self.source)
        self.at = end
        return True

    def inline(self, count: int) -> None:
        """The next bytes, however many, belong to the result."""
        if self.at + count <= len(self.data):
            self.copy(count)
            return
        place = self.start + self.at
        self.reserve(count)
        self.out += self.source.read(place, count)
        self.go_to(place + count)

    def copy(self, count: int) -> None:
        """The next bytes, which are at hand, belong to the result."""
        self.out += self.data[self.at : self.at + count]
        self.at += count

    def reserve(self, count: int) -> None:
        """Raises Unsafe if the result becomes too long."""
        if len(self.out) + count > _LIMIT:
            raise Unsafe(
                f"{self.source.where} is refused as unsafe: without its arrays, its pickle takes over {_LIMIT:,} bytes",
                self.source.path,
            )

    def go_to(self, place: int) -> None:
        """On at that byte of the file, which is read from there where it isn't at hand."""
        at = place - self.start
        if not 0 <= at <= len(self.data) - _SHORT and self.start + len(self.data) < self.source.size:
            self.data = self.source.read(place, min(_WINDOW, self.source.size - place))
            self.start, at = place, 0
        self.at = at


def truncated(source: Source) -> Truncated:
    """The error for a pickle that isn't all there."""
    return Truncated(f"{source.where} is truncated: its pickle ends in the middle of an instruction", source.path)


def _reference(place: int, count: int, is_text: bool) -> bytes:
    """Instructions that push the persistent id of bytes in the file."""
    return _REFERENCE.pack(b"\x8a\x08", place, b"\x8a\x08", count, b"\x88\x87Q" if is_text else b"\x89\x87Q")
