"""A vocabulary of byte pairs: out of the checkpoint itself or the files beside it, and into either."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptconv.containers.checkpoint import Checkpoint
from ckptconv.containers.plain import plain
from ckptconv.errors import VocabularyMismatch
from ckptconv.text import printable
from ckptconv.vocabulary.bpe import Codes, Pieces, read_vocab
from ckptconv.words import Words

CODES, COUNTED = "codes", "vocab"  # what XLM's own scripts call the codes, and the words with their counts
_MOST = 3_000_000  # values of one entry; XLM's largest vocabulary has 200,000 words
_RELATED = 0.25  # of the pairs that are merged, at least so many are words, or the codes are another model's


@dataclass(frozen=True)
class Vocabulary:
    """Words and codes, as far as they are there. files: what was read besides the checkpoint."""

    pieces: Pieces | None = None
    codes: Codes | None = None
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def read_pieces(checkpoint: Checkpoint, words: Words, given: Path | None, rows: int, whole_folder: bool) -> Vocabulary:
    """The words in the checkpoint, or else in the vocab.json beside it; the codes in the file `given`, or else beside.

    given: --codes. rows: of the checkpoint's embedding. whole_folder: whether the user named the folder; else what lies
    beside the checkpoint may belong to another model, and is left out where it doesn't fit.
    Raises VocabularyMismatch for what can't be read, more words than rows, or codes of another model.
    """
    if given is not None and not given.is_file():
        raise VocabularyMismatch(f"{printable(str(given))} is no file; expected BPE codes.", given)
    folder = checkpoint.path.parent
    inside = _inside(checkpoint, words, rows)
    files: list[Path] = []
    notes: list[str] = []
    pieces, codes, vocab = inside, None, folder / words.bpe[1]
    if inside is None and vocab.is_file():
        try:
            pieces = _of_size(read_vocab(vocab, words.special), rows, vocab)
            files.append(vocab)
        except VocabularyMismatch as problem:
            if whole_folder:
                raise
            notes.append(f"not used: {problem}")
    path = given or (_beside(folder, words) if pieces else None)
    if path is not None:
        try:
            codes = _related(Codes.read(path), pieces, path)
            files.append(path)
        except VocabularyMismatch as problem:
            if given or whole_folder:
                raise
            notes.append(f"not used: {problem}")
    return Vocabulary(pieces, codes, tuple(files), tuple(notes))


def transformers_files(
    found: Vocabulary, words: Words, rows: int, longest: int | None, languages: Mapping[str, Any]
) -> tuple[dict[str, bytes], list[str]]:
    """vocab.json, merges.txt and tokenizer_config.json, as far as they can be made. rows: of the embedding. languages:
    the config's fields that the tokenizer has as well."""
    kind, vocab, merges = words.bpe
    if found.pieces is None:
        return {}, ["no tokenizer was written: nothing says what the words are"]
    pieces, notes = _of_rows(found.pieces, rows)
    tokenizer = {
        "tokenizer_class": kind,
        "do_lowercase_and_remove_accent": pieces.lowercased,
        **({"model_max_length": longest} if longest is not None else {}),
        **languages,
    }
    files = {vocab: _json(pieces.vocab()), "tokenizer_config.json": _json(tokenizer)}
    if found.codes:
        return {**files, merges: found.codes.merges().encode()}, notes
    lacking = (
        f"no {merges} was written, so the tokenizer doesn't open: the checkpoint has the words only; name the file of "
        "the BPE codes, which was published beside it, with --codes"
    )
    return files, [*notes, lacking]


def original_files(
    found: Vocabulary, words: Words, rows: int
) -> tuple[dict[str, dict[Any, Any]], dict[str, bytes], list[str]]:
    """(entries for the checkpoint, the files codes and vocab as far as they can be made, notes)."""
    notes = []
    if found.pieces is None:
        notes = [f"nothing says what the words are: {words.inside[0]} names them madeupword0000 …"]
    pieces, told = _of_rows(found.pieces or Pieces(words.special, (), len(words.special)), rows)
    if found.pieces and not pieces.counts:
        told.append(f"{words.inside[2]}: 1 for each word, since transformers keeps no counts")
    entries = pieces.entries(words.inside)
    files = {}
    if found.pieces:
        counts = entries[words.inside[2]]
        listed = pieces.words[pieces.special :]
        files[COUNTED] = "".join(f"{word} {counts[word]}\n" for word in listed).encode()
        if found.codes:
            files[CODES] = found.codes.codes().encode()
        else:
            told.append(f"no {CODES} were written: it needs --codes, or a {words.bpe[2]} beside the weights")
    return entries, files, [*notes, *(told if found.pieces else [])]


def _inside(checkpoint: Checkpoint, words: Words, rows: int) -> Pieces | None:
    if not words.inside or words.inside[0] not in checkpoint.other:
        return None
    said = [plain(checkpoint.other.get(name), _MOST) for name in words.inside]
    by_id, ids, counts = said
    return _of_size(Pieces.of_entries(by_id, ids, counts, words.special), rows, checkpoint.path)


def _of_size(pieces: Pieces, rows: int, path: Path) -> Pieces:
    if len(pieces) > rows:
        raise VocabularyMismatch(
            f"{printable(path.name)} names {len(pieces):,} words, but the embedding has {rows:,} rows; expected a row "
            "for each.",
            path,
        )
    return pieces


def _beside(folder: Path, words: Words) -> Path | None:
    """merges.txt, or the only file whose name begins with `codes`."""
    merges = folder / words.bpe[2]
    found = [merges] if merges.is_file() else sorted(path for path in folder.glob(f"{CODES}*") if path.is_file())
    return found[0] if len(found) == 1 else None


def _related(codes: Codes, pieces: Pieces | None, path: Path) -> Codes:
    known = codes.known(pieces) if pieces else 1.0
    if known < _RELATED:
        raise VocabularyMismatch(
            f"{printable(path.name)} has codes of another vocabulary: {known:.0%} of its pairs make words of the "
            "model's; expected those that it was trained with (--codes).",
            path,
        )
    return codes


def _of_rows(pieces: Pieces, rows: int) -> tuple[Pieces, list[str]]:
    lacking = rows - len(pieces)
    what = f"made-up words for rows {len(pieces)}..{rows - 1}"
    return pieces.resized(rows), [f"{lacking} {what}"] if lacking > 0 else []


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
