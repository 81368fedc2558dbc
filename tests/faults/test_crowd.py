"""Several conversions to one place: one of them is what remains, whole, and the others were before it or are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.crowd import make_crowd, together
from tests.faults.trials import Figures

ROUNDS, PROCESSES = 6, 8


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize(
    ("name", "there", "overwrite"),
    [
        ("pt", "nothing", False),
        ("pt", "old", True),
        ("hf", "nothing", False),
        ("hf", "nothing", True),
        ("hf", "empty", False),
        ("hf", "old", True),
    ],
)
def test_eight_at_once(name: str, there: str, overwrite: bool, exchange: bool, scratch: Path):
    crowd = make_crowd(name, there, overwrite, scratch)
    figures = sum((together(crowd, scratch / "trial", PROCESSES, exchange) for _ in range(ROUNDS)), Figures())
    assert not figures.bad, figures.told
