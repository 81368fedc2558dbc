"""Every hostile config as the target of an audit: nothing is executed, and nothing takes long or much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.case import Case
from tests.attacks.configs import CASES
from tests.attacks.runs import Ended, Runner, command_lines, problems, whole_document


class Loaded:
    """A runner whose children have transformers, and what the harmless audit takes there."""

    def __init__(self, logs: Path, folder: Path) -> None:
        self.runner = Runner(logs, "transformers")
        self.spare = 0
        good = next(case for case in CASES if case.name == "configs/good")
        self.spare = max(ended.memory for ended in self.ended(good, folder))

    def ended(self, case: Case, folder: Path) -> Iterator[Ended]:
        """Every command line of the case."""
        place = folder / "case"
        place.mkdir()
        case.build(place)
        for number, line in enumerate(command_lines(case, str(place))):
            out = folder / f"out{number}"
            out.mkdir()
            argv = tuple(part.replace("{case}", str(place)) for part in line)
            yield self.runner.run(argv, out, [place, Path(argv[1])])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    made = Loaded(tmp_path_factory.mktemp("logs"), tmp_path_factory.mktemp("good"))
    yield made
    made.runner.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_config_ends_as_it_should(case: Case, loaded: Loaded, tmp_path: Path):
    found = []
    for ended in loaded.ended(case, tmp_path):
        if ended.exit == 2:  # a config that names no class
            ended = Ended(**{**vars(ended), "exit": 3})
        found += [f"{ended.argv}: {told}" for told in (*problems(case, ended, loaded.spare), *whole_document(ended))]
        found += [f"{ended.argv}: code was executed"] if (tmp_path / "case" / "__pycache__").exists() else []
    assert not found, "\n".join([case.wrong, *found])


def test_no_two_cases_have_one_name():
    assert [name for name, times in Counter(case.name for case in CASES).items() if times > 1] == []
    assert len(CASES) >= 300


def test_the_harness_sees_memory_and_code(loaded: Loaded, tmp_path: Path):
    """As beside the plain harness: a careless audit is seen."""
    case = next(case for case in CASES if case.name == "configs/good")
    path = tmp_path / "x"
    path.write_bytes(b"x")
    ended = loaded.runner.run(("audit", str(path)), tmp_path, [tmp_path], unsafe="memory")
    assert any("MiB" in told for told in problems(case, ended, loaded.spare))
    ended = loaded.runner.run(("audit", str(path)), tmp_path, [tmp_path], unsafe="read")
    assert ended.exit == 99
