"""Comparing tensors one after another: a verdict is kept for exactly the pair that it was made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptconv.containers import open_checkpoint
from ckptconv.containers.checkpoint import Tensor
from ckptconv.containers.read import Reader
from ckptconv.proof.values import Values

A, OTHER = torch.arange(12.0).view(4, 3), torch.ones(4, 3)
ROW, OTHER_ROW = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 0.0, 1.0]])
SOURCE = {"a": A, "other": OTHER, "row": ROW, "other_row": OTHER_ROW}
TARGET = {"a": A, "sum": A + ROW, "other_sum": A + OTHER_ROW, "ones_sum": OTHER + ROW}


class Compared:
    """Values over two files, and how many bytes were compared so far."""

    def __init__(self, folder: Path) -> None:
        save_file(SOURCE, folder / "source.safetensors")
        save_file(TARGET, folder / "target.safetensors")
        opened = [open_checkpoint(folder / name) for name in ("source.safetensors", "target.safetensors")]
        self.source, self.target = (each.entries[""] for each in opened)
        self.reader = Reader(*opened)
        self.bytes = 0
        self.values = Values(self.reader, self.count)

    def count(self, more: int) -> None:
        self.bytes += more

    def judge(self, source: str, target: str, row: str | None = None) -> str:
        added: Tensor | None = self.source[row] if row else None
        return self.values.judge(self.source[source], self.target[target], added)[0]


@pytest.fixture
def compared(tmp_path: Path) -> Iterator[Compared]:
    made = Compared(tmp_path)
    with made.reader:
        yield made


TRUTH = {
    ("a", "a", None): "equal",
    ("other", "a", None): "differ",
    ("a", "sum", None): "differ",
    ("a", "sum", "row"): "folded",
    ("a", "sum", "other_row"): "differ",
    ("a", "other_sum", "row"): "differ",
    ("a", "other_sum", "other_row"): "folded",
    ("other", "sum", "row"): "differ",
    ("other", "ones_sum", "row"): "folded",
}


@pytest.mark.parametrize("backwards", [False, True])
def test_a_verdict_is_for_one_source_one_target_and_one_row(backwards: bool, compared: Compared):
    """Whatever was asked before it."""
    for asked in sorted(TRUTH, key=str, reverse=backwards) * 2:
        assert compared.judge(*asked) == TRUTH[asked], asked


def test_a_pair_that_comes_again_is_not_read_again(compared: Compared):
    compared.judge("a", "a")
    first = compared.bytes
    assert first == A.numel() * 4
    assert compared.judge("a", "a") == "equal"
    assert compared.bytes == first
    compared.judge("a", "sum", "row")
    assert compared.bytes == 2 * first
