"""Vocabularies that list a token per line, by id, with names of their own for the special ones: ERNIE-M's vocab.txt.

How it is read: PaddleNLP's paddlenlp/transformers/tokenizer_utils.py (`load_vocabulary`), and transformers 4.57,
models/deprecated/ernie_m/tokenization_ernie_m.py (`load_vocab`).
"""

from __future__ import annotations

import os
from pathlib import Path

from ckptconv.errors import VocabularyMismatch
from ckptconv.text import printable
from ckptconv.vocabulary.dictionary import LARGEST_SIZE, SPECIAL, Dictionary, read_small
from ckptconv.words import Listing, Words


def listed_beside(folder: Path, words: Words) -> Path | None:
    """The family's list of tokens in the folder, if one is there that begins with the right names."""
    if words.listed is None or not (folder / words.listed.file).is_file():
        return None
    start = "".join(f"{name}\n" for name in words.listed.names[: len(SPECIAL)]).encode()
    path = folder / words.listed.file
    return path if read_small(path).startswith(start) else None


def read_listed(path: Path, words: Words) -> Dictionary:
    """The dictionary in such a list, as `listed_beside` found it. VocabularyMismatch if it is no UTF-8 text."""
    try:
        lines = read_small(path).decode("utf-8").removesuffix("\n").split("\n", LARGEST_SIZE)
    except UnicodeDecodeError as error:
        told = f"{printable(os.fspath(path))} is not UTF-8 text (byte {error.start}), so it is no vocabulary"
        raise VocabularyMismatch(told, path) from None
    ours = dict(zip(_names(words.listed), (*SPECIAL, *words.appended), strict=False))
    return Dictionary(tuple(ours.get(line, line) for line in lines)).with_appended(words.appended)


def listed_text(dictionary: Dictionary, words: Words) -> bytes:
    """The content of such a list."""
    theirs = dict(zip((*SPECIAL, *words.appended), _names(words.listed), strict=False))
    return "".join(f"{theirs.get(symbol, symbol)}\n" for symbol in dictionary.symbols).encode()


def _names(listing: Listing | None) -> tuple[str, ...]:
    return listing.names if listing else ()
