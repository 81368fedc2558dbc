"""What lies beside the weights: dictionaries, the sentencepiece model, a tokenizer, JSON configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ckptconv.containers.checkpoint import Checkpoint
from ckptconv.containers.files import from_elsewhere
from ckptconv.errors import VocabularyMismatch, WrongUse
from ckptconv.smallfiles import read_regular
from ckptconv.text import printable
from ckptconv.vocabulary.dictionary import Dictionary
from ckptconv.vocabulary.listed import listed_beside, read_listed
from ckptconv.words import Words

_SPM_NAMES = ("spm.model", "sentencepiece.bpe.model", "sentencepiece.model", "spiece.model")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_COMPANIONS = frozenset({".json", ".txt", ".model", ".py"})
_MAX_COMPANION = 64_000_000


@dataclass(frozen=True)
class Companions:
    """The files that go with a checkpoint.

    dictionaries: of the source language and of the target language (one, where they share it; none, where there is
    no dictionary), and the files they were read from. given: whether the user named them.
    """

    dictionaries: tuple[Dictionary, ...]
    names: tuple[Path, ...]
    spm: Path | None
    tokenizer: Path | None
    given: bool
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that was read for it."""
        return (*self.names, *(path for path in (self.spm, self.tokenizer) if path))

    @property
    def languages(self) -> Mapping[str, str]:
        """source_lang and target_lang, as far as the dictionaries' names say."""
        found = [language(path) for path in self.names]
        named = [each for each in found if each]
        return dict(zip(("source_lang", "target_lang"), named, strict=True)) if len(named) == 2 else {}


def companions(
    weights: Path, words: Words, dictionaries: tuple[Path, ...], spm: Path | None, languages: Sequence[str | None]
) -> Companions:
    """What the user named, else what lies in the folder of the weights.

    words: how the family's text becomes ids. languages: source and target, as far as the checkpoint's config says; they
    put found dictionaries in order.
    Raises VocabularyMismatch for more than two dictionaries, a file that isn't there, or one that can't be read;
    WrongUse for either where the family has byte pairs.
    """
    if words.bpe:  # its vocabulary is read by ckptconv.conversion.pieces
        if dictionaries or spm:
            raise WrongUse("--dict and --spm: such models have byte pairs, whose codes --codes names.")
        return Companions((), (), None, None, False)
    for path in (*dictionaries, *((spm,) if spm else ())):
        if not path.is_file():
            raise VocabularyMismatch(f"{printable(str(path))} is no file; expected a dictionary or spm model.", path)
    folder = weights.parent
    names = dictionaries or _found(folder, languages)
    if len(names) > 2:
        shown = ", ".join(printable(path.name) for path in names)
        raise VocabularyMismatch(
            f"Got {len(names)} dictionaries: {shown}; name one or two with --dict, source first.", folder
        )
    spm = spm or _spm_beside(folder, words)
    listed = None if names else listed_beside(folder, words)
    if listed:
        return Companions((read_listed(listed, words),), (listed,), spm, None, False)
    if names:
        read = [Dictionary.read(path).with_appended(words.appended) for path in names]
        joined = len(read) == 2 and read[0].symbols == read[1].symbols
        guessed = not dictionaries and len(names) == 2 and [language(path) for path in names] != list(languages)
        notes = (_guess(names, joined),) if guessed else ()
        return Companions(tuple(read[:1] if joined else read), names, spm, None, bool(dictionaries), notes)
    return _from_tokenizer(folder, words, spm)


def _from_tokenizer(folder: Path, words: Words, spm: Path | None) -> Companions:
    """What a Hugging Face directory says of its vocabulary: in tokenizer.json, or else in its sentencepiece model."""
    tokenizer, there = folder / "tokenizer.json", (folder / "tokenizer.json").is_file()
    if not there and not (words.spm and (folder / words.spm).is_file() and (folder / "config.json").is_file()):
        return Companions((), (), spm, None, False)
    from ckptconv.vocabulary.from_tokenizer import export_dictionary

    if not there:
        return Companions((export_dictionary(folder, words),), (), spm, folder / str(words.spm), False)
    target = folder / "target_tokenizer"
    folders = (folder, target) if (target / "tokenizer.json").is_file() else (folder,)
    return Companions(tuple(export_dictionary(each, words) for each in folders), (), spm, tokenizer, False)


def _found(folder: Path, languages: Sequence[str | None]) -> tuple[Path, ...]:
    """Every dict*.txt of the folder, by the alphabet unless the config names the languages."""
    return tuple(sorted(folder.glob("dict*.txt"), key=lambda path: (language(path) != languages[0], path.name)))


def _guess(names: tuple[Path, ...], joined: bool) -> str:
    first, second = (printable(path.name) for path in names)
    what = "the languages' names are" if joined else "which dictionary is the source's is"
    return f"{what} guessed by the alphabet: source {first}, target {second}; --dict twice, or --set, says otherwise"


def _spm_beside(folder: Path, words: Words) -> Path | None:
    named = [folder / name for name in (words.spm, *_SPM_NAMES) if name and (folder / name).is_file()]
    others = sorted(path for path in folder.glob("*.model") if path.is_file())
    return named[0] if named else others[0] if len(others) == 1 else None


def language(dictionary: Path) -> str | None:
    """`de` for `dict.de.txt`, None for `dict.txt`."""
    parts = dictionary.name.split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "dict" and parts[2] == "txt" else None


def companion_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The small files beside the weights that `--to same` takes along: configs, vocabularies, code; no weights, and
    nothing that a link takes from elsewhere (the Hub's cache links to its own `blobs`)."""
    from ckptconv.receipts import NAME

    weights = {path.name for path in checkpoint.files}
    found, left = {}, _MAX_COMPANION
    for path in sorted(checkpoint.path.parent.iterdir()):
        taken = path.suffix in _COMPANIONS and path.name not in weights and path.name != NAME
        if taken and not path.name.endswith(".index.json") and path.is_file() and not from_elsewhere(path, path.parent):
            with suppress(OSError):  # too large
                found[path.name] = read_regular(path, left)
                left -= len(found[path.name])
    return found


def tokenizer_beside(beside: Companions, words: Words) -> tuple[Path, ...]:
    """The files of the Hugging Face tokenizer that was found beside the weights; () where there is none."""
    if beside.tokenizer is None:
        return ()
    folder = beside.tokenizer.parent
    paths = [folder / name for name in (*_TOKENIZER, words.spm) if name]
    return tuple(path for path in paths if path.is_file() and not from_elsewhere(path, folder))
