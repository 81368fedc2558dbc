"""Converted checkpoints that several tests look at; made once, through the public function."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

import ckptconv
from ckptconv import Conversion, Options

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = ROOT / "examples" / "deltalm-numbers"
FINETUNED = NUMBERS / "finetuned"
GOLDEN = ROOT / "tests" / "golden"


def run(source: Path, output: Path, to: str, **options) -> Conversion:
    """Convert and return the report."""
    return ckptconv.convert(source, output, Options(to=to, **options))


def shared_dir(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    return tmp_path_factory.mktemp(name) / name


@pytest.fixture(scope="session")
def hf_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model as an HF directory."""
    made = shared_dir(tmp_path_factory, "hf")
    run(FINETUNED, made, "deltalm/hf")
    return made


@pytest.fixture(scope="session")
def back_dir(hf_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That directory, converted back to fairseq."""
    made = shared_dir(tmp_path_factory, "back")
    run(hf_dir, made, "fairseq")
    return made


@pytest.fixture(scope="session")
def generated() -> Callable[[int], list[dict[str, str]]]:
    """generated(beam) → the rows that fairseq-generate printed."""

    def rows(beam: int) -> list[dict[str, str]]:
        name = "generate_greedy.tsv" if beam == 1 else f"generate_beam{beam}.tsv"
        with (NUMBERS / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))

    return rows
