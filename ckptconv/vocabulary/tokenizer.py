"""tokenizer.json from a sentencepiece model and fairseq's dictionary, and the dictionary back from a tokenizer.json.

fairseq cuts text into pieces with sentencepiece, looks each up in dict.txt, and appends `</s>`; sentencepiece's own ids
play no part. Here both steps are one `Unigram` model whose vocabulary is the dictionary in its order, with the scores
of the sentencepiece model. Only json is written: neither tokenizers, sentencepiece nor transformers is needed.

Where two ways to cut a text score exactly alike ("gg", "g" and "g", "gg"), sentencepiece's float32 sums decide between
them by their rounding, tokenizers' float64 by theirs: the one difference that no tokenizer.json can remove.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ckptconv.errors import Unsupported, VocabularyMismatch
from ckptconv.vocabulary import SPECIAL, UNK, Dictionary, Piece, PieceType, SpmModel, read_small
from ckptconv.vocabulary.normalizer import SPACE, normalizer

# Symbols that stand for something else than text, and are typed as they are: [de_DE], <2de>, <lang:xx>, __de__.
MARKER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|__\S+__")
# What Python's str.split, with which fairseq cuts a line of pieces into words, takes for a space.
OTHER_SPACES = tuple(char for char in map(chr, range(0x3001)) if char.isspace() and char != " ")
# Before a symbol that segmentation must never yield. The model meets no space (it is ▁ by then), so none matches.
HIDDEN = " "
END = {"SpecialToken": {"id": "</s>", "type_id": 0}}


@dataclass(frozen=True)
class TokenizerReport:
    """What was written, and where its ids can differ from fairseq's.

    vocab_size: tokens in tokenizer.json. files: names of the files. markers: symbols (language tokens) that are special
    tokens now. unreachable: pieces of the sentencepiece model that the dictionary lacks; fairseq has one `<unk>` for
    each, tokenizer.json cuts that text into other pieces. notes: a sentence on each thing worth telling.
    """

    vocab_size: int
    files: tuple[str, ...]
    markers: tuple[str, ...]
    unreachable: tuple[str, ...]
    notes: tuple[str, ...]


def export_tokenizer(
    spm: Path, dictionary: Dictionary, vocab_size: int, directory: Path, max_length: int | None = None
) -> TokenizerReport:
    """Writes tokenizer.json and tokenizer_config.json into `directory`, which exists.

    vocab_size: rows of the embedding. max_length: tokens that the model has positions for, `</s>` included.
    VocabularyMismatch if the dictionary has more symbols than rows or the files are damaged; Unsupported for a
    sentencepiece model that isn't a unigram one.
    """
    files, report = tokenizer_files(SpmModel.read(spm), dictionary, vocab_size, max_length)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return report


def tokenizer_files(
    spm: SpmModel, dictionary: Dictionary, vocab_size: int, max_length: int | None = None
) -> tuple[dict[str, bytes], TokenizerReport]:
    """The content of each file that `export_tokenizer` writes, by its name, and the report."""
    if len(dictionary) > vocab_size:
        raise VocabularyMismatch(
            f"the dictionary has {len(dictionary)} symbols (4 special ones included), and the embedding only "
            f"{vocab_size} rows; give the dictionary that the model was trained with"
        )
    _check_supported(spm)
    roles = _Roles(spm, dictionary)
    try:
        before, after = _json(_tokenizer(spm, dictionary, roles)).split(b'"vocab": []')
    except (ValueError, IndexError) as error:
        raise VocabularyMismatch(f"{spm.path}: the normaliser's rules are damaged: {error}", spm.path) from None
    files = {
        "tokenizer.json": b'%s"vocab": [%s]%s' % (before, _vocabulary(dictionary, roles), after),
        "tokenizer_config.json": _json(_config(roles.markers, max_length)),
    }
    notes = tuple(_notes(roles, len(dictionary), vocab_size))
    return files, TokenizerReport(len(dictionary), tuple(files), roles.markers, roles.unreachable, notes)


def export_dictionary(directory: Path) -> Dictionary:
    """fairseq's dictionary for the tokenizer.json in `directory`: its tokens in the order of their ids.

    The same symbols in the same order as the dict.txt that `export_tokenizer` was given. VocabularyMismatch if the
    first four tokens aren't fairseq's, or ids are left out.
    """
    path = directory / "tokenizer.json"
    try:
        content = json.loads(read_small(path))
        vocab, added = content["model"]["vocab"], content.get("added_tokens") or ()
        listed = {index: token for index, (token, _) in enumerate(vocab)} if isinstance(vocab, list) else {}
        listed |= {index: token for token, index in vocab.items()} if isinstance(vocab, dict) else {}
        listed |= {token["id"]: token["content"] for token in added}
        symbols = tuple(str(listed[index]).removeprefix(HIDDEN) for index in range(len(listed)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise VocabularyMismatch(
            f"{path} is not a tokenizer.json that lists a token for each id from 0 on, so no dictionary can be made "
            "of it; give the one that the model was trained with (--dict)",
            path,
        ) from None
    if symbols[: len(SPECIAL)] != SPECIAL:
        raise VocabularyMismatch(
            f"{path} begins with {', '.join(symbols[:4])}, and fairseq's dictionaries with {', '.join(SPECIAL)}", path
        )
    return Dictionary(symbols)


def _check_supported(spm: SpmModel) -> None:
    if spm.algorithm != "unigram":
        raise Unsupported(
            f"{spm.path} is a sentencepiece {spm.algorithm} model; only unigram ones can become a tokenizer.json",
            spm.path,
        )
    if spm.treat_whitespace_as_suffix or not spm.escape_whitespaces:
        flag = "treat_whitespace_as_suffix" if spm.treat_whitespace_as_suffix else "escape_whitespaces=false"
        raise Unsupported(f"{spm.path} was trained with {flag}, which a tokenizer.json can't express", spm.path)


class _Roles:
    """What each symbol of the dictionary is to the tokenizer: found in text, or there for its id only."""

    def __init__(self, spm: SpmModel, dictionary: Dictionary) -> None:
        found = [p for p in spm.pieces if p.type in (PieceType.NORMAL, PieceType.USER_DEFINED)]
        scores = [p.score for p in found if p.type == PieceType.NORMAL]
        if not scores:
            raise VocabularyMismatch(f"{spm.path} has no ordinary pieces", spm.path)
        # Scored like the least likely piece: tokenizers and sentencepiece derive the cost of <unk> from that one.
        self.floor = min(scores)
        self.known = {char for piece in found for char in piece.text}
        self.scores = {p.text: _score(p) for p in found if p.text in dictionary.ids}
        missing = [p.text for p in found if p.text not in dictionary.ids]
        bytes_ = [p.text for p in spm.pieces if p.type == PieceType.BYTE] if spm.byte_fallback else []
        missing += [text for text in bytes_ if text not in dictionary.ids]
        inside = {char for text in self.scores for char in text}
        # A character that is a piece of its own, and in no other piece, is <unk> wherever it stands.
        self.alone = "" if bytes_ else "".join(c for c in missing if len(c) == 1 and c not in inside and c != SPACE)
        self.unreachable = tuple(text for text in missing if text not in self.alone)
        self.spaces = tuple(c for c in OTHER_SPACES if c in self.known or not bytes_)
        rest = [s for s in dictionary.ids if s not in self.scores and s not in SPECIAL and s not in bytes_]
        self.markers = tuple(symbol for symbol in rest if MARKER.fullmatch(symbol))
        # sentencepiece makes one piece of a run of characters it doesn't know, and fairseq looks that up too.
        self.runs = (
            () if bytes_ else tuple(s for s in rest if s and MARKER.fullmatch(s) is None and not self.known & {*s})
        )
        self.literal = (*SPECIAL, *(text for text in bytes_ if text in dictionary.ids), *self.markers)
        self.inert = {*self.literal, *self.runs}
        self.cuts, self.uncut = _cuts(self.literal, self.scores, self.known)

    def entry(self, index: int, symbol: str) -> tuple[str, float]:
        """The vocabulary's entry for the dictionary's `symbol` at `index`; special ones keep the first four ids."""
        if symbol in self.scores:
            return symbol, self.scores[symbol]
        if index < len(SPECIAL) or (symbol in self.inert and symbol not in SPECIAL):
            return symbol, self.floor
        return HIDDEN + symbol, self.floor


def _score(piece: Piece) -> float:
    # A user's symbol beats every ordinary piece. sentencepiece 0.2.3 counts it as 0, whatever the file says; older
    # ones (unigram_model.cc, EncodeOptimized) as 0.1 less, which decides against pieces near 0 only.
    return piece.score if piece.type == PieceType.NORMAL else 0.0


def _cuts(literal: Sequence[str], pieces: Iterable[str], known: set[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Each literal symbol in two parts, between which text is cut, so that the model never meets it whole.

    Cut where no piece goes across, and where the two characters aren't both unknown (those would be one <unk>). The
    second list has the symbols without such a place.
    """
    pairs = {pair for symbol in literal for pair in pairwise(symbol)}
    crossed = {pair for piece in pieces for pair in pairwise(piece) if pair in pairs}
    cuts, uncut = [], []
    for symbol in literal:
        places = [i for i, (a, b) in enumerate(pairwise(symbol), 1) if (a, b) not in crossed and {a, b} & known]
        if not places:
            uncut.append(symbol)
        cuts.append((symbol[: (places or [1])[0]], symbol[(places or [1])[0] :]))
    return cuts, uncut


def _tokenizer(spm: SpmModel, dictionary: Dictionary, roles: _Roles) -> dict[str, Any]:
    special = [*enumerate(SPECIAL), *((dictionary.ids[symbol], symbol) for symbol in roles.markers)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": symbol, **flags} for index, symbol in sorted(special)],
        "normalizer": normalizer(spm),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _pre_tokenizers(roles)},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_sequence("A"), END],
            "pair": [_sequence("A"), END, _sequence("B"), END],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [SPECIAL.index("</s>")], "tokens": ["</s>"]}},
        },
        "decoder": _decoder(spm),
        "model": {
            "type": "Unigram",
            "unk_id": UNK,
            "byte_fallback": spm.byte_fallback,
            "vocab": [],
        },
    }


def _vocabulary(dictionary: Dictionary, roles: _Roles) -> bytearray:
    """The model's vocabulary in json. Entry by entry: a quarter of a million at once would take 100 MB on the way."""
    listed = bytearray()
    for index, symbol in enumerate(dictionary.symbols):
        listed += b", " * bool(index) + json.dumps(roles.entry(index, symbol), ensure_ascii=False).encode("utf-8")
    return listed


def _pre_tokenizers(roles: _Roles) -> list[dict[str, Any]]:
    cuts = "|".join(f"{re.escape(left)}(?={re.escape(right)})" for left, right in roles.cuts)
    steps = [_split(cuts, "MergedWithPrevious")]
    steps += [_split(_one_of(roles.spaces), "Removed")] if roles.spaces else []
    steps += [_split(_one_of(roles.alone), "Isolated")] if roles.alone else []
    if SPACE in roles.scores and not any(SPACE in piece[1:] for piece in roles.scores):
        # Word by word is quicker, and the same where no piece goes across a space.
        steps.append(_metaspace("never"))
    return steps


def _decoder(spm: SpmModel) -> dict[str, Any]:
    spaces = _metaspace("always" if spm.add_dummy_prefix else "never")
    if not spm.byte_fallback:
        return spaces
    return {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}]}


def _config(markers: Sequence[str], max_length: int | None) -> dict[str, Any]:
    names = zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIAL, strict=True)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **dict(names),
        **({"additional_special_tokens": list(markers)} if markers else {}),
        **({"model_max_length": max_length} if max_length is not None else {}),
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        # "</s>" typed in a text is text, as to fairseq; not where language tokens shall be typed.
        "split_special_tokens": not markers,
    }


def _notes(roles: _Roles, symbols: int, vocab_size: int) -> Iterable[str]:
    if roles.unreachable:
        yield (
            f"{len(roles.unreachable)} pieces of the sentencepiece model are not in the dictionary "
            f"({_some(roles.unreachable)}): fairseq has one <unk> for each, tokenizer.json cuts the text otherwise"
        )
    if roles.runs:
        yield (
            f"{len(roles.runs)} symbols of the dictionary are made of characters that the sentencepiece model doesn't "
            f"know ({_some(roles.runs)}): they get fairseq's id where they stand alone between known ones, "
            "and not always next to other unknown characters"
        )
    if roles.markers:
        yield (
            f"{len(roles.markers)} symbols of the dictionary became special tokens ({_some(roles.markers)}): typed in "
            "a text they give their id, and so do <s>, <pad>, </s> and <unk>; with split_special_tokens=True they are "
            "text, as to fairseq"
        )
    if roles.uncut:
        yield f"typed as they are, {_some(roles.uncut)} may be cut into other pieces than by sentencepiece"
    if vocab_size > symbols:
        rows = f"{symbols} to {vocab_size - 1}"
        yield f"{vocab_size - symbols} rows of the embedding ({rows}) have no symbol in the dictionary"


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:10]) + (", …" if len(items) > 10 else "")


def _split(pattern: str, behavior: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def _one_of(characters: Iterable[str]) -> str:
    return "|".join(f"\\x{{{ord(char):x}}}" for char in characters)


def _metaspace(prepend: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": prepend, "split": True}


def _sequence(name: str) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": 0}}


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8")
