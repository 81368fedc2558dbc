"""How a family's text becomes ids, as its table says: special tokens, the symbols after the dictionary, file names."""

from __future__ import annotations

from typing import NamedTuple

END = "</s>"


class Listing(NamedTuple):
    """A vocabulary with a token per line, by id, in the directories of these layouts (ckptconv.vocabulary.listed).

    file: its name. code: `module.Class` of the tokenizer that goes with it, for directories of other layouts. names: of
    the four special tokens, then of `Words.appended`.
    """

    layouts: tuple[str, ...]
    file: str
    code: str
    names: tuple[str, ...]


class Words(NamedTuple):
    """What a family's tokenizer does besides cutting text into pieces.

    single, pair: the tokens of one text and of two, `$A` and `$B` standing for the pieces of each.
    appended: symbols that fairseq's task adds after those of dict.txt (`<mask>`, in fairseq's MaskedLMTask); dict.txt
    doesn't list them when they come last. spm: the name that the sentencepiece model has in a directory, or None: any.
    bpe: for byte pairs (ckptconv.vocabulary.bpe) in their place: transformers' class, vocabulary and merges; else ().
    special: the words that such a vocabulary begins with. inside: the entries of a checkpoint that hold it: the words
    by id, the ids by word, and the counts by word. listed: how some layouts list their vocabulary, or None.
    """

    single: tuple[str, ...] = ("$A", END)
    pair: tuple[str, ...] = ("$A", END, "$B", END)
    appended: tuple[str, ...] = ()
    spm: str | None = None
    bpe: tuple[str, ...] = ()
    special: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    listed: Listing | None = None


# No special token in front, nothing after the dictionary.
DELTALM = Words()
