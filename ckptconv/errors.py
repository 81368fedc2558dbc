"""Every error a person can act on. Each is one sentence: what, where, got, expected, what to do next."""

from __future__ import annotations

import os


class CkptconvError(Exception):
    """The input can't be read, is unsafe or unsupported, or the output can't be written: exit code 3.

    `kind` is the stable name that `--json` shows; `path` is the file the sentence is about, if there is one.
    """

    kind = "error"
    exit_code = 3

    def __init__(self, message: str, path: str | os.PathLike[str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.path = None if path is None else os.fspath(path)


class WrongUse(CkptconvError):
    """Options that don't exist, contradict each other or mean nothing together: exit code 2."""

    kind = "usage"
    exit_code = 2


class NotACheckpoint(CkptconvError):
    """The file is none of the containers that ckptconv reads."""

    kind = "not_a_checkpoint"


class Damaged(CkptconvError):
    """The container is truncated, or contradicts itself."""

    kind = "damaged"


class Unsafe(CkptconvError):
    """The file names something that must not be called, or asks for resources without bound."""

    kind = "unsafe"


class Unsupported(CkptconvError):
    """Well formed, but holds something that ckptconv does not convert (sparse, quantised, a dtype without a name …)."""

    kind = "unsupported"


class BadTable(CkptconvError):
    """A mapping table breaks a rule of the table language."""

    kind = "bad_table"


class BadExpression(BadTable, ValueError):
    """A text of a mapping table is no expression over dims."""


class UnknownLayout(CkptconvError):
    """No layout fits these keys, or the layout that was asked for doesn't exist."""

    kind = "unknown_layout"


class DoesNotFit(CkptconvError):
    """Keys are missing or left over, shapes are wrong, or the config contradicts the tensors."""

    kind = "does_not_fit"


class VocabularyMismatch(CkptconvError):
    """A dictionary, sentencepiece model or tokenizer doesn't fit the embedding, or each other."""

    kind = "vocabulary_mismatch"


class OutputExists(CkptconvError):
    """The output is there already, or is the input itself."""

    kind = "output_exists"


class CannotWrite(CkptconvError):
    """The output can't be written: no space, no permission, no such folder, a device."""

    kind = "cannot_write"
