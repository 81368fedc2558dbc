"""fairseq's dict.txt: symbol → id."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from errno import EFBIG
from functools import cached_property
from itertools import count
from pathlib import Path

from ckptconv.errors import CannotWrite, VocabularyMismatch
from ckptconv.smallfiles import read_regular
from ckptconv.text import printable

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
UNK = SPECIAL.index("<unk>")
OVERWRITE = "#fairseq:overwrite"
# The largest real ones (250,000 symbols) have 5 MB; anything far above is not a vocabulary.
LARGEST_FILE = 64 << 20
LARGEST_SIZE = 1_000_000  # symbols


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
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n", LARGEST_SIZE + 1)
        if len(lines) > LARGEST_SIZE:
            raise VocabularyMismatch(
                f"{_name(path)} has more than {LARGEST_SIZE:,} lines, so it is no vocabulary", path
            )
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

    def with_appended(self, symbols: Iterable[str]) -> Dictionary:
        """The dictionary with each of `symbols` that it lacks on the end.

        As fairseq's tasks do after reading dict.txt: `dictionary.add_symbol("<mask>")` (fairseq/tasks/masked_lm.py).
        """
        return Dictionary(self.symbols + tuple(symbol for symbol in symbols if symbol not in self.ids))

    def without_appended(self, symbols: Sequence[str]) -> Dictionary:
        """What dict.txt has to list, so that `with_appended` of the same `symbols` gives this dictionary again.

        Those that come last are left out; where others follow them, they are listed, and the task finds them there.
        """
        for last in range(len(symbols), 0, -1):
            shorter = Dictionary(self.symbols[:-last])
            if shorter.with_appended(symbols) == self:
                return shorter
        return self


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


def read_small(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a vocabulary's file; VocabularyMismatch if it can't be read, or is far too large for one."""
    try:
        return read_regular(path, LARGEST_FILE)
    except OSError as error:
        if error.errno == EFBIG:
            told = f"{_name(path)} has more than {LARGEST_FILE >> 20} MB, so it is no vocabulary"
            raise VocabularyMismatch(told, path) from None
        raise VocabularyMismatch(f"{_name(path)} can't be read: {error.strerror}", path) from None


def _name(path: str | os.PathLike[str]) -> str:
    return printable(os.fspath(path))
