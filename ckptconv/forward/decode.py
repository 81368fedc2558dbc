"""Greedy decoding: how close the next best ids were at each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_CLOSE = 8


def behind(logits: Any, ids: Sequence[int]) -> tuple[Mapping[int, float], ...]:
    """For each step, by how much the best logits are behind that of the id that was chosen (negative for ids that
    decoding doesn't allow there). logits: [at least as many steps, rows]."""
    steps = []
    for at, chosen in enumerate(ids):
        best = logits[at].topk(min(_CLOSE, logits.shape[-1]))
        gaps = (logits[at, chosen] - best.values).tolist()
        steps.append(dict(zip(best.indices.tolist(), gaps, strict=True)))
    return tuple(steps)
