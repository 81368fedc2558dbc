"""Checks of the dictionary, tokenizer and sentencepiece model against the embedding."""

from __future__ import annotations

from collections.abc import Iterator

from ckptconv.conversion.rows import dictionaries_by_dim, spare_dims
from ckptconv.validation.findings import Finding, found
from ckptconv.validation.subject import Subject
from ckptconv.validation.tensors import some
from ckptconv.vocabulary.dictionary import SPECIAL, Dictionary
from ckptconv.vocabulary.spm import PieceType, SpmModel
from ckptconv.vocabulary.tokenizer import MARKER


def vocabulary(subject: Subject) -> Iterator[Finding]:
    """Whether every symbol has its row, and the special ones theirs. Raises VocabularyMismatch for unreadable files."""
    if subject.fit is None:
        return
    seen: list[Dictionary] = []
    for dim, dictionary in dictionaries_by_dim(subject.fit, subject.beside):
        if dim in subject.fit.dims:
            yield from _size(subject, dim, dictionary)
        if dictionary not in seen:
            seen.append(dictionary)
            yield from _symbols(subject, dictionary)


def _size(subject: Subject, dim: str, dictionary: Dictionary) -> Iterator[Finding]:
    assert subject.fit is not None
    rows, symbols = int(subject.fit.dims[dim]), len(dictionary)
    what = f"{symbols:,} symbols, {rows:,} rows ({dim})"
    spare = dim in spare_dims(subject.fit)
    if symbols > rows and spare:
        message = f"{what}: rows {rows:,} to {symbols - 1:,} start at random, {symbols - rows:,} of them"
        yield found("ROWS_AT_RANDOM", message, "fine-tune them, or use the dictionary that the model was trained with")
    elif symbols > rows:
        message = f"{what}: fairseq stops with a size mismatch"
        yield found("VOCAB_TOO_LARGE", message, f"use the model's own dictionary, or extend with --vocab {symbols}")
    elif symbols < rows and spare:
        message = f"{what}: unilm's loader cuts rows {symbols:,} to {rows - 1:,}, {rows - symbols:,} of them"
        yield found("VOCAB_TRUNCATED", message, "expected for a pretrained file, whose last rows no dictionary names")
    elif symbols < rows and subject.beside.tokenizer is not None:
        message = f"{what}: rows {symbols:,} to {rows - 1:,} have no token"
        yield found("ROWS_WITHOUT_TOKEN", message, "nothing to do if the embedding was padded on purpose")
    elif symbols < rows:
        message = f"{what}: fairseq stops with a size mismatch"
        yield found("VOCAB_TOO_SMALL", message, f"use the model's own dictionary, or cut with --vocab {symbols}")


def _symbols(subject: Subject, dictionary: Dictionary) -> Iterator[Finding]:
    assert subject.fit is not None
    wrong = [f"{s} at {dictionary.ids.get(s, 'no id')}" for i, s in enumerate(SPECIAL) if dictionary.ids.get(s) != i]
    if wrong:
        expected = " ".join(f"{symbol} {index}" for index, symbol in enumerate(SPECIAL))
        yield found("SPECIAL_TOKENS", f"{', '.join(wrong)}; expected {expected}", "use the model's own dictionary")
    markers = [symbol for symbol in dictionary.symbols if MARKER.fullmatch(symbol)]
    markers = [symbol for symbol in markers if symbol not in (*SPECIAL, *subject.fit.table.words.appended)]
    last = [symbol for symbol in markers if dictionary.ids[symbol] >= len(dictionary) - len(markers) - 8]
    if last:
        first = min(dictionary.ids[symbol] for symbol in last)
        yield found(
            "TOKENS_APPENDED",
            f"{len(last)} marker tokens at the end, from id {first:,}: {some(last)}",
            "rows that were appended after pretraining are untrained: fine-tune them",
        )
    if subject.beside.spm is not None:
        spm = SpmModel.read(subject.beside.spm)
        pieces = [piece.text for piece in spm.pieces if piece.type == PieceType.NORMAL]
        unknown = [piece for piece in pieces if piece not in dictionary.ids]
        if unknown:
            share = len(unknown) / len(pieces)
            message = (
                f"{len(unknown):,} of {len(pieces):,} pieces ({share:.1%}) are <unk> to the dictionary: {some(unknown)}"
            )
            hint = (
                "use the sentencepiece model that the dictionary was made with" if share > 0.05 else "a few are usual"
            )
            yield found("SPM_PIECES_UNKNOWN", message, hint)
