"""fairseq's dictionary and sentencepiece model from the tokenizer's files in a Hugging Face directory."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from ckptconv.errors import Unsupported, VocabularyMismatch
from ckptconv.smallfiles import check_values
from ckptconv.text import printable
from ckptconv.vocabulary.dictionary import SPECIAL, UNK, Dictionary, read_small
from ckptconv.vocabulary.normalizer import HIDDEN, SPACE, normalizer
from ckptconv.vocabulary.spm import Charsmap, Piece, PieceType, SpmModel
from ckptconv.words import DELTALM, Words

# What a sentencepiece model begins with whose ids HF's XLM-R classes can shift by one.
FIRST_PIECES = ("<unk>", "<s>", "</s>")
# What transformers puts after the charsmap; sentencepiece does the same by default.
SPACES = (
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
)
# What looking for a tokenizer's parts in any JSON can raise.
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
_MAX_VALUES = 3_000_000  # a vocabulary of 250,000 tokens takes 1.2 million
_GIVE_ONE = "give the one that the model was trained with"


def export_dictionary(directory: Path, words: Words = DELTALM) -> Dictionary:
    """fairseq's dictionary for the tokenizer in `directory`: its tokens in the order of their ids, `<mask>` included.

    Read from tokenizer.json, whoever wrote it. Where there is none, and the family's sentencepiece model has a fixed
    name (`words.spm`), from that: id = id in the model + 1, then `words.appended`, then the tokens that somebody added
    (transformers 4.57, models/xlm_roberta/tokenization_xlm_roberta.py, XLMRobertaTokenizer; they are in
    tokenizer_config.json, under added_tokens_decoder, or in added_tokens.json). A symbol of `words.appended` that the
    tokenizer lacks gets the id after the last one, as fairseq's task will give it.

    For files of `export_tokenizer`: the same symbols in the same order as in its dictionary, except that made-up words
    on the end of an appended dictionary are gone. VocabularyMismatch if the first four tokens aren't fairseq's, ids are
    left out, or a file can't be read.
    """
    path = directory / "tokenizer.json"
    if path.is_file() or not words.spm:
        listed = _listed(path)
    else:
        path = directory / words.spm
        if not path.is_file():
            raise VocabularyMismatch(
                f"{printable(str(directory))} has neither a tokenizer.json nor a {words.spm}, so no dictionary can be "
                f"made; {_GIVE_ONE} (--dict)",
                directory,
            )
        listed = _numbered_by(path, words) | _added_beside(directory)
    missing = next((index for index in range(len(listed)) if index not in listed), None)
    if missing is not None:
        raise VocabularyMismatch(
            f"{path} is not of a tokenizer that lists a token for each id from 0 on ({missing} has none, and "
            f"{max(listed)} has one), so no dictionary can be made of it; {_GIVE_ONE} (--dict)",
            path,
        )
    symbols = tuple(listed[index] for index in range(len(listed)))
    _check_first(symbols[: len(SPECIAL)], SPECIAL, "fairseq's dictionaries", path)
    return Dictionary(symbols).with_appended(words.appended)


def spm_from_tokenizer(directory: Path, words: Words = DELTALM) -> bytes:
    """A sentencepiece model that cuts text into the pieces of the tokenizer.json in `directory`.

    fairseq's bpe needs one, and directories that transformers 5 saved have none. Pieces, scores and the normaliser's
    rules are the tokenizer's, ids its ids less one. Understood are the tokenizer.json files of transformers' XLM-R
    classes, 4 and 5, and those of `export_tokenizer`. Where transformers' way to apply the rules differs from
    sentencepiece's (decomposed accents, Hangul from jamo), the model cuts as the one that the tokenizer was made of.

    Unsupported for a tokenizer of another kind, VocabularyMismatch for a damaged one.
    """
    path = directory / "tokenizer.json"
    content = _read(path)
    try:
        charsmap, dummy_prefix, remove_spaces = _normalization(content, path)
        Charsmap(charsmap)
        pieces = _pieces(content, words)
    except _MALFORMED as error:
        raise VocabularyMismatch(
            f"{path} is damaged ({printable(str(error))}), so no sentencepiece model can be made; {_GIVE_ONE} (--spm)",
            path,
        ) from None
    return _model(pieces, charsmap, dummy_prefix, remove_spaces)


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in the file."""
    try:
        data = read_small(path)
        check_values(data, _MAX_VALUES)
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise VocabularyMismatch(
            f"{path} is not a tokenizer's {path.name} (no JSON object), so no dictionary can be made of it; "
            f"{_GIVE_ONE} (--dict)",
            path,
        )
    return content


def _listed(path: Path) -> dict[int, str]:
    """Id → token, the model's vocabulary and what was added."""
    content = _read(path)
    try:
        vocab, added = content["model"]["vocab"], content.get("added_tokens") or ()
        pairs = vocab.items() if isinstance(vocab, dict) else ((entry[0], index) for index, entry in enumerate(vocab))
        listed = {int(index): _text(token).removeprefix(HIDDEN) for token, index in pairs}
        return listed | {int(token["id"]): _text(token["content"]) for token in added}
    except _MALFORMED:
        raise VocabularyMismatch(
            f"{path} is not a tokenizer.json that lists its tokens (model.vocab, added_tokens), so no dictionary can "
            f"be made of it; {_GIVE_ONE} (--dict)",
            path,
        ) from None


def _numbered_by(path: Path, words: Words) -> dict[int, str]:
    """Id → token by HF's rule for XLM-R's sentencepiece model."""
    pieces = tuple(piece.text for piece in SpmModel.read(path).pieces)
    _check_first(pieces[: len(FIRST_PIECES)], FIRST_PIECES, "XLM-R's sentencepiece models", path)
    return dict(enumerate((*SPECIAL, *pieces[len(FIRST_PIECES) :], *words.appended)))


def _added_beside(directory: Path) -> dict[int, str]:
    """Id → token for what was added to a tokenizer that consists of a sentencepiece model."""
    config, old = directory / "tokenizer_config.json", directory / "added_tokens.json"
    path = config
    try:
        decoder = _read(config).get("added_tokens_decoder") if config.is_file() else None
        if decoder is not None:
            return {int(index): _text(token["content"]) for index, token in decoder.items()}
        path = old
        return {int(index): _text(token) for token, index in _read(old).items()} if old.is_file() else {}
    except _MALFORMED:
        raise VocabularyMismatch(
            f"{path} doesn't say which tokens were added: expected each token with its id; {_GIVE_ONE} (--dict)", path
        ) from None


def _text(token: Any) -> str:
    """The token, if it is text that a file can hold: AttributeError, or ValueError for half a surrogate pair."""
    token.encode("utf-8")
    return str(token)


def _check_first(got: tuple[str, ...], expected: tuple[str, ...], whose: str, path: Path) -> None:
    if got != expected:
        first = ", ".join(map(printable, got))
        raise VocabularyMismatch(f"{path} begins with {first}, and {whose} with {', '.join(expected)}", path)


def _normalization(content: dict[str, Any], path: Path) -> tuple[bytes, bool, bool]:
    """The compiled rules, add_dummy_prefix and remove_extra_whitespaces that the tokenizer was made with."""
    model = content["model"]
    if model.get("type", "Unigram") != "Unigram" or not isinstance(model["vocab"], list):
        raise _not_understood(path, f"its model is {printable(str(model.get('type')))}, not Unigram")
    if model.get("byte_fallback"):
        raise _not_understood(path, "it falls back to bytes")
    steps = _steps(content["normalizer"], "normalizers")
    charsmaps = [step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"]
    if len(charsmaps) != 1:
        raise _not_understood(path, "its normalizer has no precompiled_charsmap")
    charsmap = base64.b64decode(charsmaps[0], validate=True)
    splits = _steps(content["pre_tokenizer"], "pretokenizers")
    if _is_transformers(steps, splits):
        return charsmap, True, True
    prefix = any(step["type"] == "Prepend" for step in steps)
    for remove in (True, False):
        if _is_ours(content["normalizer"], splits, charsmap, prefix, remove):
            return charsmap, prefix, remove
    raise _not_understood(path, "its normalizer or pre_tokenizer are neither transformers' for XLM-R nor ckptconv's")


def _is_transformers(steps: list[dict[str, Any]], splits: list[dict[str, Any]]) -> bool:
    """Whether these are XLM-R's (4.57, convert_slow_tokenizer.py, SpmConverter; 5.23, XLMRobertaTokenizer)."""
    if [step["type"] for step in splits] not in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        return False
    metaspace = splits[-1]
    prepended = metaspace.get("prepend_scheme", "always" if metaspace.get("add_prefix_space") else "never")
    return (metaspace["replacement"], prepended, metaspace.get("split", True)) == (SPACE, "always", True) and all(
        step in SPACES for step in steps[1:]
    )


def _is_ours(given: object, splits: list[dict[str, Any]], charsmap: bytes, prefix: bool, remove: bool) -> bool:
    # "Isolated" keeps characters apart whose pieces the dictionary lacks; a model without them would join these.
    known = all(
        step["type"] == "Metaspace" or step.get("behavior") in ("MergedWithPrevious", "Removed") for step in splits
    )
    spm = SpmModel(Path(), (), "unigram", charsmap, False, False, prefix, remove, True)
    return known and normalizer(spm) == given


def _steps(component: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if component is None:
        return []
    return list(component[name]) if component["type"] == "Sequence" else [component]


def _pieces(content: dict[str, Any], words: Words) -> list[Piece]:
    """What follows the first three pieces; each at the tokenizer's id less one."""
    special = {token["content"] for token in content.get("added_tokens") or () if token["special"]}
    entries = [(_text(text), float(score)) for text, score in content["model"]["vocab"]]
    if tuple(text for text, _ in entries[: len(SPECIAL)]) != SPECIAL or content["model"]["unk_id"] != UNK:
        raise ValueError(f"its vocabulary doesn't begin with {', '.join(SPECIAL)}")
    while entries[-1][0] in words.appended:
        entries.pop()
    if len({text for text, _ in entries if text}) < len(entries):
        raise ValueError("its vocabulary has a token twice, or an empty one")
    return [Piece(text, score, _type(text, score, text in special)) for text, score in entries[len(SPECIAL) :]]


def _type(text: str, score: float, special: bool) -> int:
    if special or text.startswith(HIDDEN):
        return PieceType.CONTROL  # never found in a text
    return PieceType.NORMAL if score else PieceType.USER_DEFINED


def _not_understood(path: Path, why: str) -> Unsupported:
    return Unsupported(f"{path} can't become a sentencepiece model: {why}; {_GIVE_ONE} (--spm)", path)


def _model(pieces: list[Piece], charsmap: bytes, dummy_prefix: bool, remove_spaces: bool) -> bytes:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    model = ModelProto()
    types = (PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL)
    first = [Piece(text, 0.0, kind) for text, kind in zip(FIRST_PIECES, types, strict=True)]
    for piece in (*first, *pieces):
        model.pieces.add(piece=piece.text, score=piece.score, type=piece.type)
    trainer, rules = model.trainer_spec, model.normalizer_spec
    trainer.model_type = trainer.UNIGRAM
    trainer.vocab_size = len(model.pieces)
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = 0, 1, 2, -1
    rules.precompiled_charsmap = charsmap
    rules.add_dummy_prefix, rules.remove_extra_whitespaces, rules.escape_whitespaces = dummy_prefix, remove_spaces, True
    serialized: bytes = model.SerializeToString()
    return serialized
