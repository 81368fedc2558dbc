"""How far work has come, as it is told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ckptconv.progress import counted, counter


@given(st.lists(st.binary(max_size=20)), st.integers(0, 100))
def test_chunks_go_by_untouched_and_are_added_up_to_the_total_at_most(chunks: list[bytes], short: int):
    total, told = max(0, sum(map(len, chunks)) - short), []
    assert list(counted(chunks, counter(lambda *seen: told.append(seen), total))) == chunks
    sums = [sum(map(len, chunks[: number + 1])) for number in range(len(chunks))]
    assert told == [(min(each, total), total) for each in sums]
