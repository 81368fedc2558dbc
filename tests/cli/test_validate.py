"""`ckptconv validate`: exit codes, the three forms of the report, and text from files that stays text."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ckptconv.cli import main
from tests.commands.conftest import FINETUNED, NUMBERS


def invoke(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["validate", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    torch.save({"\x1b[31mred|<b>\n": torch.tensor([float("nan")]), "b": torch.ones(1)}, tmp_path / "h.pt")
    return tmp_path / "h.pt"


def test_exit_codes(tmp_path: Path, hostile: Path):
    assert invoke(FINETUNED)[0] == 0
    assert invoke(NUMBERS / "pretrained.pt")[0] == 0
    assert invoke(NUMBERS / "pretrained.pt", "--strict")[0] == 1
    assert invoke(hostile)[0] == 1
    assert invoke(FINETUNED, "--json", "--csv")[0] == 2
    assert invoke(FINETUNED, "--num-labels", "0")[0] == 2
    assert invoke(tmp_path / "nowhere.pt")[0] == 3
    assert invoke(FINETUNED, "--against", tmp_path / "nowhere")[0] == 3
    assert invoke(FINETUNED, "--dict", tmp_path / "dict.txt")[0] == 3


def test_json_has_the_fields_that_others_rely_on():
    code, out, _ = invoke(NUMBERS / "pretrained.pt", "--json")
    document = json.loads(out)
    assert (code, document["verdict"], document["layout"]) == (0, "ready_with_warnings", "deltalm/pretrained")
    assert all(set(each) == {"severity", "code", "message", "hint"} for each in document["findings"])
    assert [each["severity"] for each in document["findings"]] == ["warning", "info"]
    error = json.loads(invoke(FINETUNED, "--tokenizer", "nowhere", "--json")[1])["error"]
    assert error["kind"] == "vocabulary_mismatch"


def test_the_worst_comes_first_and_the_verdict_last():
    _, out, _ = invoke(NUMBERS / "pretrained.pt", "--max-positions", "512")
    words = [line.split(" ")[0] for line in out.splitlines() if line[:1].strip()]
    assert [word for word in words if word in ("error", "warning", "info")] == ["error", "error", "warning", "info"]
    assert out.rstrip().endswith("not ready: the errors above come first")


def test_names_from_the_file_stay_text(hostile: Path):
    for form in ([], ["--json"], ["--csv"], ["--markdown"]):
        _, out, err = invoke(hostile, *form)
        assert "\x1b" not in out + err
        assert "NAN_VALUES" in out
    rows = list(csv.DictReader(io.StringIO(invoke(hostile, "--csv")[1])))
    assert rows[0]["code"] == "NAN_VALUES"
    assert "&#124;\\<b\\>" in invoke(hostile, "--markdown")[1]
