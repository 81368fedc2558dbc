"""What two halves computed, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf, isnan
from typing import Any

from ckptconv.forward.model import Decoded, Layer, Outputs

LOGITS = "logits"
_UNNAMED = "head"  # that of a layout whose keys don't say what its head is called


def layers(source: Outputs, target: Outputs) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Every place that both halves have, in the order of computation; and what there is to say of the others."""
    a, b = source.values, target.values
    both = [name for name in a if name in b and not _is_head(name)]
    pairs = [(name, name, name) for name in both] + list(_heads(a, b))
    found = [_layer(name, a[left], b[right]) for name, left, right in pairs]
    notes = []
    if _heads_of(a) and _heads_of(b) and len(pairs) == len(both):
        notes.append(f"no head in common: the source has {_sizes(a)}, the target {_sizes(b)}; heads are not compared")
    elif len(pairs) == len(both) and LOGITS not in both:
        notes.append("no head in common: only the states of the layers are compared")
    return tuple(found), tuple(notes)


def agreement(source: Outputs, target: Outputs, bound: float) -> tuple[float, int]:
    """The share of positions whose most likely id agrees, and how many others are no near tie.

    A near tie: the source's logits of the two ids are at most `bound` apart.
    """
    a, b = source.values[LOGITS], target.values[LOGITS]
    first, second = a.argmax(-1), b.argmax(-1)
    gaps = a.gather(-1, first[:, None]) - a.gather(-1, second[:, None])
    same = first == second
    return float(same.double().mean()), int((~same & ~(gaps[:, 0] <= bound)).sum())


def alike(source: Sequence[Decoded], target: Sequence[Decoded], bound: float) -> tuple[int, int]:
    """How many sentences are decoded alike, and how many of the others part at no near tie."""
    pairs = list(zip(source, target, strict=True))
    same = sum(a.ids == b.ids for a, b in pairs)
    return same, sum(not _near(a, b, bound) for a, b in pairs if a.ids != b.ids)


def _near(a: Decoded, b: Decoded, bound: float) -> bool:
    """Whether the two part where the source's logits of the two ids are at most `bound` apart."""
    for step, chosen, other in zip(a.behind, a.ids, b.ids, strict=False):
        if chosen != other:
            return step.get(other, inf) <= bound
    return False


def _layer(name: str, a: Any, b: Any) -> Layer:
    """A value that is no number makes the difference infinite."""
    if not a.numel():
        return Layer(name, 0.0, 0.0)
    difference, scale = float((a - b).abs().max()), float(a.abs().max())
    return Layer(name, inf if isnan(difference) else difference, inf if isnan(scale) else scale)


def _is_head(name: str) -> bool:
    return name == _UNNAMED or name.startswith(f"{_UNNAMED} ")


def _heads_of(values: Mapping[str, Any]) -> list[str]:
    return [name for name in values if _is_head(name)]


def _heads(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(what it is called, the source's, the target's) for heads of one name; where one side's has none, with the head
    of its size that is nearest to it, so that a head passes only if it is one of them."""
    for name in _heads_of(a):
        if name in b and a[name].shape == b[name].shape:
            yield name, name, name
        elif name == _UNNAMED:
            yield from ((other, name, other) for other in _nearest(a[name], b))
    if _UNNAMED in b and _UNNAMED not in a:
        yield from ((other, other, _UNNAMED) for other in _nearest(b[_UNNAMED], a))


def _nearest(head: Any, among: Mapping[str, Any]) -> list[str]:
    sizes = [name for name in _heads_of(among) if among[name].shape == head.shape]
    return sorted(sizes, key=lambda name: _layer(name, head, among[name]).max_abs)[:1]


def _sizes(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({values[name].shape[-1]})" for name in _heads_of(values))
