"""One conversion in a fork, disturbed in one way; then a look at what is there."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ckptconv.errors import CkptconvError
from tests.faults.calls import ERRORS, KILL, REMOVING, SHORT, Calls
from tests.faults.cases import Case, temporaries, tree

KILLED, REFUSED, BROKEN = "killed", "refused", "traceback"
DONE_BUT = "is there, but"  # the one error after which the new output is there


@dataclass
class Figures:
    """What a series of trials came to. partial: neither the old output nor the new one. lost: the old one is gone or
    damaged and the new one isn't there. leftovers: temporary files that outlive a failure which was no kill, or the
    next run. wrong: the exit says something else than what is there, or the next run fails."""

    runs: int = 0
    partial: int = 0
    lost: int = 0
    leftovers: int = 0
    wrong: int = 0
    told: list[str] = field(default_factory=list)

    def __add__(self, more: Figures) -> Figures:
        return Figures(
            self.runs + more.runs,
            self.partial + more.partial,
            self.lost + more.lost,
            self.leftovers + more.leftovers,
            self.wrong + more.wrong,
            [*self.told, *more.told],
        )

    @property
    def bad(self) -> int:
        """Trials that broke a promise."""
        return self.partial + self.lost + self.leftovers + self.wrong


def forked(work: Callable[[], object]) -> tuple[int, int]:
    """(process, descriptor from which what it says can be read) of a fork that does the work and ends."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    say = os.write
    code = 70
    try:
        work()
        code = 0
    except CkptconvError as problem:
        say(writing, problem.message.encode())
        code = problem.exit_code
    except BaseException:
        say(writing, traceback.format_exc().encode()[-4000:])
    finally:
        os._exit(code)


def ended(pid: int, reading: int) -> tuple[str, str]:
    """(how the fork ended: "done", KILLED, REFUSED or BROKEN; what it said)."""
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return KILLED, signal.Signals(os.WTERMSIG(status)).name
    return {0: "done", 3: REFUSED}.get(os.WEXITSTATUS(status), BROKEN), said


def disturbed(case: Case, folder: Path, calls: Calls) -> Figures:
    """One conversion with one call that fails."""

    def work() -> None:
        calls.install()
        case.write(folder)

    case.start(folder)
    end, said = ended(*forked(work))
    name = case_call(case, calls)
    dirty = calls.lasting or name in REMOVING
    loose = calls.lasting
    return judged(case, folder, end, said, f"{case.name}: {name} no. {calls.nth}, {calls.fault}", dirty, loose, calls)


def case_call(case: Case, calls: Calls) -> str:
    """The name of the call that fails."""
    names = recorded(case, calls.exchange)
    return names[calls.nth] if 0 <= calls.nth < len(names) else "none"


_RECORDED: dict[tuple[str, bool], list[str]] = {}


def recorded(case: Case, exchange: bool = True) -> list[str]:
    """The names of the calls of an undisturbed conversion, in order."""
    key = str(case.before), exchange
    if key not in _RECORDED:
        folder = case.before.with_name("recorded")
        case.start(folder)
        calls = Calls(exchange=exchange)

        def work() -> None:
            calls.install()
            write = os.write
            case.write(folder)
            names = " ".join(calls.names).encode()
            write(out, names)

        reading, out = os.pipe()
        end, said = ended(*forked(work))
        os.close(out)
        assert end == "done", said
        with os.fdopen(reading, "rb") as pipe:
            _RECORDED[key] = pipe.read().decode().split()
    return _RECORDED[key]


def killed_at_random(case: Case, folder: Path, chance: random.Random, seconds: float) -> Figures:
    """One conversion that a SIGKILL ends at some moment of the `seconds` that it takes."""
    case.start(folder)
    pid, reading = forked(lambda: case.write(folder))
    moment = chance.uniform(0, seconds)
    time.sleep(moment)
    os.kill(pid, signal.SIGKILL)
    end, said = ended(pid, reading)
    return judged(case, folder, end, said, f"{case.name}: SIGKILL after {moment * 1000:.2f} ms", True, False, Calls())


def duration(case: Case, folder: Path) -> float:
    """Seconds that a conversion in a fork takes: the median of five."""
    taken = []
    for _ in range(5):
        case.start(folder)
        start = time.monotonic()
        end, said = ended(*forked(lambda: case.write(folder)))
        taken.append(time.monotonic() - start)
        assert end == "done", said
    return sorted(taken)[2]


def judged(case: Case, folder: Path, end: str, said: str, what: str, dirty: bool, loose: bool, calls: Calls) -> Figures:
    """What is there after a trial, and after the next run, which nothing disturbs.

    dirty: temporary files may be there after the trial. loose: an error may come after the new output did.
    """
    figures = Figures(runs=1)
    there = tree(folder / case.output)
    if _lost(case, there):
        figures.lost += 1
    elif there not in (case.old, case.new):
        mixed = not calls.exchange and (end == KILLED or loose)
        figures.partial += not mixed
    elif end != KILLED:
        late = loose or DONE_BUT in said
        right = {"done": there == case.new, REFUSED: there == case.old or late}
        figures.wrong += not right.get(end, False)
    if temporaries(folder) and not dirty and end != KILLED:
        figures.leftovers += 1
    again, problem = ended(*forked(lambda: case.write(folder)))
    if again != "done" or tree(folder / case.output) != case.new:
        figures.wrong += 1
    if temporaries(folder):
        figures.leftovers += 1
    if figures.bad:
        figures.told.append(f"{what}: {end} {said!r}; then {again} {problem!r}; {figures}")
    return figures


def _lost(case: Case, there: dict[str, tuple[str, int]] | None) -> bool:
    """Whether something is gone or changed that both the old and the new output have."""
    kept = {name: node for name, node in (case.old or {}).items() if case.new.get(name) == node}
    return bool(case.old) and (there is None or not there.items() >= kept.items())


def every_call(case: Case, exchange: bool = True, quick: bool = False) -> Iterator[Calls]:
    """The trials of a case: each call × each error, a kill before it, a short write, and a disk that is gone for good.

    quick: one of the errors for each call, in turn, and of the writes only the first three and the last two.
    """
    names = recorded(case, exchange)
    for nth, name in enumerate(names):
        before, after = names[:nth].count(name), names[nth + 1 :].count(name)
        if quick and name in ("write", "pwrite") and before > 2 and after > 1:
            continue
        for fault in (ERRORS[nth % len(ERRORS)],) if quick else ERRORS:
            yield Calls(nth, fault, exchange=exchange)
        yield Calls(nth, KILL, exchange=exchange)
        if not quick or nth % 3 == 0:
            yield Calls(nth, errno.EIO, lasting=True, exchange=exchange)
        if name == "write":
            yield Calls(nth, SHORT, exchange=exchange)
