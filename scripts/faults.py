"""What is left after conversions that were killed, refused by the system, or run side by side; the figures of it.

Every trial is a real conversion in a process of its own (tests/faults). After each, the output must be the old one or
the new one, whole, other people's files must be as they were, and the next run must succeed and leave nothing behind.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.faults.cases import OUTPUTS, SMALL, Case, make_case  # noqa: E402
from tests.faults.crowd import make_crowd, together  # noqa: E402
from tests.faults.trials import Figures, disturbed, duration, every_call, killed_at_random  # noqa: E402

_COLUMNS = ("runs", "partial", "lost", "leftovers", "wrong")
_CROWDS = [
    (name, there, overwrite)
    for name in ("pt", "hf", "fairseq")
    for there, overwrite in (("nothing", False), ("nothing", True), ("empty", False), ("old", True))
    if there != "empty" or name != "pt"
]


@dataclass(frozen=True)
class Series:
    """Trials of one kind on one case."""

    name: str
    trials: Iterator[Figures]


def kills(case: Case, folder: Path, count: int) -> Iterator[Figures]:
    chance, seconds = random.Random(case.name), duration(case, folder)
    return (killed_at_random(case, folder, chance, seconds) for _ in range(count))


def calls(case: Case, folder: Path, exchange: bool = True) -> Iterator[Figures]:
    return (disturbed(case, folder, each) for each in every_call(case, exchange))


def all_series(scratch: Path, options: argparse.Namespace) -> Iterator[Series]:
    folder = scratch / "trial"
    cases = {(name, over_old): make_case(name, over_old, scratch) for name in OUTPUTS for over_old in (False, True)}
    if options.kills:
        for case in cases.values():
            yield Series(f"SIGKILL, {case.name}", kills(case, folder, options.kills))
    if not options.no_calls:
        for (name, over_old), case in cases.items():
            if name in SMALL:
                yield Series(f"every call, {case.name}", calls(case, folder))
                if over_old and case.output == "out":
                    yield Series(f"every call, {case.name}, no swap", calls(case, folder, exchange=False))
    for each in _CROWDS if options.rounds else ():
        crowd = make_crowd(*each, scratch)
        for exchange in (True, False):
            rounds = (together(crowd, folder, 8, exchange) for _ in range(options.rounds))
            how = f"{each[0]} over {each[1]}{', --overwrite' if each[2] else ''}{'' if exchange else ', no swap'}"
            yield Series(f"eight at once, {how}", rounds)


def run(series: Iterable[Series], until: float) -> Figures:
    """Prints a line for each series and one for all; progress goes to stderr."""
    print(f"{'':58}", *(f"{name:>9}" for name in _COLUMNS))
    everything = Figures()
    for each in series:
        if time.monotonic() > until:
            print("stopped: the time is up")
            break
        figures = Figures()
        for number, trial in enumerate(each.trials):
            figures += trial
            if number % 50 == 0:
                print(f"\r{each.name}: {number}", end="\033[K", file=sys.stderr, flush=True)
            if time.monotonic() > until:
                break
        print("\r", end="\033[K", file=sys.stderr, flush=True)
        print(line(each.name, figures), flush=True)
        everything += figures
        for told in figures.told[:3]:
            print(f"  {told}", file=sys.stderr)
    print(line("all", everything))
    return everything


def line(name: str, figures: Figures) -> str:
    return " ".join([f"{name:58}", *(f"{getattr(figures, column):>9,}" for column in _COLUMNS)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="SIGKILLs at random moments, for each output")
    parser.add_argument("--no-calls", action="store_true", help="leave out every call × every error")
    parser.add_argument("--rounds", type=int, default=100, help="rounds of eight processes at once, for each output")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so long, with what there is")
    parser.add_argument("--folder", type=Path, help="where to work, on the file system that is to be tried")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        figures = run(all_series(Path(scratch), options), time.monotonic() + 60 * options.minutes)
    return 1 if figures.bad else 0


if __name__ == "__main__":
    sys.exit(main())
