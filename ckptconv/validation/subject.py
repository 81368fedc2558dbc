"""What the checks look at: the checkpoint, how it fits, its config and vocabulary, and what the user asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptconv.containers.checkpoint import Checkpoint, StateDict
from ckptconv.containers.read import Reader
from ckptconv.conversion.companions import Companions, companions
from ckptconv.conversion.facts import read_facts
from ckptconv.conversion.prepare import source_documents
from ckptconv.detect import Detected, detect, require_state_dict, state_dict_of
from ckptconv.errors import VocabularyMismatch
from ckptconv.plan import Facts
from ckptconv.tables.catalog import Tables
from ckptconv.tables.fields import stated
from ckptconv.tables.fit import Fit
from ckptconv.text import printable
from ckptconv.vocabulary.from_tokenizer import export_dictionary


@dataclass(frozen=True)
class Asked:
    """What the training to come needs.

    positions: tokens. labels: classes. tokenizer: a directory with a tokenizer's files.
    """

    dictionaries: tuple[Path, ...] = ()
    spm: Path | None = None
    tokenizer: Path | None = None
    positions: int | None = None
    labels: int | None = None


@dataclass(frozen=True)
class Subject:
    """A checkpoint as the checks see it.

    fit: the layout that its keys fit best, or None where none is recognised. documents, beside, facts: of that layout.
    """

    checkpoint: Checkpoint
    detected: Detected
    fit: Fit | None
    state_dict: StateDict
    documents: Mapping[str, Any]
    beside: Companions
    facts: Facts | None
    asked: Asked

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return printable(self.checkpoint.path.name)


def subject(checkpoint: Checkpoint, tables: Tables, asked: Asked, reader: Reader) -> Subject:
    """Everything that the checks need, read once. Raises NotACheckpoint or VocabularyMismatch."""
    require_state_dict(checkpoint)
    detected = detect(checkpoint, tables)
    best = detected.tried[0] if detected.tried and detected.stranger else None
    fit = detected.fit or (best if best and best.exact else None)
    if fit is None:
        largest = max(checkpoint.entries.values(), key=len)
        nothing = Companions((), (), None, None, False)
        return Subject(checkpoint, detected, None, largest, {}, nothing, None, asked)
    documents = source_documents(checkpoint, fit)
    state_dict = state_dict_of(checkpoint, fit)
    facts = read_facts(fit, state_dict, reader) if fit.exact else None
    return Subject(
        checkpoint, detected, fit, state_dict, documents, _beside(checkpoint, fit, documents, asked), facts, asked
    )


def _beside(checkpoint: Checkpoint, fit: Fit, documents: Mapping[str, Any], asked: Asked) -> Companions:
    """The vocabulary that the user names, else what lies beside the weights."""
    words = fit.table.words
    if asked.tokenizer is not None:
        if not asked.tokenizer.is_dir():
            raise VocabularyMismatch(
                f"{printable(str(asked.tokenizer))} is no directory; expected one with a tokenizer.json.",
                asked.tokenizer,
            )
        dictionary = export_dictionary(asked.tokenizer, words)
        return Companions((dictionary,), (), asked.spm, asked.tokenizer / "tokenizer.json", True)
    languages = [stated(fit.table, fit.layout.name, documents, leaf) for leaf in ("source_lang", "target_lang")]
    return companions(checkpoint.path, words, asked.dictionaries, asked.spm, languages)
