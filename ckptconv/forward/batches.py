"""The sentences that both halves read: random ids of several lengths, padded on either side or not at all."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

BOS, PAD, EOS = 0, 1, 2
SPECIAL = 4  # <s>, <pad>, </s>, <unk>
LONGEST = 40  # tokens; together few enough that logits over 250,000 ids take little memory


@dataclass(frozen=True)
class Batch:
    """Sentences that run together. rows: their ids, without padding. left: padded on the left.

    targets: what a decoder is given for each, padded on the right; () for encoders. languages: whose adapter each row
    goes through; () for models without any.
    """

    rows: tuple[tuple[int, ...], ...]
    left: bool = False
    targets: tuple[tuple[int, ...], ...] = ()
    languages: tuple[str, ...] = ()

    @property
    def first_is_a_token(self) -> bool:
        """Whether every row begins with a token, which is what classification heads read."""
        return not self.left or len({len(row) for row in self.rows}) == 1


def batches(source: range, target: range | None, longest: int, longest_target: int, framed: bool) -> tuple[Batch, ...]:
    """One batch padded on the right, one on the left, one without padding; the same ones for the same arguments.

    source, target: the ids to draw from; no target for encoders. longest: tokens of the longest sentence.
    framed: `<s> … </s>`, else `… </s>`; a decoder's input begins with `</s>`.
    """
    rng = random.Random(0)
    shapes = (((LONGEST, 1, 2, 13), False), ((2, 20, 7), True), ((9, 9), False))
    made = []
    for lengths, left in shapes:
        rows = tuple(_sentence(rng, source, min(length, longest), framed) for length in lengths)
        targets = tuple(_prefix(rng, target, min(5 + 2 * at, longest_target)) for at in range(len(rows)) if target)
        made.append(Batch(rows, left, targets))
    return tuple(made)


def in_languages(made: Sequence[Batch], languages: Sequence[str]) -> tuple[Batch, ...]:
    """The batches with a language for each row, so often that every language occurs; as they are without any."""
    if not languages:
        return tuple(made)
    rounds = -(-len(languages) // sum(len(batch.rows) for batch in made))
    endless = cycle(languages)
    return tuple(
        replace(batch, languages=tuple(islice(endless, len(batch.rows)))) for _ in range(rounds) for batch in made
    )


def padded(rows: Sequence[Sequence[int]], left: bool) -> list[list[int]]:
    """The rows as one rectangle."""
    longest = max(map(len, rows))
    return [list(_padded(row, [PAD] * (longest - len(row)), left)) for row in rows]


def _padded(row: Sequence[int], gap: list[int], left: bool) -> Iterator[int]:
    yield from gap if left else ()
    yield from row
    yield from () if left else gap


def _sentence(rng: random.Random, ids: range, length: int, framed: bool) -> tuple[int, ...]:
    """A single token is the special one that stands first, or alone."""
    begin, end = ([BOS], [EOS] if length > 1 else []) if framed else ([], [EOS])
    inside = [rng.choice(ids) for _ in range(length - len(begin) - len(end))]
    return (*begin, *inside, *end)


def _prefix(rng: random.Random, ids: range, length: int) -> tuple[int, ...]:
    return (EOS, *(rng.choice(ids) for _ in range(length - 1)))
