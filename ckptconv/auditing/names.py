"""How the names on the two sides go together: a wrapper's prefix, and stacks of layers of another height."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass

from ckptconv.auditing.target import Target
from ckptconv.keys import is_index


@dataclass(frozen=True)
class Wrapper:
    """A prefix that only one side has. removed: it is the checkpoint's. fitting: keys that fit without it."""

    prefix: str
    removed: bool
    fitting: int


@dataclass(frozen=True)
class Stack:
    """Layers under one prefix, as many as each side has."""

    prefix: str
    source: int
    target: int


def wrapper(source: Iterable[str], target: Target) -> Wrapper | None:
    """The prefix without which (or with which) most of the checkpoint's keys fit that don't fit as they are."""
    keys = tuple(source)
    tied = (key for tie in target.ties for key in tie)  # a layout knows more names of its tied keys than it expects
    there, wanted = set(map(target.plain, keys)), set(map(target.plain, (*target.shapes, *tied)))
    fitting = len(there & wanted)
    for removed, long, short in ((True, keys, wanted), (False, tuple(target.shapes), there)):
        prefix, count = _prefix(long, short, target.plain)
        if count > fitting and 2 * count > len(keys):
            return Wrapper(prefix, removed, count)
    return None


def unwrapped(key: str, found: Wrapper) -> str:
    """The checkpoint's key, as the target calls it."""
    return key.removeprefix(found.prefix) if found.removed else found.prefix + key


def _prefix(keys: Iterable[str], others: Set[str], plain: Callable[[str], str]) -> tuple[str, int]:
    """The prefix without which most keys are among the others, the shortest of such; and how many are."""
    counts: Counter[str] = Counter()
    for key in keys:
        dot = key.find(".")
        while dot >= 0:
            if plain(key[dot + 1 :]) in others:
                counts[key[: dot + 1]] += 1
            dot = key.find(".", dot + 1)
    return max(counts.items(), key=lambda item: (item[1], -len(item[0])), default=("", 0))


def stacks(source: Iterable[str], target: Target) -> tuple[Stack, ...]:
    """Every stack of layers that is higher on one side, and otherwise the same."""
    here, there = _layers(map(target.plain, source)), _layers(map(target.plain, target.shapes))
    return tuple(_differing(here, there))


_Layers = dict[str, dict[int, set[str]]]


def _differing(here: _Layers, there: _Layers) -> Iterator[Stack]:
    for prefix, wanted in there.items():
        layers = here.get(prefix, {})
        whole = all(sorted(each) == list(range(len(each))) for each in (layers, wanted))
        alike = any(layers[number] == wanted[number] for number in layers.keys() & wanted.keys())
        if whole and alike and len(layers) != len(wanted):
            yield Stack(prefix, len(layers), len(wanted))


def _layers(keys: Iterable[str]) -> _Layers:
    """Prefix up to a first index → index → the rests of its keys."""
    found: _Layers = {}
    for key in keys:
        prefix, number, rest = place(key)
        if number is not None:
            found.setdefault(prefix, {}).setdefault(number, set()).add(rest)
    return found


def place(key: str) -> tuple[str, int | None, str]:
    """`encoder.layer.`, 7, `output.dense.bias`; the number is None where no part of the key is an index."""
    parts = key.split(".")
    at = next((at for at, part in enumerate(parts) if is_index(part)), None)
    if at is None:
        return "", None, key
    return "".join(f"{part}." for part in parts[:at]), int(parts[at]), ".".join(parts[at + 1 :])
