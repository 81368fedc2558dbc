"""What `validate` says: a severity, a stable code, one sentence, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SEVERITIES = ("error", "warning", "info")

# Code → (severity, what it means). docs/validate.md lists them; a test holds the two together.
CODES: Mapping[str, tuple[str, str]] = {
    "UNKNOWN_LAYOUT": ("info", "no table knows these keys: only what holds for any checkpoint was checked"),
    "OTHER_MODEL": ("warning", "the keys are a known layout's, but the model is another one"),
    "KEYS_MISSING": ("error", "the layout needs keys that aren't there"),
    "KEYS_LEFT_OVER": ("error", "keys that the layout doesn't know"),
    "SHAPE_MISMATCH": ("error", "tensors of another shape than the others imply"),
    "KEYS_RESPELLED": ("warning", "the keys fit only without a wrapper's prefix, or under their new names"),
    "CONSTANT_ABSENT": ("warning", "a constant is absent without which the model is loaded as another one"),
    "UNKNOWN_SIZE": ("info", "dims that no published model has"),
    "BARE_WEIGHTS": ("warning", "neither args nor cfg: fairseq can't open the file as a model"),
    "CONFIG_CONTRADICTS": ("error", "the config says otherwise than the tensors, or what the model can't do"),
    "CONFIG_DEVIATES": (
        "warning",
        "the config says what no model of the layout says, and so computes otherwise",
    ),
    "CONFIG_ASSUMED": ("info", "no config says what no tensor shows: a default will be used"),
    "TIED_IN_CONFIG_ONLY": ("error", "the config ties tensors that differ: loading loses one of them"),
    "TIED_IN_TENSORS_ONLY": ("warning", "the config calls equal tensors separate"),
    "NAN_VALUES": ("error", "NaN in a tensor"),
    "INF_VALUES": ("error", "an infinity in a tensor"),
    "FP16_OVERFLOW": ("warning", "values that fp16 can't hold"),
    "VOCAB_TRUNCATED": ("warning", "the dictionary has fewer symbols than a pretrained file has rows: those are cut"),
    "VOCAB_TOO_SMALL": ("error", "the dictionary has fewer symbols than the embedding has rows"),
    "VOCAB_TOO_LARGE": ("error", "the dictionary has more symbols than the embedding has rows"),
    "ROWS_AT_RANDOM": (
        "warning",
        "the dictionary has more symbols than a pretrained file has rows: those start at random",
    ),
    "ROWS_WITHOUT_TOKEN": ("info", "a tokenizer leaves rows at the end of the embedding unused"),
    "SPECIAL_TOKENS": ("error", "special tokens have other ids than the model was trained with"),
    "TOKENS_APPENDED": ("info", "language or marker tokens at the end of the dictionary"),
    "SPM_PIECES_UNKNOWN": ("warning", "pieces of the sentencepiece model that the dictionary lacks"),
    "POSITIONS_TOO_FEW": ("error", "fewer positions than are asked for"),
    "LABELS_DIFFER": ("error", "the head has another number of classes than the task"),
    "HEAD_IS_NEW": ("info", "there is no head for the task's classes: it will start at random"),
    "TARGET_DIFFERS": ("error", "the checkpoint as a whole is another than the target"),
    "TARGET_MISSING": ("error", "the target needs keys that the checkpoint lacks"),
    "TARGET_UNEXPECTED": ("error", "the checkpoint has keys that the target lacks"),
    "TARGET_MISMATCHED": ("error", "shapes that the target doesn't take"),
}


@dataclass(frozen=True)
class Finding:
    """One thing found. severity: error, warning or info, as its code says."""

    severity: str
    code: str
    message: str
    hint: str


def found(code: str, message: str, hint: str) -> Finding:
    """A finding of this code. KeyError for a code that isn't listed."""
    return Finding(CODES[code][0], code, message, hint)


def by_severity(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Errors first, then warnings; in the order in which they were found."""
    return tuple(sorted(findings, key=lambda each: SEVERITIES.index(each.severity)))
