"""inspect --stats: the values of real checkpoints as torch sees them, in every form; NaN and Inf; damaged files."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ckptconv.cli import main
from ckptconv.commands.inspect import inspect
from tests.commands.conftest import FINETUNED
from tests.commands.test_inspect import cells, run


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """Values that are no finite numbers, and none at all."""
    state = {
        "none.weight": torch.empty(0, 4),
        "nan.weight": torch.tensor([1.0, math.nan, 3.0]),
        "inf.weight": torch.tensor([1.0, math.inf, -math.inf]).half(),
        "imaginary.weight": torch.randn(3, dtype=torch.complex64),
        "bad\x1b[31m": torch.zeros(2),
        "norm.weight": torch.ones(2),
    }
    torch.save(state, tmp_path / "strange.pt")
    return tmp_path / "strange.pt"


@pytest.mark.parametrize("form", ["screen", "json", "csv", "markdown"])
def test_statistics_agree_with_torch_in_every_form(form: str):
    state = torch.load(FINETUNED / "checkpoint_best.pt", weights_only=False)["model"]
    text = run(FINETUNED, "--stats", *([] if form == "screen" else [f"--{form}"]))
    if form == "json":
        rows = {each["key"]: each["stats"] for each in json.loads(text)["tensors"]}
    elif form == "csv":
        rows = {row["key"]: row for row in csv.DictReader(io.StringIO(text))}
    elif form == "markdown":
        names = ("key", "shape", "dtype", "size", "tied to", "min", "max", "mean", "std", "zeros", "nan", "inf")
        found = [cells(line) for line in text.splitlines() if line.startswith("| `")]
        rows = {row[0].strip("`"): dict(zip(names, row, strict=True)) for row in found if len(row) == len(names)}
    else:
        lines = text.splitlines()
        starts = {line.split("  ")[0].split(" = ")[0]: lines[at + 1] for at, line in enumerate(lines[:-1])}
        rows = {key: dict(re.findall(r"(min|max|mean|std) +(\S+)", starts[key])) for key in state}
    assert set(rows) == set(state)
    close = 1e-9 if form in ("json", "csv") else 6e-4
    for key, tensor in state.items():
        wide = tensor.double()
        expected = {"min": wide.min(), "max": wide.max(), "mean": wide.mean(), "std": wide.std(correction=0)}
        for name, value in expected.items():
            assert math.isclose(float(rows[key][name]), value.item(), rel_tol=close, abs_tol=1e-15), (key, name)


def test_statistics_of_what_is_strange(strange: Path):
    found = {each["key"]: each["stats"] for each in json.loads(run(strange, "--stats", "--json"))["tensors"]}
    assert (found["nan.weight"]["nan"], found["nan.weight"]["max"]) == (1, 3)
    assert (found["inf.weight"]["inf"], found["inf.weight"]["mean"]) == (2, 1)
    assert found["none.weight"]["count"] == 0
    assert (found["imaginary.weight"]["mean"], found["imaginary.weight"]["unsupported"]) == (
        None,
        "complex numbers have no order",
    )
    assert found["bad\x1b[31m"]["zeros"] == 2
    assert {"NaN in nan.weight", "Inf in inf.weight"} <= set(inspect(strange, stats=True).notes)
    lines = run(strange, "--stats").splitlines()
    assert any(line.endswith("zeros 0%  1 NaN") for line in lines)
    assert any(line.endswith("zeros 0%  2 Inf") for line in lines)
    assert {"    empty", "    complex numbers have no order"} <= set(lines)


def test_without_stats_nothing_is_read_and_none_are_shown(strange: Path):
    assert all(info.stats is None for info in inspect(strange).tensors)
    assert run(strange, "--csv").splitlines()[0] == "key,shape,dtype,bytes,tied_to,contiguous"


def test_a_tied_tensor_is_read_once_and_progress_ends_at_the_whole():
    calls: list[tuple[int, int]] = []
    found = inspect(FINETUNED, stats=True, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (found.bytes, found.bytes)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    by_key = {info.key: info.stats for info in found.tensors}
    assert all(info.stats == by_key[info.tied_to] for info in found.tensors if info.tied_to)


def test_stats_of_a_match_reads_no_more(strange: Path):
    calls: list[tuple[int, int]] = []
    inspect(strange, match="n*", stats=True, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (12 + 8, 20)


def test_stats_of_a_damaged_file_is_one_sentence(tmp_path: Path):
    data = bytearray((FINETUNED / "checkpoint_best.pt").read_bytes())
    at = data.index(
        torch.load(FINETUNED / "checkpoint_best.pt", weights_only=False)["model"]["encoder.layers.0.fc1.weight"]
        .numpy()
        .tobytes()[:64]
    )
    data[at] ^= 1
    (tmp_path / "x.pt").write_bytes(data)
    assert run(tmp_path / "x.pt")
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "x.pt"), "--stats"])
    assert result.exit_code == 3
    assert "is damaged" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.output


def test_stats_of_a_tensor_that_is_far_larger_than_its_file_are_refused(tmp_path: Path):
    torch.save({"a": torch.ones(1).expand(1 << 20, 1 << 20)}, tmp_path / "x.pt")
    assert run(tmp_path / "x.pt")
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "x.pt"), "--stats"])
    assert (result.exit_code, "refused as unsafe" in result.stderr) == (3, True)


def test_stats_of_strided_tensors_are_those_of_their_values(tmp_path: Path):
    big = torch.randn(40, 60)
    torch.save({"turned": big.t(), "columns": big[:, ::7], "one": big[3, 5]}, tmp_path / "x.pt")
    for info in inspect(tmp_path / "x.pt", stats=True).tensors:
        view = {"turned": big, "columns": big[:, ::7], "one": big[3, 5]}[info.key].double()
        assert info.stats
        assert math.isclose(info.stats.mean or 0.0, view.mean().item(), rel_tol=1e-9, abs_tol=1e-12)
        assert info.stats.count == view.numel()
