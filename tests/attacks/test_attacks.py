"""Every attack through every command: it ends as the manifest says, within the limits, and nothing else happens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.attacks.archives import legacy, torch_zip
from tests.attacks.case import Case
from tests.attacks.manifest import CASES, write
from tests.attacks.opcodes import call, mapping, name, pickled, tensor, text
from tests.attacks.runs import Ended, Runner, command_lines, problems, whole_document
from tests.containers.oracle import assert_equal_tensors


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    made = Runner(tmp_path_factory.mktemp("logs"))
    yield made
    made.close()


def carried_out(case: Case, runner: Runner, folder: Path) -> Iterator[tuple[Ended, Path]]:
    """Every command of the case, and the folder where its output is."""
    place = folder / "case"
    place.mkdir()
    case.build(place)
    before = listing(place)
    for number, line in enumerate(command_lines(case, str(place / case.source))):
        out = folder / f"out{number}"
        out.mkdir()
        argv = tuple(part.replace("{out}", str(out)).replace("{case}", str(place)) for part in line)
        yield runner.run(argv, out, [place]), out
        assert listing(place) == before, argv


def listing(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((path.name, path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_attack_ends_as_the_manifest_says(case: Case, runner: Runner, tmp_path: Path):
    found = []
    for ended, out in carried_out(case, runner, tmp_path):
        found += [f"{' '.join(ended.argv)}: {told}" for told in (*problems(case, ended), *whole_document(ended))]
        if case.truth and ended.argv[0] == "convert" and ended.exit == 0:
            check_values(case, tmp_path / "case" / case.source, out)
    assert not found, "\n".join([case.wrong, *found])


def check_values(case: Case, source: Path, out: Path) -> None:
    """The output holds what torch or safetensors reads of the source."""
    for path in out.rglob("x*.safetensors"):
        truth = load_file(source) if case.truth == "safetensors" else torch.load(source, weights_only=False)
        tensors = {key: value for key, value in truth.items() if isinstance(value, torch.Tensor)}
        assert_equal_tensors(load_file(path), tensors)


def test_there_are_enough_cases_and_no_two_of_one_name():
    assert [name for name, times in Counter(case.name for case in CASES).items() if times > 1] == []
    assert sum(case.must != "read" for case in CASES) >= 300
    assert sum(case.must == "read" for case in CASES) >= 40


def test_the_corpus_can_be_written(tmp_path: Path):
    write(tmp_path / "corpus")
    assert len(list((tmp_path / "corpus").rglob("*"))) > len(CASES)


@pytest.mark.parametrize(
    ("unsafe", "told"),
    [
        ("pickle", "expected one of"),
        ("read", "expected one of"),
        ("import", "expected one of"),
        ("control", "raw character"),
        ("memory", "MiB"),
        ("litter", "left"),
    ],
)
def test_the_harness_sees_a_careless_reader(unsafe: str, told: str, runner: Runner, tmp_path: Path):
    """One that unpickles, opens another file, prints control characters, takes memory, imports, leaves files."""
    case = next(case for case in CASES if case.name == "execution/route-00-legacy")
    (tmp_path / "case").mkdir()
    (tmp_path / "out").mkdir()
    path = tmp_path / "case" / "x.pt"
    path.write_bytes(pickled(call(name("os", "system"), text("touch canary"))))
    ended = runner.run(("inspect", "--json", str(path)), tmp_path / "out", [tmp_path / "case"], unsafe=unsafe)
    assert any(told in problem for problem in problems(case, ended))


def test_the_harness_sees_a_hang(runner: Runner, tmp_path: Path):
    (tmp_path / "x").touch()
    argv = ("inspect", "--json", str(tmp_path / "x"))
    ended = runner.run(argv, tmp_path, [tmp_path], unsafe="hang", seconds=0.5)
    assert ended.timed_out


UNKNOWN = call(name("mine.tools", "make"), text("touch canary"))
TENSORS = ("a", tensor()), ("b", tensor((2, 2), (1, 2)))
OPTION = ("--allow-unknown", "--json")


def unknown_lines(path: Path) -> tuple[tuple[str, ...], ...]:
    """Every command with the option."""
    return (
        ("inspect", str(path), *OPTION),
        ("convert", str(path), "x.safetensors", "--to", "same", *OPTION),
        ("diff", str(path), str(path), "--values", *OPTION),
        ("audit", str(path), "--against", str(path), *OPTION),
        ("validate", str(path), *OPTION),
    )


@pytest.mark.parametrize("file", [torch_zip, legacy])
def test_functions_of_other_packages_are_read_as_records_on_request(file: Any, runner: Runner, tmp_path: Path):
    """Nothing is called; the tensors are there, and the function is named."""
    (tmp_path / "x.pt").write_bytes(file(pickled(mapping(*TENSORS, ("made", UNKNOWN)))))
    assert runner.run(("inspect", str(tmp_path / "x.pt")), tmp_path, []).exit == 3
    (tmp_path / "x.pt").write_bytes(file(pickled(mapping(("model", mapping(*TENSORS)), ("made", UNKNOWN)))))
    for number, line in enumerate(unknown_lines(tmp_path / "x.pt")):
        out = tmp_path / f"out{number}"
        out.mkdir()
        ended = runner.run(line, out, [tmp_path])
        assert ended.exit == 0 or line[0] == "validate", ended
        assert "canary" not in ended.left
        if line[0] in ("inspect", "convert", "diff", "audit"):
            assert "names functions of other packages" in ended.out
            assert "mine.tools.make" in ended.out


@pytest.mark.parametrize("file", [torch_zip, legacy])
def test_an_unknown_function_in_place_of_a_tensor_is_unsupported(file: Any, runner: Runner, tmp_path: Path):
    (tmp_path / "x.pt").write_bytes(file(pickled(mapping(*TENSORS, ("made.weight", UNKNOWN)))))
    for line in unknown_lines(tmp_path / "x.pt"):
        ended = runner.run(line, tmp_path, [])
        assert ended.exit == 3
        error = json.loads(ended.out)["error"]
        assert error["kind"] == "unsupported"
        assert "made.weight is what mine.tools.make returns" in error["message"]


@pytest.mark.parametrize("full", ["os.system", "torch.load", "numpy.load", "builtins.eval", "subprocess.Popen"])
def test_no_option_allows_the_names_of_python_torch_and_numpy(full: str, runner: Runner, tmp_path: Path):
    body = call(name(*full.rsplit(".", 1)), text("touch canary"))
    (tmp_path / "x.pt").write_bytes(torch_zip(pickled(mapping(*TENSORS, ("made", body)))))
    for line in unknown_lines(tmp_path / "x.pt"):
        ended = runner.run(line, tmp_path, [])
        assert ended.exit == 3
        assert json.loads(ended.out)["error"]["kind"] == "unsafe"
