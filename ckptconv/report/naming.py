"""Many keys in little room."""

from __future__ import annotations

from collections.abc import Sequence

from ckptconv.keys import collapsed, common_prefix
from ckptconv.text import printable

_MANY = 50
_SHOWN = 12


def in_short(keys: Sequence[str]) -> str:
    """The keys, layers as one; of a whole model only the prefix that all of them have."""
    found = collapsed(keys)
    prefix = common_prefix(keys)
    if len(found) > _SHOWN and prefix:
        return f"{printable(prefix)}*"
    return named(found)


def named(keys: Sequence[str]) -> str:
    """The keys, but not thousands of them."""
    more = f" … and {len(keys) - _MANY:,} more" if len(keys) > _MANY else ""
    return ", ".join(printable(key) for key in keys[:_MANY]) + more
