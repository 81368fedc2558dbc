"""Whatever fails while an output is written, and whenever a SIGKILL comes: the old output or the new one is there.

Each trial is a real conversion in a process of its own; `scripts/faults` runs many more of them.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.calls import Calls
from tests.faults.cases import OUTPUTS, Case, make_case
from tests.faults.trials import Figures, disturbed, duration, every_call, killed_at_random, recorded

CASES = [(name, over_old) for name in ("safetensors", "hf-sharded", "fairseq") for over_old in (False, True)]
KILLS = 10


def total(figures: list[Figures]) -> Figures:
    return sum(figures, Figures())


@pytest.mark.parametrize(("name", "over_old"), [("pt", True), *CASES])
def test_every_call_may_fail(name: str, over_old: bool, scratch: Path):
    """Each call once with one of the errors, in turn, and once with a SIGKILL before it."""
    case = make_case(name, over_old, scratch)
    figures = total([disturbed(case, scratch / "trial", calls) for calls in every_call(case, quick=True)])
    assert not figures.bad, figures.told
    assert figures.runs > 30


def test_every_call_may_fail_where_directories_can_not_be_swapped(scratch: Path):
    case = make_case("hf", True, scratch)
    trials = every_call(case, exchange=False, quick=True)
    figures = total([disturbed(case, scratch / "trial", calls) for calls in trials])
    assert not figures.bad, figures.told


@pytest.mark.parametrize(("name", "over_old"), CASES)
def test_a_kill_at_any_moment(name: str, over_old: bool, scratch: Path):
    case = make_case(name, over_old, scratch)
    chance, seconds = random.Random(name), duration(case, scratch / "trial")
    figures = total([killed_at_random(case, scratch / "trial", chance, seconds) for _ in range(KILLS)])
    assert not figures.bad, figures.told


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_calls_that_are_counted_are_those_that_are_made(name: str, scratch: Path):
    """None of the calls that change something is missing from the plan: each case makes the ones that it must."""
    new, over = (set(recorded(make_case(name, over_old, scratch))) for over_old in (False, True))
    assert new >= {"open", "posix_fallocate", "write", "fsync", "close", "flock"}
    if OUTPUTS[name].name == "out":
        assert new >= {"mkdir", "renameat2"}
        assert over >= {"mkdir", "rename", "link", "renameat2", "unlink", "chmod", "chown"}
    else:
        assert over >= {"replace"}


@pytest.mark.parametrize("name", ["pt", "hf-sharded"])
@pytest.mark.parametrize("over_old", [False, True])
def test_what_is_renamed_is_on_the_disk_and_then_the_folder_is(name: str, over_old: bool, scratch: Path):
    case = make_case(name, over_old, scratch)
    names = recorded(case)
    files = sum(kind not in ("folder",) and not kind.startswith("->") for kind, _ in case.new.values())
    own = files - 2 * (over_old and case.output == "out") + (name == "pt")  # not those of others; and the receipt
    at = names.index("replace" if name == "pt" else "renameat2")
    assert names[:at].count("posix_fallocate") == own
    assert names[:at].count("fsync") >= own + (case.output == "out")
    assert names[:at][::-1].index("fsync") < names[:at][::-1].index("write")
    assert "fsync" in names[at:]


def test_the_judge_sees_what_is_wrong(scratch: Path):
    """A judge that finds nothing would be no judge: here the conversion is replaced by ones that break each promise."""
    case = make_case("hf", True, scratch)
    folder = scratch / "trial"

    def spoiled(spoil: str) -> Figures:
        def write(self: Case, place: Path) -> None:
            output = place / case.output
            if spoil == "partial":
                (output / "config.json").write_text("half")
            elif spoil == "lost":
                (output / "notes.txt").unlink()
            elif spoil == "leftovers":
                Case.write(case, place)
                (place / ".ckptconv-1-0123456789ab").mkdir()
            # wrong: nothing is done, and nobody is told

        made = type("Spoiled", (Case,), {"write": write})(**vars(case))
        return disturbed(made, folder, Calls())

    for spoil in ("partial", "lost", "leftovers", "wrong"):
        assert getattr(spoiled(spoil), spoil), spoil
