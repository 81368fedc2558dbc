"""Converted samples that several tests look at; each made once, through the public function."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests import spm_side
from tests.xlmr.hf_side import run
from tests.xlmr.samples import SAMPLES


@pytest.fixture(scope="session")
def hf_sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """hf_sample(name) → the sample as an HF directory."""
    folder = tmp_path_factory.mktemp("samples")

    @cache
    def made(name: str) -> Path:
        return run(SAMPLES[name].path, folder / name.replace(" ", "-"), "xlmr/hf", **SAMPLES[name].options)

    return made


@pytest.fixture(scope="session")
def spm() -> bytes:
    """A sentencepiece model of a few sentences in many scripts."""
    return spm_side.trained()
