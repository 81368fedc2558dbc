"""Entries that consist of the same values over and over are refused; large ones of their own are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ckptconv.containers import open_checkpoint
from ckptconv.errors import Unsafe


def test_the_same_values_under_every_name(tmp_path: Path):
    shared = list(range(50_000))
    torch.save({"model": {"w": torch.ones(2)}, **{f"entry{number}": shared for number in range(40)}}, tmp_path / "x.pt")
    with pytest.raises(Unsafe, match="its entries consist of the same values over and over"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("times", [1, 2])
def test_many_values_of_ones_own(times: int, tmp_path: Path):
    """1,200,000 of them, once or under two names each."""
    entries = [list(range(100_000 * number, 100_000 * (number + 1))) for number in range(12)]
    named = {f"entry{number}": entries[number % 12] for number in range(12 * times)}
    torch.save({"model": {"w": torch.ones(2)}, **named}, tmp_path / "x.pt")
    assert open_checkpoint(tmp_path / "x.pt").other.keys() == named.keys()
