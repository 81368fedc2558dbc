"""How far long work has come: bytes done, and bytes in all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

Progress = Callable[[int, int], None]


def unwatched(done: int, total: int) -> None:
    """For work that nobody watches."""


def counter(progress: Progress, total: int) -> Callable[[int], None]:
    """A function that adds up the bytes it is told of, and tells `progress` of them; never more than `total`."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done = min(done + more, total)
        progress(done, total)

    return count


def counted(chunks: Iterable[Any], count: Callable[[int], None]) -> Iterator[Any]:
    """The chunks; `count` is told of the bytes of each one once the next is asked for."""
    for chunk in chunks:
        yield chunk
        count(len(chunk))
