"""A checkpoint before its target: what both have, and what the names on the two sides have to do with each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ckptconv.auditing.names import Stack, Wrapper, place, stacks, unwrapped, wrapper
from ckptconv.auditing.target import Lists, Target
from ckptconv.tables.fit import Fit, Shapes, expected_keys

_POOLER = "pooler"


@dataclass(frozen=True)
class Scene:
    """name: the checkpoint's file. fit: the layout that it is in, if it is in one. lists: what doesn't fit. claims: the
    classes that its own config.json names."""

    name: str
    source: Shapes
    fit: Fit | None
    target: Target
    lists: Lists
    claims: frozenset[str] = frozenset()

    @cached_property
    def wrapper(self) -> Wrapper | None:
        """The prefix that stands between the two; None where another layout does."""
        return None if self.other_layout else wrapper(self.source, self.target)

    @cached_property
    def unwrapped(self) -> frozenset[str]:
        """The checkpoint's keys as the target would call them without the wrapper, plain."""
        found = self.wrapper
        return frozenset(self.target.plain(unwrapped(key, found)) for key in self.source) if found else frozenset()

    @cached_property
    def stacks(self) -> Mapping[str, Stack]:
        """The stacks of layers that are higher on one side, by their prefix."""
        return {stack.prefix: stack for stack in stacks(self.source, self.target)}

    @cached_property
    def other_layout(self) -> bool:
        """Whether the checkpoint is in another layout of the target's family, so that a conversion makes it fit.

        Layouts may share most names: what tells is that some key has no place, and that the target takes no key which
        the checkpoint's layout doesn't know.
        """
        here, there = self.fit, self.target.fit
        if here is None or there is None or here.table is not there.table or here.layout == there.layout:
            return False
        strange = {self.target.plain(here.spelled.original[key]) for key in here.unexpected}
        return bool(self.lists.unexpected) and not strange & self.fitting

    @cached_property
    def convertible(self) -> frozenset[str]:
        """The target's keys, plain, that a conversion makes from the checkpoint's, which is in another layout."""
        here, there = self.fit, self.target.fit
        if here is None or there is None or not self.other_layout:
            return frozenset()
        made = {key for key, _ in expected_keys(there.table, there.layout.name, here.dims)}
        ties = [tie.keys for tie in there.table.ties if tie.layout == there.layout.name and made & {*tie.keys}]
        return frozenset(self.target.plain(key) for key in made.union(*ties))

    @cached_property
    def droppable(self) -> Mapping[str, str]:
        """The checkpoint's keys that its layout's table calls no parameters of the model, with the reasons."""
        fit = self.fit
        return {fit.spelled.original[key]: drop.reason for key, drop in fit.drops.items()} if fit else {}

    @cached_property
    def original(self) -> Mapping[str, str]:
        """The checkpoint's keys by their plain names (transformers reports some without the bare model's prefix)."""
        return {self.target.plain(key): key for key in self.source}

    @cached_property
    def fitting(self) -> frozenset[str]:
        """The plain names that both sides have."""
        return frozenset(self.original) & frozenset(map(self.target.plain, self.target.shapes))

    @cached_property
    def body_fits(self) -> bool:
        """Whether any key outside of the heads is on both sides, or would be without the wrapper, or converted."""
        return (
            self.wrapper is not None
            or self.other_layout
            or any(not self.of_target(key) for key in self.target.shapes if self.target.plain(key) in self.fitting)
        )

    @cached_property
    def half_there(self) -> frozenset[str]:
        """The heads and poolers of which both sides have a key."""
        here = {self.of_source(self.original[plain]) for plain in self.fitting}
        there = {self.of_target(key) for key in self.target.shapes if self.target.plain(key) in self.fitting}
        return frozenset(here | there) - {""}

    def of_source(self, key: str) -> str:
        """The head or pooler that one of the checkpoint's keys belongs to; "" for the body, and for no telling."""
        return self._module(key, self._bodies[0])

    def of_target(self, key: str) -> str:
        """The same for one of the target's keys."""
        return self._module(key, self._bodies[1])

    @cached_property
    def _bodies(self) -> tuple[str, str]:
        body = self.target.body or (self.target.base if self.target.kind == "class" else "")
        return _body(body, self.source), _body(body, self.target.shapes)

    @staticmethod
    def _module(key: str, body: str) -> str:
        parts = key.split(".")
        if _POOLER in parts:
            return _POOLER
        return parts[0] if body and not key.startswith(body) else ""

    def stack_of(self, key: str) -> Stack | None:
        """The stack of which this key's layer is on one side only."""
        prefix, number, _ = place(self.target.plain(key))
        stack = self.stacks.get(prefix)
        return stack if stack and number is not None and number >= min(stack.source, stack.target) else None


def _body(prefix: str, keys: Iterable[str]) -> str:
    """The prefix, if there are keys that begin with it: else this side is a bare model."""
    return prefix if prefix and any(key.startswith(prefix) for key in keys) else ""
