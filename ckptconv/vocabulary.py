"""The two files that fairseq makes ids with: dict.txt (symbol → id) and the sentencepiece model (text → symbols).

Both are parsed here, without fairseq, sentencepiece or protobuf.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from sys import byteorder

from ckptconv.errors import CannotWrite, Unsupported, VocabularyMismatch

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
UNK = SPECIAL.index("<unk>")
OVERWRITE = "#fairseq:overwrite"
# The largest real ones (250,000 symbols) have 5 MB; anything far above is not a vocabulary.
LARGEST_FILE = 64 << 20


@dataclass(frozen=True)
class Dictionary:
    """fairseq's dictionary: `symbols` by id, beginning with the four that dict.txt doesn't list (`SPECIAL`).

    A symbol may come twice (dict.txt marks the later one with `#fairseq:overwrite`); then the last one's id counts.
    """

    symbols: tuple[str, ...]

    def __len__(self) -> int:
        """Rows that an embedding for this dictionary has."""
        return len(self.symbols)

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """Symbol → id; what isn't in here is `UNK` to fairseq."""
        return {symbol: index for index, symbol in enumerate(self.symbols)}

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Dictionary:
        """The dictionary in a dict.txt, read as fairseq does (fairseq/data/dictionary.py, add_from_file).

        VocabularyMismatch, with the line's number, if a line is not `symbol count [#fairseq:overwrite]`, or repeats
        a symbol without that flag.
        """
        try:
            text = read_small(path).decode("utf-8")
        except UnicodeDecodeError as error:
            raise VocabularyMismatch(
                f"{_name(path)} is not UTF-8 text (byte {error.start}), so no dict.txt", path
            ) from None
        symbols, seen = list(SPECIAL), set(SPECIAL)
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for number, line in enumerate(lines[:-1] if not lines[-1] else lines, 1):
            symbol, overwrite = _parse_line(line, number, path)
            if symbol in seen and not overwrite:
                raise VocabularyMismatch(
                    f"{_name(path)}, line {number}: {symbol!r} is in the dictionary already; "
                    f"remove the line, or end it with {OVERWRITE} if the later one shall count",
                    path,
                )
            symbols.append(symbol)
            seen.add(symbol)
        return cls(tuple(symbols))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes a dict.txt that fairseq (and `read`) gives the same ids for; counts are not kept, each is 1."""
        Path(path).write_bytes(self.text().encode("utf-8"))

    def text(self) -> str:
        """The content of that dict.txt. CannotWrite if a symbol can't stand in one."""
        if self.symbols[: len(SPECIAL)] != SPECIAL:
            raise CannotWrite(f"the dictionary begins with {self.symbols[:4]}, fairseq's begins with {SPECIAL}")
        seen, lines = set(SPECIAL), []
        for symbol in self.symbols[len(SPECIAL) :]:
            if "\n" in symbol or "\r" in symbol:
                raise CannotWrite(f"symbol {symbol!r} has a line break in it, which dict.txt can't hold")
            lines.append(f"{symbol} 1 {OVERWRITE}\n" if symbol in seen else f"{symbol} 1\n")
            seen.add(symbol)
        return "".join(lines)

    def extended(self, size: int) -> Dictionary:
        """The dictionary with `madeupword0000`, … on the end, as fairseq pads one, until it has `size` symbols."""
        made_up = (name for name in (f"madeupword{number:04d}" for number in count()) if name not in self.ids)
        return Dictionary(self.symbols + tuple(next(made_up) for _ in range(size - len(self))))


def _parse_line(line: str, number: int, path: str | os.PathLike[str]) -> tuple[str, bool]:
    symbol, space, amount = line.rstrip().rpartition(" ")
    overwrite = amount == OVERWRITE
    if overwrite:
        symbol, space, amount = symbol.rpartition(" ")
    try:
        int(amount)
    except ValueError:
        space = ""
    if not space:
        raise VocabularyMismatch(
            f"{_name(path)}, line {number}: got {line[:80]!r}, expected 'symbol count', as in fairseq's dict.txt", path
        )
    return symbol, overwrite


class PieceType:
    """What a sentencepiece piece is (sentencepiece_model.proto, SentencePiece.Type)."""

    NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece: its text (spaces as ▁), its log probability, and its `PieceType`."""

    text: str
    score: float
    type: int


@dataclass(frozen=True)
class SpmModel:
    """What a sentencepiece model file says.

    pieces: by sentencepiece's own id. algorithm: unigram, bpe, word or char. charsmap: the normaliser's compiled
    rules, b"" for none. The flags are the model's own, under their names in sentencepiece_model.proto.
    """

    path: Path
    pieces: tuple[Piece, ...]
    algorithm: str
    charsmap: bytes
    byte_fallback: bool
    treat_whitespace_as_suffix: bool
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> SpmModel:
        """The model at `path`. VocabularyMismatch if it isn't one, Unsupported if it is of a kind not known."""
        try:
            pieces, rest = [], {}
            for number, value in _fields(read_small(path)):
                if number == 1:
                    pieces.append(_piece(value))
                else:
                    rest[number] = value
            trainer, normalizer = _message(rest.get(2, b"")), _message(rest.get(3, b""))
            algorithms = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
            charsmap = normalizer.get(2, b"")
            if not pieces or not trainer or not isinstance(charsmap, bytes):
                raise ValueError("it lists no pieces, or says nothing of how they were made")
            algorithm = trainer.get(3, 1)
            if not isinstance(algorithm, int) or algorithm not in algorithms:
                raise Unsupported(f"{_name(path)}: sentencepiece algorithm {algorithm!r} is not known", path)
            return cls(
                path=Path(path),
                pieces=tuple(pieces),
                algorithm=algorithms[algorithm],
                charsmap=charsmap,
                byte_fallback=bool(trainer.get(35, False)),
                treat_whitespace_as_suffix=bool(trainer.get(24, False)),
                add_dummy_prefix=bool(normalizer.get(3, True)),
                remove_extra_whitespaces=bool(normalizer.get(4, True)),
                escape_whitespaces=bool(normalizer.get(5, True)),
            )
        except (ValueError, TypeError, struct.error) as error:
            raise VocabularyMismatch(f"{_name(path)} is not a sentencepiece model: {error}", path) from None


class Charsmap:
    """A sentencepiece normaliser's compiled rules (sentencepiece/src/normalizer.cc, a darts-clone double array)."""

    def __init__(self, compiled: bytes) -> None:
        """ValueError if `compiled` is cut short."""
        size = int.from_bytes(compiled[:4], "little")
        if len(compiled) < 4 + size or size % 4 or size == 0:
            raise ValueError(f"the normaliser's rules should have more than {size} bytes, and have {len(compiled)}")
        self._units = array("I", compiled[4 : 4 + size])
        if byteorder == "big":
            self._units.byteswap()
        self._outputs = compiled[4 + size :]

    def normalize(self, text: str) -> str:
        """`text` with the longest rule applied at every place; spaces are left alone."""
        data, at, parts = text.encode("utf-8"), 0, []
        while at < len(data):
            length, output = self._longest(data, at)
            parts.append(output)
            at += length
        return b"".join(parts).decode("utf-8")

    def _longest(self, data: bytes, at: int) -> tuple[int, bytes]:
        width = 1 if data[at] < 0x80 else 2 if data[at] < 0xE0 else 3 if data[at] < 0xF0 else 4
        best = width, data[at : at + width]
        node = _offset(self._units[0])
        for end in range(at, len(data)):
            node ^= data[end]
            unit = self._units[node] if node < len(self._units) else 0
            if unit & 0x800000FF != data[end]:
                break
            node ^= _offset(unit)
            if unit >> 8 & 1:
                start = self._units[node] & 0x7FFFFFFF
                best = end + 1 - at, self._outputs[start : self._outputs.index(0, start)]
        return best


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 0x200) >> 6)


def read_small(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a vocabulary's file; VocabularyMismatch if it can't be read, or is far too large for one."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise VocabularyMismatch(f"{_name(path)} can't be read: {error.strerror}", path) from None
    if len(data) > LARGEST_FILE:
        raise VocabularyMismatch(f"{_name(path)} has more than {LARGEST_FILE >> 20} MB, so it is no vocabulary", path)
    return data


def _name(path: str | os.PathLike[str]) -> str:
    return os.fspath(path)


def _piece(data: object) -> Piece:
    fields = _message(data)
    kind, score = fields.get(3, PieceType.NORMAL), fields.get(2, b"\0\0\0\0")
    text = fields.get(1)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
        raise ValueError("a piece has no text")
    return Piece(text.decode("utf-8"), struct.unpack("<f", score)[0], kind)


def _message(data: object) -> dict[int, int | bytes]:
    """The fields of a protobuf message by number, the last one where it repeats: varint, or the raw bytes."""
    if not isinstance(data, bytes):
        raise ValueError("a number stands where a message should")
    return dict(_fields(data))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field at byte {at} is of no kind that protobuf has")
        if size > len(data) - at:
            raise ValueError(f"it ends within a field, {size - (len(data) - at)} bytes too early")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number at byte {at} does not end")
