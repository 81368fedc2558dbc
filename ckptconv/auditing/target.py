"""What a checkpoint is held against, and the plain lists of what doesn't fit, before anything is explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ckptconv.tables.fit import Fit, Shapes

Shape = tuple[int, ...]
# transformers' own renames on loading (4.57: modeling_utils.py, _fix_state_dict_key_on_load; 5: conversion_mapping.py)
_RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class Reason:
    """Why a key doesn't fit, and whether that is as it should be."""

    text: str
    expected: bool


@dataclass(frozen=True)
class Target:
    """What a checkpoint is held against.

    kind: layout, class or checkpoint. name: what messages call it. shapes: every key that it expects. fit: how those
    keys fit a table, if they do.
    base: the prefix of the bare model's keys (`roberta.`), which loading adds and removes by itself; "" for none.
    body: the prefix of everything that is no head; "" where there is no telling.
    ties: keys that are one tensor. buffers: last parts of keys that the target makes itself. numbers: the sizes that
    its config names. told: what there is to say of single keys. loader: what loads it (`transformers 5.23.0`), "" for
    torch. notes: sentences worth reading.
    """

    kind: str
    name: str
    shapes: Shapes
    fit: Fit | None = None
    base: str = ""
    body: str = ""
    ties: tuple[tuple[str, ...], ...] = ()
    buffers: frozenset[str] = frozenset()
    numbers: Mapping[str, int] = field(default_factory=dict)
    told: Mapping[str, Reason] = field(default_factory=dict)
    loader: str = ""
    notes: tuple[str, ...] = ()

    @property
    def who(self) -> str:
        """Who says what the sizes are, for sentences."""
        return "config" if self.kind == "class" else "target"

    def plain(self, key: str) -> str:
        """The key as all its spellings have it that load alike: a checkpoint's key goes where this is equal."""
        if self.kind == "class":
            head, layer_norm, tail = key.rpartition("LayerNorm.")
            key = head + _RENAMED.get(layer_norm + tail, layer_norm + tail)
        return key.removeprefix(self.base)


@dataclass(frozen=True)
class Lists:
    """What doesn't fit. mismatched: key → (got, wanted). ignored: keys that no loader complains about, each with the
    reason. refused: why the target's loader doesn't take the file at all; "" if it does."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, tuple[Shape, Shape]]
    ignored: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""


def difference(source: Shapes, target: Target) -> Lists:
    """By keys and shapes, as torch's `load_state_dict` compares them; but for the target's base prefix."""
    there = {target.plain(key): key for key in source}
    wanted = {target.plain(key): key for key in target.shapes}
    return Lists(
        tuple(key for plain, key in wanted.items() if plain not in there),
        tuple(key for key in source if target.plain(key) not in wanted),
        {
            key: (source[there[plain]], target.shapes[key])
            for plain, key in wanted.items()
            if plain in there and source[there[plain]] != target.shapes[key]
        },
    )
