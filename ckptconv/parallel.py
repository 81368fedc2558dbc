"""Work on the second core while the first goes on: in order, and never far ahead of who takes the results.

What takes the time (reading, checksums, hashes, numpy's arithmetic) runs outside of Python's lock, so threads do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

_WORKERS = 2
_WAITING = 2  # results that nobody has taken yet
_BATCH = 1 << 20  # bytes that are handed over together
_MOST = 500  # pieces that are handed over together: empty ones weigh nothing

T = TypeVar("T")
R = TypeVar("R")


def ahead(pieces: Iterable[T], size: Callable[[T], int] = len) -> Iterator[T]:  # type: ignore[assignment]
    """The pieces, made in another thread while the ones before are used; small ones are handed over together.

    size: the bytes of a piece.
    """
    batches = _batches(iter(pieces), size)
    with _pool(1) as (pool, waiting):
        waiting.extend(pool.submit(next, batches, None) for _ in range(_WAITING))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, batches, None))
            yield from batch


def mapped(
    function: Callable[[T], R], items: Iterable[T], size: Callable[[T], int] = lambda item: _BATCH
) -> Iterator[R]:
    """`map`, with the function on two cores; the items are made in this thread.

    size: the bytes of an item; small ones are handed over together, and what is handed over at once needs no thread.
    """
    batches = _batches(iter(items), size)
    first = list(islice(batches, 2))
    if len(first) < 2:
        yield from map(function, chain.from_iterable(first))
        return

    def results(batch: list[T]) -> list[R]:
        return [function(item) for item in batch]

    with _pool(_WORKERS) as (pool, waiting):
        for batch in chain(first, batches):
            waiting.append(pool.submit(results, batch))
            if len(waiting) > _WAITING:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def grouped(
    function: Callable[[T], R],
    groups: Iterable[Iterable[T]],
    size: Callable[[T], int],
    done: Callable[[int], None] = lambda count: None,
) -> Iterator[list[R]]:
    """For each group, which has at least one item, the results of its items; with the function on two cores.

    size: the bytes of an item. done(bytes) is called in this thread for each item that is done.
    """

    def result(numbered: tuple[int, T]) -> tuple[int, int, R]:
        number, item = numbered
        return number, size(item), function(item)

    items = ((number, item) for number, group in enumerate(groups) for item in group)
    for _, found in groupby(mapped(result, items, lambda numbered: size(numbered[1])), itemgetter(0)):
        results = []
        for _, count, each in found:
            done(count)
            results.append(each)
        yield results


@contextmanager
def _pool(workers: int) -> Iterator[tuple[ThreadPoolExecutor, deque[Future[Any]]]]:
    """Threads, and the results to come; those that nobody wants any more are not made."""
    from concurrent.futures import ThreadPoolExecutor

    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield pool, waiting
        finally:
            for future in waiting:
                future.cancel()


def _batches(pieces: Iterator[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    for first in pieces:
        batch, total = [first], size(first)
        while total < _BATCH and len(batch) < _MOST:
            piece = next(pieces, None)
            if piece is None:
                break
            batch.append(piece)
            total += size(piece)
        yield batch
