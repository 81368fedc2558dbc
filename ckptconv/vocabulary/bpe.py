"""Byte pairs as XLM has them: fastBPE's words and codes, and transformers' vocab.json and merges.txt of the same.

fastBPE marks a piece that its word goes on after (`hel@@ lo`), transformers one that ends a word (`hel lo</w>`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from ckptconv.errors import VocabularyMismatch
from ckptconv.smallfiles import check_values
from ckptconv.text import printable
from ckptconv.vocabulary.dictionary import LARGEST_SIZE, read_small

GOES_ON, ENDS = "@@", "</w>"


@dataclass(frozen=True)
class Pieces:
    """XLM's dictionary (xlm/data/dictionary.py).

    words: by id, the special ones first, as fastBPE spells them. counts: how often each occurred in the training text;
    () where nothing says so. special: how many special ones there are.
    """

    words: tuple[str, ...]
    counts: tuple[int, ...]
    special: int

    @classmethod
    def of_entries(cls, by_id: Any, ids: Any, counts: Any, special: Sequence[str]) -> Pieces:
        """The dictionary of a checkpoint's entries: words by id, ids by word, counts by word. VocabularyMismatch where
        they aren't that, or contradict each other."""
        words = _numbered(by_id, "words by id")
        if not isinstance(ids, Mapping) or ids != {word: index for index, word in enumerate(words)}:
            raise VocabularyMismatch("The checkpoint's ids by word aren't its words by id the other way round.")
        said = counts if isinstance(counts, Mapping) else {}
        found = [said.get(word) for word in words]
        listed = tuple(number for number in found if type(number) is int)
        return cls(words, listed if len(listed) == len(words) else (), _checked(words, special))

    @classmethod
    def of_vocab(cls, vocab: Any, special: Sequence[str], name: str) -> Pieces:
        """The dictionary of transformers' vocab.json. name: the file's, for messages. VocabularyMismatch."""
        if not isinstance(vocab, Mapping) or not all(type(index) is int for index in vocab.values()):
            raise VocabularyMismatch(f"{name} is no vocabulary: expected an object with an id for each piece.")
        tokens = _numbered({index: token for token, index in vocab.items()}, name)
        if len(tokens) < len(vocab):
            raise VocabularyMismatch(f"{name} has an id twice; expected one for each piece.")
        first = _checked(tokens, special)
        words = tokens[:first] + tuple(
            token.removesuffix(ENDS) if token.endswith(ENDS) else token + GOES_ON for token in tokens[first:]
        )
        _distinct(words, name)
        return cls(words, (), first)

    def __len__(self) -> int:
        """Rows that an embedding for it has."""
        return len(self.words)

    @property
    def lowercased(self) -> bool:
        """Whether the text was put into lower case before it was cut: no word has a capital letter."""
        return not any(word != word.lower() for word in self.words[self.special :])

    def resized(self, rows: int) -> Pieces:
        """The first `rows` words; made-up ones (`madeupword0000`, …, counted 0) where there are fewer."""
        there = set(self.words)
        names = (name for number in count() if (name := f"madeupword{number:04d}") not in there)
        made = tuple(next(names) for _ in range(rows - len(self.words)))
        counts = (*self.counts, *(0 for _ in made))[:rows] if self.counts else ()
        return Pieces((*self.words, *made)[:rows], counts, self.special)

    def vocab(self) -> dict[str, int]:
        """The content of vocab.json: transformers' convert_xlm_original_pytorch_checkpoint_to_pytorch.py, but that a
        word with `@@` within stays what it is. VocabularyMismatch where two words become one."""
        tokens = [
            word if index < self.special else _token(word)  # special words are no pieces
            for index, word in enumerate(self.words)
        ]
        _distinct(tokens, "vocab.json")
        return {token: index for index, token in enumerate(tokens)}

    def entries(self, names: Sequence[str]) -> dict[str, dict[Any, Any]]:
        """A checkpoint's entries: words by id, ids by word, counts by word; unknown counts are 1, and 0 for special
        words, as XLM counts those."""
        counts = self.counts or tuple(int(index >= self.special) for index in range(len(self.words)))
        by_id = dict(enumerate(self.words))
        ids = {word: index for index, word in by_id.items()}
        return dict(zip(names, (by_id, ids, dict(zip(self.words, counts, strict=True))), strict=True))


@dataclass(frozen=True)
class Codes:
    """The pairs that are merged, the first ones first."""

    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, path: Path) -> Codes:
        """The pairs in fastBPE's codes (`e r</w> 1234`) or transformers' merges.txt (`e r</w>`). VocabularyMismatch,
        with the line's number, for anything else."""
        name = printable(path.name)
        try:
            text = read_small(path).decode("utf-8")
        except UnicodeDecodeError as error:
            raise VocabularyMismatch(f"{name} is not UTF-8 text (byte {error.start}), so no BPE codes.", path) from None
        lines = text.removesuffix("\n").replace("\r\n", "\n").split("\n", LARGEST_SIZE + 1)
        if len(lines) > LARGEST_SIZE:
            raise VocabularyMismatch(f"{name} has more than {LARGEST_SIZE:,} lines, so it is no list of codes.", path)
        start = 1 if lines[0].startswith("#version") else 0
        pairs = [_pair(line, number, name, path) for number, line in enumerate(lines[start:], start + 1)]
        return cls(tuple(pairs))

    def known(self, pieces: Pieces) -> float:
        """The share of the merged pairs that are words; of codes that belong to the words it is nearly all."""
        tokens = {_token(word) for word in pieces.words[pieces.special :]}
        return sum(left + right in tokens for left, right in self.pairs) / max(1, len(self.pairs))

    def merges(self) -> str:
        """The content of merges.txt, as XLMTokenizer.save_vocabulary writes it."""
        return "".join(f"{left} {right}\n" for left, right in self.pairs)

    def codes(self) -> str:
        """The content of fastBPE's codes. It wants a number on each line and doesn't use it."""
        return "".join(f"{left} {right} 1\n" for left, right in self.pairs)


def read_vocab(path: str | os.PathLike[str], special: Sequence[str]) -> Pieces:
    """The dictionary in a vocab.json. VocabularyMismatch where it can't be read or is none."""
    name = printable(Path(path).name)
    try:
        data = read_small(path)
        check_values(data, 3 * LARGEST_SIZE)
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise VocabularyMismatch(f"{name} can't be read as JSON: {printable(str(error))}.", path) from None
    return Pieces.of_vocab(document, special, name)


def _token(word: str) -> str:
    """fastBPE's spelling of a piece → transformers'. A bare `@@` is a word of its own."""
    return word.removesuffix(GOES_ON) if word.endswith(GOES_ON) and word != GOES_ON else word + ENDS


def _numbered(by_id: Any, what: str) -> tuple[str, ...]:
    """Words by id as a sequence. VocabularyMismatch where ids don't count from 0, or words aren't text."""
    size = len(by_id) if isinstance(by_id, Mapping) else 0
    words = tuple(by_id[index] for index in range(size) if index in by_id) if size else ()
    if not words or len(words) < size or not all(type(word) is str for word in words):
        raise VocabularyMismatch(f"{what}: expected words of text under the ids 0, 1, 2 ….")
    return words


def _checked(words: Sequence[str], special: Sequence[str]) -> int:
    """How many special words there are. VocabularyMismatch where others stand in their places."""
    wrong = next((index for index, name in enumerate(special) if words[index : index + 1] != (name,)), None)
    if wrong is not None:
        got = printable(words[wrong]) if wrong < len(words) else "nothing"
        raise VocabularyMismatch(f"The word with id {wrong} is {got}; expected XLM's {special[wrong]}.")
    return len(special)


def _distinct(tokens: Sequence[str], name: str) -> None:
    if len(set(tokens)) < len(tokens):
        seen: set[str] = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))  # type: ignore[func-returns-value]
        raise VocabularyMismatch(f"{name}: two words would be {printable(twice)}; expected different ones.")


def _pair(line: str, number: int, name: str, path: Path) -> tuple[str, str]:
    parts = line.split(" ")
    if len(parts) not in (2, 3) or not all(parts) or not (len(parts) == 2 or parts[2].isdecimal()):
        raise VocabularyMismatch(
            f"{name}, line {number}: got {printable(line, 80)!r}, expected two pieces to be merged and a count, as in "
            "fastBPE's codes.",
            path,
        )
    return parts[0], parts[1]
