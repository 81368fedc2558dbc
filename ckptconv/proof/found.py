"""What a proof says of each tensor of the output, and of what the source had besides."""

from __future__ import annotations

from dataclasses import dataclass

STATUSES = ("equal", "cast", "folded", "made_up", "differ")


@dataclass(frozen=True)
class Proved:
    """One key of the output.

    sources: the source's keys that it is made of. status: `equal` (bit for bit), `cast` (equal once the source is
    rounded to its dtype), `folded` (a `fold` line's sum, rounded once), `made_up` (nothing of the source is in it, and
    a line of the table says so) or `differ`. told: how it differs, or why it was made up.
    """

    key: str
    sources: tuple[str, ...]
    status: str
    told: str = ""


@dataclass(frozen=True)
class Dropped:
    """A key of the source that the output lacks. lost: its values are nowhere in the output. accounted: a line of the
    table, or the choice of a head, says why."""

    key: str
    reason: str
    lost: bool
    accounted: bool = True


@dataclass(frozen=True)
class Cut:
    """A key of the output whose first axis isn't as long as the source's. told: what became of the rows."""

    key: str
    before: int
    after: int
    told: str


@dataclass(frozen=True)
class Proof:
    """Everything that was compared. source, target: `family/layout`, or "" where the keys went as they are."""

    source: str
    target: str
    tensors: tuple[Proved, ...]
    dropped: tuple[Dropped, ...] = ()
    resized: tuple[Cut, ...] = ()

    def count(self, status: str) -> int:
        """How many keys of the output have this status."""
        return sum(each.status == status for each in self.tensors)

    @property
    def holds(self) -> bool:
        """Whether no tensor differs, and all that was dropped is accounted for."""
        return not self.count("differ") and all(each.accounted for each in self.dropped)

    @property
    def whole(self) -> bool:
        """Whether nothing of the source was lost either."""
        return self.holds and not any(each.lost for each in self.dropped) and not self.lost_rows

    @property
    def lost_rows(self) -> bool:
        """Whether rows were cut."""
        return any(each.after < each.before for each in self.resized)
