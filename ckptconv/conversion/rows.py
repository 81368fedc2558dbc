"""How many rows the embeddings get: as they are, unless an option or a dictionary for spare rows says otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ckptconv.conversion.companions import Companions
from ckptconv.errors import VocabularyMismatch, WrongUse
from ckptconv.tables.expressions import evaluate, names_in
from ckptconv.tables.fit import Fit
from ckptconv.tables.model import Table
from ckptconv.text import printable
from ckptconv.vocabulary.dictionary import SPECIAL, Dictionary


@dataclass(frozen=True)
class Asked:
    """--vocab and --max-positions."""

    vocab: int | None
    max_positions: int | None

    def numbers(self) -> dict[str, int]:
        """The options that were given, by their name in `resize` lines."""
        return {name: number for name, number in vars(self).items() if number is not None}


def wanted_rows(fit: Fit, beside: Companions, asked: Asked) -> dict[str, int]:
    """Rows by dim, for the dims that change.

    --vocab and --max-positions decide; without --vocab, a dictionary that the user names decides for layouts whose
    files have more rows than any dictionary (`spare` lines; unilm cuts them in upgrade_state_dict_for_deltalm).
    """
    numbers = asked.numbers()
    for name in numbers.keys() - {name for line in fit.table.resizes for name in names_in(line.expression)}:
        option = name.replace("_", "-")
        raise WrongUse(f"--{option}: the table {fit.table.path.name} has no `resize {name}` line, so it can't resize.")
    rows = {
        dim: int(evaluate(line.expression, numbers))
        for line in fit.table.resizes
        if names_in(line.expression) <= frozenset(numbers)
        for dim in line.dims
    }
    if beside.given:
        for dim, dictionary in dictionaries_by_dim(fit, beside):
            if dim in spare_dims(fit):
                rows.setdefault(dim, len(dictionary))
    return rows


def check_vocabulary(fit: Fit, beside: Companions, rows: Mapping[str, int], weights: Path) -> None:
    """Whether every dictionary fits the embedding that the target will have.

    A shorter dictionary fits where the user asked for the rows, where spare rows are the rule, or where an HF
    tokenizer leaves padding rows. Raises VocabularyMismatch otherwise.
    """
    for dim, dictionary in dictionaries_by_dim(fit, beside):
        have, words = rows.get(dim, int(fit.dims[dim])), len(dictionary)
        padded = dim in rows or dim in spare_dims(fit) or beside.tokenizer is not None
        if words > have or (words < have and not padded):
            asked = f"--vocab leaves {have:,} rows" if dim in rows else f"its embedding has {have:,} rows"
            raise VocabularyMismatch(
                f"{_name(beside, dictionary)} has {words:,} symbols (with {_special(fit)}), but "
                f"{printable(weights.name)} doesn't: {asked}; expected as many. Name the dictionary that the model was "
                f"trained with (--dict), or cut or extend the embedding on purpose (--vocab {words}).",
                weights,
            )


def _special(fit: Fit) -> str:
    return " ".join((*SPECIAL, *fit.table.words.appended))


def spare_dims(fit: Fit) -> frozenset[str]:
    """The dims of which files in this layout have more rows than any dictionary."""
    return frozenset(dim for spare in fit.table.spares if spare.layout == fit.layout.name for dim in spare.dims)


def vocabulary_dims(table: Table) -> tuple[str, ...]:
    """The dims that --vocab resizes, source first."""
    return tuple(dim for line in table.resizes if "vocab" in names_in(line.expression) for dim in line.dims)


def dictionaries_by_dim(fit: Fit, beside: Companions) -> Iterator[tuple[str, Dictionary]]:
    """The vocabulary's dims, source first, with their dictionaries; one dictionary serves both."""
    if beside.dictionaries:
        for number, dim in enumerate(vocabulary_dims(fit.table)):
            yield dim, beside.dictionaries[min(number, len(beside.dictionaries) - 1)]


def _name(beside: Companions, dictionary: Dictionary) -> str:
    if beside.tokenizer:
        return printable(beside.tokenizer.name)
    return printable(beside.names[beside.dictionaries.index(dictionary)].name)
