"""Subjects of golden files and of conversions of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ckptconv
from ckptconv.containers.open import open_checkpoint
from ckptconv.conversion.prepare import source_documents
from ckptconv.detect import detect
from ckptconv.forward import Forward, Subject, run_both
from ckptconv.tables.catalog import tables

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
NUMBERS = ROOT / "examples" / "deltalm-numbers"


def subject(path: Path) -> Subject:
    """The checkpoint at `path`, as the command opens it."""
    checkpoint = open_checkpoint(path)
    fit = detect(checkpoint, tables()).fit
    assert fit
    return Subject(checkpoint, fit, source_documents(checkpoint, fit))


def convert(source: Path, output: Path, to: str, **options: Any) -> Path:
    """Converts, and returns the output."""
    ckptconv.convert(source, output, ckptconv.Options(to=to, **options))
    return output


def both(source: Path, target: Path) -> Forward:
    return run_both(subject(source), subject(target))
