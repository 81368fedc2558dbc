"""How one checkpoint is read: which names its pickles may call, and what reading it may cost in all."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ckptconv.errors import Unsafe
from ckptconv.text import printable

STEPS_LIMIT = 12_000_000  # instructions of pickles; 50,000 tensors take 2 million, or 5 in a legacy file
MEMORY_LIMIT = 144 << 20  # bytes of pickles and nodes together, by estimate; 50,000 tensors take 115 MiB
KEYS_LIMIT = 100_000  # keys of state dicts and other entries
LETTERS_LIMIT = 8_000_000  # of all of them together
_LONGEST = 65_536  # letters of one


class Reading:
    """What is left of the limits, which a checkpoint has once, however many files it lies in.

    allow_unknown: whether pickles may call functions of other packages. Nothing is ever called: the calls are kept as
    inert records of what the file says.
    """

    __slots__ = ("allow_unknown", "keys", "letters", "memory", "steps")

    def __init__(self, allow_unknown: bool = False) -> None:
        self.allow_unknown = allow_unknown
        self.steps = STEPS_LIMIT
        self.memory = MEMORY_LIMIT
        self.keys = KEYS_LIMIT
        self.letters = LETTERS_LIMIT

    def count(self, names: Collection[str], path: Path) -> None:
        """Counts names of tensors and other entries. Raises Unsafe when there are more, or longer ones, than any model
        has."""
        self.keys -= len(names)
        self.letters -= sum(map(len, names))
        what = ""
        if self.keys < 0:
            what = f"it lists over {KEYS_LIMIT:,} keys, more than any model"
        elif self.letters < 0 or max(map(len, names), default=0) > _LONGEST:
            what = f"its keys take over {LETTERS_LIMIT:,} letters, or one of them over {_LONGEST:,}"
        if what:
            raise Unsafe(f"{printable(str(path))} is refused as unsafe: {what}", path)
