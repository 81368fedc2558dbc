"""What runs on the second core: the same results in the same order, little of it at a time, and nothing left over."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptconv.parallel import ahead, grouped, mapped


@given(st.lists(st.binary(max_size=1 << 12), max_size=2000))
def test_pieces_come_as_they_are(pieces: list[bytes]):
    assert list(ahead(pieces)) == pieces


@given(st.lists(st.integers(), max_size=50))
def test_a_function_is_mapped_in_order(numbers: list[int]):
    assert list(mapped(lambda number: 2 * number, numbers)) == [2 * number for number in numbers]


def test_the_later_result_comes_later_even_if_it_is_made_first():
    assert list(mapped(lambda wait: time.sleep(wait) or wait, [0.1, 0.0, 0.05, 0.0])) == [0.1, 0.0, 0.05, 0.0]


def test_pieces_are_made_in_another_thread_while_the_ones_before_are_used():
    made: list[threading.Thread] = []

    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            made.append(threading.current_thread())
            yield bytes(1 << 20)

    taken = ahead(pieces())
    next(taken)
    until = time.monotonic() + 20
    while len(made) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert 3 <= len(made) <= 5  # ahead, but not far
    assert threading.main_thread() not in made
    assert sum(len(piece) for piece in taken) == 19 << 20


def test_two_run_at_once():
    both = threading.Barrier(2, timeout=20)
    assert len(list(mapped(lambda _: both.wait(), range(2)))) == 2


def test_empty_pieces_are_handed_over_too_and_not_all_at_once():
    alive = []

    def pieces() -> Iterator[bytes]:
        for number in range(100_000):
            alive.append(number)
            yield b""

    taken = ahead(pieces())
    next(taken)
    time.sleep(0.2)
    assert len(alive) <= 5000
    assert sum(1 for _ in taken) == 99_999


class Odd(Exception):
    """Raised on the other core."""


def failing() -> Iterator[bytes]:
    yield bytes(1 << 20)
    raise Odd


def refuse(number: int) -> int:
    if number == 3:
        raise Odd
    return number


@pytest.mark.parametrize("run", [lambda: ahead(failing()), lambda: mapped(refuse, range(100))], ids=["ahead", "mapped"])
def test_what_is_raised_there_is_raised_here_after_what_came_before(run: Callable[[], Iterator[object]]):
    before = threading.active_count()
    results = run()
    got = []
    with pytest.raises(Odd):
        got.extend(results)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "run",
    [lambda: ahead(bytes(1 << 20) for _ in range(1000)), lambda: mapped(lambda number: number, range(1000))],
    ids=["ahead", "mapped"],
)
def test_who_stops_early_leaves_no_thread(run: Callable[[], Iterator[object]]):
    before = threading.active_count()
    results = run()
    next(results)
    results.close()
    assert threading.active_count() == before


def test_what_nobody_wants_any_more_is_not_made():
    made: list[int] = []
    closing = threading.Event()

    def make(number: int) -> None:
        if number:
            closing.wait(20)
        made.append(number)

    results = mapped(make, range(100))
    next(results)
    threading.Timer(0.5, closing.set).start()
    results.close()
    assert len(made) <= 3  # one was taken, two had begun; the others were waiting


def test_a_single_item_needs_no_thread():
    assert list(mapped(lambda _: threading.current_thread(), [0])) == [threading.main_thread()]


@given(st.lists(st.integers(0, 3 << 20), max_size=60))
def test_small_items_are_handed_over_together(sizes: list[int]):
    assert list(mapped(str, sizes, int)) == [str(size) for size in sizes]


def test_what_is_handed_over_at_once_needs_no_thread():
    threads = list(mapped(lambda _: threading.current_thread(), range(100), lambda _: 1000))
    assert set(threads) == {threading.main_thread()}
    threads = list(mapped(lambda _: threading.current_thread(), range(100), lambda _: 1 << 19))
    assert threading.main_thread() not in threads


@given(st.lists(st.lists(st.integers(0, 3 << 20), min_size=1, max_size=5), max_size=20))
def test_results_come_by_group(groups: list[list[int]]):
    done: list[int] = []
    assert list(grouped(str, groups, int, done.append)) == [[str(size) for size in group] for group in groups]
    assert done == [size for group in groups for size in group]
