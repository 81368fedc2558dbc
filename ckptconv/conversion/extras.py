"""The small files that make a directory complete: configs, modeling code, tokenizer or dictionaries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptconv.conversion.companions import Companions
from ckptconv.conversion.labels import BESIDE, Labels
from ckptconv.errors import Unsupported, VocabularyMismatch
from ckptconv.tables.expressions import evaluate, names_in
from ckptconv.tables.fields import Resolved
from ckptconv.tables.model import Table
from ckptconv.text import printable
from ckptconv.vocabulary.dictionary import Dictionary, read_small
from ckptconv.vocabulary.listed import listed_beside, listed_text
from ckptconv.words import Words

if TYPE_CHECKING:
    from ckptconv.conversion.pieces import Vocabulary

TARGET_TOKENIZER = "target_tokenizer"
_CODE = Path(__file__).parent.parent / "hf"
_CUTS = "cuts sentencepiece's pieces once more"


@dataclass(frozen=True)
class Extras:
    """Files by name relative to the output directory, and what is worth telling about them. entries: what the
    checkpoint itself holds of them."""

    files: Mapping[str, bytes]
    notes: tuple[str, ...]
    entries: Mapping[str, Any] = field(default_factory=dict)


def extras(
    table: Table,
    target: str,
    config: Resolved,
    beside: Companions,
    labels: Labels,
    dims: Mapping[str, int],
    kept: Sequence[Path] = (),
    vocabulary: Vocabulary | None = None,
) -> Extras:
    """Everything but the weights for a directory of the layout `target`. kept: a tokenizer's files that stay as they
    are. vocabulary: of byte pairs, for families that have them.

    A layout with a config.json is Hugging Face's: it gets its configs, modeling code and a tokenizer. Any other is
    fairseq's: it gets dictionaries, and one of the classes' names if it has a classification head. Both keep the
    sentencepiece model. Raises VocabularyMismatch.
    """
    documents = sorted({value.document for value in config.values} - {""})
    files = {name: _json(config.document(name)) for name in documents}
    for name in table.code.get(target, ()):
        files[name] = (_CODE / Path(name).name).read_bytes()
    if kept:
        return Extras({**files, **{path.name: read_small(path) for path in kept}}, ())
    if vocabulary:
        return _byte_pairs(table, config, vocabulary, files, dims)
    words = _hugging_face_words if "config.json" in files else _fairseq_words
    listing, lists = table.words.listed, _lists(beside, table.words)
    if listing and "config.json" in files and (lists or target in listing.layouts):
        words = partial(_listed_words, target)
    made, notes = words(table, config, beside, dims)
    if lists and words is _fairseq_words:
        notes.append(f"the tokenizer of {beside.names[0].name} {_CUTS}, and fairseq's doesn't: it gives other ids")
    if beside.spm and made:
        made[table.words.spm or beside.spm.name] = beside.spm.read_bytes()
    elif made and table.words.spm and beside.tokenizer:
        made, notes = _with_spm(made, notes, beside.tokenizer, table.words)
    if labels.told and words is _fairseq_words:
        made[BESIDE[0]] = labels.dictionary().encode()
    return Extras({**files, **made}, tuple(notes))


def _byte_pairs(
    table: Table, config: Resolved, vocabulary: Vocabulary, files: Mapping[str, bytes], dims: Mapping[str, int]
) -> Extras:
    """A tokenizer beside a config.json; for any other layout, entries of the checkpoint, and files of the codes."""
    from ckptconv.conversion.pieces import original_files, transformers_files

    rows = _rows(table, dims)[0]
    if "config.json" not in files:
        entries, made, notes = original_files(vocabulary, table.words, rows)
        return Extras({**files, **made}, tuple(notes), entries)
    document = config.document("config.json")
    languages: dict[str, Any] = {name: document[name] for name in ("lang2id", "id2lang") if name in document}
    made, notes = transformers_files(vocabulary, table.words, rows, _max_positions(table, dims), languages)
    return Extras({**files, **made}, tuple(notes))


def _with_spm(
    made: dict[str, bytes], notes: list[str], tokenizer: Path, words: Words
) -> tuple[dict[str, bytes], list[str]]:
    """The files with a sentencepiece model made from tokenizer.json, for directories that no longer have one."""
    from ckptconv.vocabulary.from_tokenizer import spm_from_tokenizer

    assert words.spm
    try:
        model = spm_from_tokenizer(tokenizer.parent, words)
    except (Unsupported, VocabularyMismatch) as problem:
        return made, [*notes, f"no {words.spm} was written: it needs --spm ({problem})"]
    return {**made, words.spm: model}, [*notes, f"{words.spm} was made from tokenizer.json: it cuts text alike"]


def _json(document: Mapping[str, object]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _hugging_face_words(
    table: Table, config: Resolved, beside: Companions, dims: Mapping[str, int]
) -> tuple[dict[str, bytes], list[str]]:
    """tokenizer.json and its config; for a target language of its own, a second set in `target_tokenizer/`."""
    if not beside.dictionaries or beside.spm is None:
        lacking = [name for name, there in (("--dict", beside.dictionaries), ("--spm", beside.spm)) if not there]
        return {}, [f"no tokenizer was written: it needs {' and '.join(lacking)}"]
    from ckptconv.vocabulary.spm import SpmModel
    from ckptconv.vocabulary.tokenizer import tokenizer_files

    files: dict[str, bytes] = {}
    notes: list[str] = []
    longest = _max_positions(table, dims)
    spm = SpmModel.read(beside.spm)
    for folder, dictionary, rows in zip(
        ("", f"{TARGET_TOKENIZER}/"), beside.dictionaries, _rows(table, dims), strict=False
    ):
        try:
            made, report = tokenizer_files(spm, dictionary, rows, longest, table.words)
        except Unsupported as problem:
            return {}, [f"no tokenizer was written: {problem}"]
        files |= {folder + name: content for name, content in made.items()}
        notes += report.notes
    if len(beside.dictionaries) > 1:
        notes.append(f"the target language has a vocabulary of its own: its tokenizer is in {TARGET_TOKENIZER}/")
    return files, notes


def _listed_words(
    target: str, table: Table, config: Resolved, beside: Companions, dims: Mapping[str, int]
) -> tuple[dict[str, bytes], list[str]]:
    """A list of tokens, and what transformers' class for it is; for layouts that have none of it, the class too."""
    listing = table.words.listed
    if listing is None or not beside.dictionaries or not (beside.spm or beside.tokenizer):
        return {}, ["no tokenizer was written: it needs a tokenizer beside the weights, or --dict and --spm"]
    module, _, name = listing.code.rpartition(".")
    tokens = zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), listing.names, strict=False)
    document: dict[str, Any] = {"tokenizer_class": name, **dict(tokens), "do_lower_case": False}
    longest = _max_positions(table, dims)
    document |= {} if longest is None else {"model_max_length": longest}
    files = {listing.file: listed_text(beside.dictionaries[0], table.words)}
    if target in listing.layouts:
        notes = [] if _lists(beside, table.words) else [f"{name} {_CUTS}: its ids are others than the source's"]
    else:
        document["auto_map"] = {"AutoTokenizer": [listing.code, None]}
        files[f"{module}.py"] = (_CODE / f"{module}.py").read_bytes()
        notes = [f"{name} {_CUTS}, as no tokenizer.json can: load it with trust_remote_code=True"]
    return {**files, "tokenizer_config.json": _json(document)}, notes


def _lists(beside: Companions, words: Words) -> bool:
    """Whether the source's vocabulary is a list of tokens."""
    return bool(beside.names) and listed_beside(beside.names[0].parent, words) == beside.names[0]


def _fairseq_words(
    table: Table, config: Resolved, beside: Companions, dims: Mapping[str, int]
) -> tuple[dict[str, bytes], list[str]]:
    """dict.*.txt for both languages, with fairseq's made-up words for rows that have none."""
    if not beside.dictionaries:
        return {}, ["no dict.txt was written: it needs --dict, or a tokenizer.json beside the weights"]
    files: dict[str, bytes] = {}
    notes: list[str] = []
    rows = _rows(table, dims)
    for number, name in enumerate(_dictionary_names(config, beside)):
        dictionary = beside.dictionaries[min(number, len(beside.dictionaries) - 1)]
        size = rows[number] if number < len(rows) else len(dictionary)
        listed = _padded(dictionary, size, name, notes).without_appended(table.words.appended)
        files[name] = listed.text().encode()
    return files, notes


def _padded(dictionary: Dictionary, rows: int, name: str, notes: list[str]) -> Dictionary:
    if len(dictionary) < rows:
        notes.append(f"{name}: {rows - len(dictionary)} made-up words for rows {len(dictionary)}..{rows - 1}")
    return dictionary.extended(rows) if len(dictionary) < rows else dictionary


def _dictionary_names(config: Resolved, beside: Companions) -> list[str]:
    said = {value.path.rpartition(".")[2]: value.value for value in config.values}
    languages = [said.get(key) or beside.languages.get(key) for key in ("source_lang", "target_lang")]
    if not all(languages):
        return ["dict.txt"] if len(beside.dictionaries) == 1 else ["dict.src.txt", "dict.tgt.txt"]
    if languages[0] == languages[1] and len(beside.dictionaries) > 1:
        raise VocabularyMismatch(
            f"Two different dictionaries, but both languages are called {printable(str(languages[0]))}; expected two "
            "names: --set source_lang=… --set target_lang=…."
        )
    return [f"dict.{printable(str(language)).replace('/', '_')}.txt" for language in languages]


def _rows(table: Table, dims: Mapping[str, int]) -> list[int]:
    """Rows of the embeddings, source first."""
    return [
        dims[dim] for line in table.resizes if "vocab" in names_in(line.expression) for dim in line.dims if dim in dims
    ]


def _max_positions(table: Table, dims: Mapping[str, int]) -> int | None:
    """Tokens that the source side has positions for: its rows without those that come before the first one."""
    for line in table.resizes:
        if "max_positions" in names_in(line.expression) and line.dims[0] in dims:
            return dims[line.dims[0]] - int(evaluate(line.expression, {"max_positions": 0}))
    return None
