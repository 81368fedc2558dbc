"""Near ties: two ids of nearly the same logit may change places, any others not."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch

from ckptconv.forward.compare import agreement, alike, layers
from ckptconv.forward.decode import behind
from ckptconv.forward.model import Decoded, Outputs


def outputs(logits: list[list[float]]) -> Outputs:
    return Outputs("", {"logits": torch.tensor(logits)}, (), ())


@pytest.mark.parametrize(("gap", "missed"), [(0.0, 0), (0.05, 0), (0.2, 1)])
def test_the_most_likely_id(gap: float, missed: int) -> None:
    source = outputs([[1.0, 1.0 - gap, 0.0], [3.0, 2.0, 1.0]])
    target = outputs([[1.0, 1.1, 0.0], [3.0, 2.0, 1.0]])
    assert agreement(source, target, 0.1) == (0.5, missed)


@pytest.mark.parametrize(("other", "parted"), [((5, 2), 0), ((6, 2), 1), ((9, 2), 1), ((4,), 1)])
def test_decoding(other: tuple[int, ...], parted: int) -> None:
    """5 is nearly as likely as 4, 6 is not, and 9 is not among the best; one that only ends early is another."""
    steps = ({4: 0.0, 5: 0.05, 6: 0.2}, {2: 0.0, 5: 1.0})
    source = [Decoded((4, 2), steps), Decoded((4, 2), steps)]
    target = [Decoded(other, steps), Decoded((4, 2), steps)]
    assert alike(source, target, 0.1) == (1, parted)


def test_behind() -> None:
    found = behind(torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.5, 0.0]]), [1, 0])
    assert found == ({1: 0.0, 2: 2.0, 0: 3.0}, {0: 0.0, 1: 1.5, 2: 2.0})


@pytest.mark.parametrize("value", [nan, inf])
def test_what_is_no_number_is_infinitely_far(value: float) -> None:
    (layer,), _ = layers(outputs([[1.0, 2.0]]), outputs([[1.0, value]]))
    assert (layer.max_abs, layer.scale) == (inf, 2.0)
