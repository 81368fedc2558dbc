"""Python's cycle collector and the C library's heap, told what work on many nodes and on large pieces is like."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_KEPT = (32 << 20) - (64 << 10)  # bytes: the largest block that glibc learns from


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the cycle collector, which else takes half of the time to look at nodes that are all alive; what has no
    cycles is freed as ever."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@cache
def keep_freed() -> None:
    """Has the C library keep some MiB that are freed for the next pieces, from now on, where it else would give every
    piece back to the system and take it anew: that costs more than reading it.

    Freeing one large block, of which nothing was ever touched, raises glibc's thresholds (mallopt(3), M_MMAP_THRESHOLD
    and M_TRIM_THRESHOLD); other C libraries don't notice.
    """
    bytes(_KEPT)
