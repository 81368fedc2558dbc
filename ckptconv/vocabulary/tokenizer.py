"""tokenizer.json from a sentencepiece model and fairseq's dictionary.

fairseq cuts text into pieces with sentencepiece, looks each up in dict.txt, and puts the special tokens around;
sentencepiece's own ids play no part. Here both steps are one `Unigram` model whose vocabulary is the dictionary in its
order, with the scores of the sentencepiece model. Symbols that come after fairseq's own last one (`<mask>`) are tokens
that somebody added, and so they are in the tokenizer.json. Only json is written: neither tokenizers, sentencepiece nor
transformers is needed.

No class of transformers is named as the tokenizer's: transformers 5's XLMRobertaTokenizer takes the vocabulary and
puts a normaliser of its own in front, which knows no decomposed accents, Hangul from jamo or half-width ｶﾞ. Without a
name, AutoTokenizer of 4 and 5 both use the file as it is.

Where two ways to cut a text score exactly alike ("gg", "g" and "g", "gg"), sentencepiece's float32 sums decide between
them by their rounding, tokenizers' float64 by theirs: the one difference that no tokenizer.json can remove.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ckptconv.errors import Unsupported, VocabularyMismatch
from ckptconv.vocabulary.dictionary import SPECIAL, UNK, Dictionary
from ckptconv.vocabulary.normalizer import HIDDEN, SPACE, normalizer
from ckptconv.vocabulary.spm import Piece, PieceType, SpmModel
from ckptconv.words import DELTALM, Words

# Symbols that stand for something else than text, and are typed as they are: [de_DE], <2de>, <lang:xx>, __de__.
MARKER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|__\S+__")
# What Python's str.split, with which fairseq cuts a line of pieces into words, takes for a space.
_SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
OTHER_SPACES = tuple(f"{_SPACES}\u2028\u2029\u202f\u205f\u3000")
# What fairseq fills a dictionary up with, so that it has as many symbols as the embedding has rows.
MADE_UP = re.compile(r"madeupword\d+")
MASK = "<mask>"


@dataclass(frozen=True)
class TokenizerReport:
    """What was written, and where its ids can differ from fairseq's.

    vocab_size: tokens in tokenizer.json. files: names of the files. markers: symbols (language tokens) that are special
    tokens now, `<mask>` not among them. added: ordinary tokens after the family's last one. unreachable: pieces of the
    sentencepiece model that the dictionary lacks; fairseq has one `<unk>` for each, tokenizer.json cuts that text into
    other pieces. notes: a sentence on each thing worth telling.
    """

    vocab_size: int
    files: tuple[str, ...]
    markers: tuple[str, ...]
    added: tuple[str, ...]
    unreachable: tuple[str, ...]
    notes: tuple[str, ...]


def export_tokenizer(
    spm: Path,
    dictionary: Dictionary,
    vocab_size: int,
    directory: Path,
    max_length: int | None = None,
    words: Words = DELTALM,
) -> TokenizerReport:
    """Writes tokenizer.json and tokenizer_config.json into `directory`, which exists.

    vocab_size: rows of the embedding. max_length: tokens that the model has positions for, special ones included.
    words: the family's special tokens; those of `words.appended` that the dictionary lacks come after it.
    VocabularyMismatch if the dictionary has more symbols than rows or the files are damaged; Unsupported for a
    sentencepiece model that isn't a unigram one.
    """
    files, report = tokenizer_files(SpmModel.read(spm), dictionary, vocab_size, max_length, words)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return report


def tokenizer_files(
    spm: SpmModel, dictionary: Dictionary, vocab_size: int, max_length: int | None = None, words: Words = DELTALM
) -> tuple[dict[str, bytes], TokenizerReport]:
    """The content of each file that `export_tokenizer` writes, by its name, and the report."""
    dictionary = dictionary.with_appended(words.appended)
    if len(dictionary) > vocab_size:
        raise VocabularyMismatch(
            f"the dictionary has {len(dictionary)} symbols (4 special ones included), and the embedding only "
            f"{vocab_size} rows; give the dictionary that the model was trained with"
        )
    _check_supported(spm)
    roles = _Roles(spm, dictionary, words.appended)
    try:
        before, after = _json(_tokenizer(spm, dictionary, roles, words)).split(b'"vocab": []')
    except (ValueError, IndexError) as error:
        raise VocabularyMismatch(f"{spm.path}: the normaliser's rules are damaged: {error}", spm.path) from None
    files = {
        "tokenizer.json": b'%s"vocab": [%s]%s' % (before, _vocabulary(dictionary, roles), after),
        "tokenizer_config.json": _json(_config(words, roles.markers, max_length)),
    }
    notes = tuple(_notes(roles, words, spm, dictionary, vocab_size))
    return files, TokenizerReport(roles.stop, tuple(files), roles.markers, roles.added, roles.unreachable, notes)


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

    def __init__(self, spm: SpmModel, dictionary: Dictionary, appended: Sequence[str]) -> None:
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
        # The model's vocabulary ends at `size`; the tokens that somebody added follow it, until `stop`.
        self.size, self.stop = _bounds(dictionary, appended, {*self.scores, *bytes_, *SPECIAL})
        late = dictionary.symbols[self.size : self.stop]
        self.added = tuple(symbol for symbol in late if not MARKER.fullmatch(symbol))
        other = {*self.scores, *SPECIAL, *bytes_, *dictionary.symbols[self.size :]}
        self.appended = tuple(symbol for symbol in appended if symbol not in other)
        rest = [s for s in dictionary.ids if s not in other and s not in appended]
        early = tuple(symbol for symbol in rest if MARKER.fullmatch(symbol))
        self.markers = (*early, *(symbol for symbol in late if symbol not in self.added))
        # sentencepiece makes one piece of a run of characters it doesn't know, and fairseq looks that up too.
        self.runs = (
            () if bytes_ else tuple(s for s in rest if s and MARKER.fullmatch(s) is None and not self.known & {*s})
        )
        self.literal = (*SPECIAL, *(text for text in bytes_ if text in dictionary.ids), *self.appended, *early)
        self.inert = {*self.literal, *self.runs}
        self.cuts, self.uncut = _cuts(self.literal, self.scores, self.known)

    def entry(self, index: int, symbol: str) -> tuple[str, float]:
        """The vocabulary's entry for the dictionary's `symbol` at `index`; special ones keep the first four ids."""
        if symbol in self.scores:
            return symbol, self.scores[symbol]
        if index < len(SPECIAL) or (symbol in self.inert and symbol not in SPECIAL):
            return symbol, self.floor
        return HIDDEN + symbol, self.floor


def _bounds(dictionary: Dictionary, appended: Sequence[str], fixed: Set[str]) -> tuple[int, int]:
    """How many symbols the model's vocabulary has, and where the tokens end that were added after the `appended` ones.

    None were where there are no `appended` ones; made-up words on the end are there for their rows only.
    """
    stop = len(dictionary)
    first = max((dictionary.ids[symbol] for symbol in appended), default=stop - 1) + 1
    while stop > first and MADE_UP.fullmatch(dictionary.symbols[stop - 1]):
        stop -= 1
    size = stop
    while size > first and _can_be_added(dictionary, size - 1, fixed):
        size -= 1
    return size, stop


def _can_be_added(dictionary: Dictionary, index: int, fixed: Set[str]) -> bool:
    symbol = dictionary.symbols[index]
    return symbol != "" and symbol not in fixed and dictionary.ids[symbol] == index


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


def _tokenizer(spm: SpmModel, dictionary: Dictionary, roles: _Roles, words: Words) -> dict[str, Any]:
    ids = {**dictionary.ids, **{symbol: index for index, symbol in enumerate(SPECIAL)}}
    tokens = {*SPECIAL, *words.appended, *roles.markers, *roles.added}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[token], **_token(token, token in words.appended, token not in roles.added)}
            for token in sorted(tokens, key=ids.__getitem__)
        ],
        "normalizer": normalizer(spm),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _pre_tokenizers(roles)},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_part(name) for name in words.single],
            "pair": [_part(name) for name in words.pair],
            "special_tokens": {
                name: {"id": name, "ids": [ids[name]], "tokens": [name]}
                for name in sorted({*words.single, *words.pair} - {"$A", "$B"})
            },
        },
        "decoder": _decoder(spm),
        "model": {
            "type": "Unigram",
            "unk_id": UNK,
            "byte_fallback": spm.byte_fallback,
            "vocab": [],
        },
    }


def _token(content: str, lstrip: bool, special: bool) -> dict[str, Any]:
    """A token that is looked for before anything is normalised; `<mask>` takes the spaces before it along, as HF's."""
    flags = {"single_word": False, "lstrip": lstrip, "rstrip": False, "normalized": False, "special": special}
    return {"content": content, **flags}


def _vocabulary(dictionary: Dictionary, roles: _Roles) -> bytearray:
    """The model's vocabulary in json. Entry by entry: a quarter of a million at once would take 100 MB on the way."""
    listed = bytearray()
    for index, symbol in enumerate(dictionary.symbols[: roles.size]):
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


def _config(words: Words, markers: Sequence[str], max_length: int | None) -> dict[str, Any]:
    names = zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIAL, strict=True)
    around = {"cls_token": words.single[0], "sep_token": words.single[-1]} if words.single[0] != "$A" else {}
    masks = {"mask_token": {"__type": "AddedToken", **_token(MASK, True, True)}} if MASK in words.appended else {}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **dict(names),
        **around,
        **masks,
        **({"additional_special_tokens": list(markers)} if markers else {}),
        **({"model_max_length": max_length} if max_length is not None else {}),
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        # "</s>" typed in a text is text, as to fairseq; not where language tokens or <mask> shall be typed.
        "split_special_tokens": not markers and not words.appended,
    }


def _notes(roles: _Roles, words: Words, spm: SpmModel, dictionary: Dictionary, vocab_size: int) -> Iterable[str]:
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
    if words.spm and not _numbered_by(spm, dictionary, roles):
        yield (
            f"the dictionary's ids are not those of the sentencepiece model plus one: load the tokenizer with "
            f"AutoTokenizer, because XLMRobertaTokenizer of transformers 4 counts the pieces in {words.spm}"
        )
    if vocab_size > roles.stop:
        made_up = ", or a made-up one" if roles.stop < len(dictionary) else ""
        rows = f"{roles.stop} to {vocab_size - 1}"
        yield f"{vocab_size - roles.stop} rows of the embedding ({rows}) have no symbol in the dictionary{made_up}"


def _numbered_by(spm: SpmModel, dictionary: Dictionary, roles: _Roles) -> bool:
    """Whether HF's rule for XLM-R (id = id in the sentencepiece model + 1) gives the dictionary's ids."""
    pieces = tuple(piece.text for piece in spm.pieces[len(SPECIAL) - 1 :])
    return dictionary.symbols[len(SPECIAL) : roles.size] == (*pieces, *roles.appended)


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:10]) + (", …" if len(items) > 10 else "")


def _split(pattern: str, behavior: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def _one_of(characters: Iterable[str]) -> str:
    return "|".join(f"\\x{{{ord(char):x}}}" for char in characters)


def _metaspace(prepend: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": prepend, "split": True}


def _part(name: str) -> dict[str, Any]:
    """A part of a template: a text's pieces, or a special token."""
    kind, key = ("Sequence", name[1:]) if name in ("$A", "$B") else ("SpecialToken", name)
    return {kind: {"id": key, "type_id": 0}}


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8")
