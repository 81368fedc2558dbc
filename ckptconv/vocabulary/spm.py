"""What a sentencepiece model file says: pieces, scores, and how text is normalised before it is cut."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass
from pathlib import Path
from sys import byteorder

from ckptconv.errors import VocabularyMismatch
from ckptconv.vocabulary.dictionary import read_small


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
        from google.protobuf.message import DecodeError
        from sentencepiece.sentencepiece_model_pb2 import ModelProto

        model = ModelProto()
        try:
            model.ParseFromString(read_small(path))
        except DecodeError as error:
            raise VocabularyMismatch(f"{_name(path)} is not a sentencepiece model: {error}", path) from None
        if not model.pieces or not model.HasField("trainer_spec"):
            raise VocabularyMismatch(
                f"{_name(path)} is not a sentencepiece model: it lists no pieces, or not how they were made", path
            )
        trainer, normalizer = model.trainer_spec, model.normalizer_spec
        return cls(
            path=Path(path),
            pieces=tuple(Piece(piece.piece, piece.score, piece.type) for piece in model.pieces),
            algorithm=trainer.ModelType.Name(trainer.model_type).lower(),
            charsmap=normalizer.precompiled_charsmap,
            byte_fallback=trainer.byte_fallback,
            treat_whitespace_as_suffix=trainer.treat_whitespace_as_suffix,
            add_dummy_prefix=normalizer.add_dummy_prefix,
            remove_extra_whitespaces=normalizer.remove_extra_whitespaces,
            escape_whitespaces=normalizer.escape_whitespaces,
        )


class Charsmap:
    """A sentencepiece normaliser's compiled rules (sentencepiece/src/normalizer.cc, a darts-clone double array).

    Walked here and not by sentencepiece, which trusts every offset in them: a hostile file would crash the process.
    """

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


def _name(path: str | os.PathLike[str]) -> str:
    return os.fspath(path)
