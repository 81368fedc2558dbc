"""How a family's text becomes ids, as its table says: special tokens, the symbols after the dictionary, file names."""

from __future__ import annotations

from dataclasses import dataclass

END = "</s>"


@dataclass(frozen=True)
class Words:
    """What a family's tokenizer does besides cutting text into pieces.

    single, pair: the tokens of one text and of two, `$A` and `$B` standing for the pieces of each.
    appended: symbols that fairseq's task adds after those of dict.txt (`<mask>`, in fairseq's MaskedLMTask); dict.txt
    doesn't list them when they come last. spm: the name that the sentencepiece model has in a directory, or None: any.
    """

    single: tuple[str, ...] = ("$A", END)
    pair: tuple[str, ...] = ("$A", END, "$B", END)
    appended: tuple[str, ...] = ()
    spm: str | None = None


# No special token in front, nothing after the dictionary.
DELTALM = Words()
