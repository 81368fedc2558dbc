"""What fairseq makes ids with, and what HF makes of it: dict.txt, sentencepiece models, tokenizer.json. No torch."""

from ckptconv.vocabulary.dictionary import LARGEST_FILE, LARGEST_SIZE, SPECIAL, UNK, Dictionary, read_small
from ckptconv.vocabulary.spm import Charsmap, Piece, PieceType, SpmModel

__all__ = [
    "LARGEST_FILE",
    "LARGEST_SIZE",
    "SPECIAL",
    "UNK",
    "Charsmap",
    "Dictionary",
    "Piece",
    "PieceType",
    "SpmModel",
    "read_small",
]
