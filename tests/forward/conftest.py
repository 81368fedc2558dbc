"""Nothing is fetched, and conversions that several tests break are made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.forward.side import GOLDEN, NUMBERS, convert

XLMR = GOLDEN / "fairseq-0.10.2_roberta_mlm.pt"
DELTALM = NUMBERS / "finetuned" / "checkpoint_best.pt"


@pytest.fixture(scope="session")
def xlmr_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """XLM-R as an HF directory."""
    return convert(XLMR, tmp_path_factory.mktemp("xlmr") / "hf", "xlmr/hf")


@pytest.fixture(scope="session")
def deltalm_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A really trained DeltaLM as an HF directory."""
    return convert(DELTALM.parent, tmp_path_factory.mktemp("deltalm") / "hf", "deltalm/hf")
