"""inspect: the JSON contract, CSV and Markdown that parse back, possible ties, and safe cells."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from ckptconv.cli import main
from ckptconv.commands.inspect import inspect
from ckptconv.report.as_json import inspection
from ckptconv.report.as_table import tensors_csv, tensors_markdown, tree_markdown
from tests.commands.conftest import FINETUNED, GOLDEN

CHECKPOINTS = [FINETUNED, *sorted(GOLDEN.glob("*deltalm_f*.pt")), *sorted(GOLDEN.glob("hf_*.bin"))]
CHECKPOINTS += sorted(GOLDEN.glob("*.safetensors"))
NASTY = ["=1+1", "+x", "-x", "@SUM(A1)", "a|b", "a\\|b", "`x`", "<script>", 'q"u,o', "\x1b[31m\r\nkey\u202e", "k" * 300]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["inspect", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def cells(line: str) -> list[str]:
    """A Markdown table row, split at the bars that no backslash escapes."""
    return [cell.strip() for cell in re.findall(r"((?:\\.|[^|\\])*)\|", line.removeprefix("|"))]


@pytest.fixture(params=CHECKPOINTS, ids=lambda path: path.name)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def nasty(tmp_path: Path) -> Path:
    shared = torch.ones(2, 3)
    torch.save({key: shared if key == "a|b" else torch.ones(2, 3) for key in NASTY} | {"-t": shared}, tmp_path / "x.pt")
    return tmp_path / "x.pt"


def test_json_has_the_fields_that_others_rely_on(checkpoint: Path):
    found = json.loads(run(checkpoint, "--json"))
    assert {"path", "container", "family", "layout", "dims", "parameters", "bytes", "tensors", "other"} <= set(found)
    assert set(found["parameters"]) == {"unique", "stored"}
    for each in found["tensors"]:
        assert set(each) == {"key", "shape", "dtype", "bytes", "tied_to"}
    for each in found["other"]:
        assert set(each) == {"name", "kind", "tensors", "bytes"}
    assert found["path"] == str(checkpoint)


def test_json_of_a_known_file():
    found = inspection(inspect(FINETUNED))
    assert (found["container"], found["family"], found["layout"]) == ("torch zip", "deltalm", "deltalm/fairseq")
    state = torch.load(FINETUNED / "checkpoint_best.pt", weights_only=False)["model"]
    assert [(each["key"], each["shape"]) for each in found["tensors"]] == [
        (k, tuple(t.shape)) for k, t in state.items()
    ]
    unique = {tensor.data_ptr(): tensor.numel() for tensor in state.values()}
    assert found["parameters"] == {
        "unique": sum(unique.values()),
        "stored": sum(tensor.numel() for tensor in state.values()),
    }
    assert found["bytes"] == 4 * sum(unique.values())


def test_csv_parses_back(checkpoint: Path):
    rows = list(csv.DictReader(io.StringIO(run(checkpoint, "--csv"))))
    found = [
        (row["key"], tuple(map(int, filter(None, row["shape"].split("x")))), row["dtype"], int(row["bytes"]))
        for row in rows
    ]
    expected = inspect(checkpoint).tensors
    assert found == [(info.key, info.shape, info.dtype, info.bytes) for info in expected]
    assert [row["tied_to"] or None for row in rows] == [info.tied_to for info in expected]


def test_csv_cells_are_no_formulas_and_no_control_characters(nasty: Path):
    text = run(nasty, "--csv")
    rows = list(csv.reader(io.StringIO(text)))[1:]
    assert [row[0] for row in rows[:4]] == ["'=1+1", "'+x", "'-x", "'@SUM(A1)"]
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert rows[8][0] == 'q"u,o'
    assert rows[10][0] == "k" * 300
    assert rows[-1] == ["'-t", "2x3", "F32", "24", "a|b"]


def test_markdown_tables_parse_back(checkpoint: Path):
    report = inspect(checkpoint)
    rows = [cells(line) for line in tensors_markdown(report).splitlines() if line.startswith("| `")]
    found = [(key.strip("`"), shape, dtype) for key, shape, dtype, *_ in rows[: len(report.tensors)]]
    shapes = [" × ".join(map(str, info.shape)) or "scalar" for info in report.tensors]
    assert found == [(info.key, shape, info.dtype) for info, shape in zip(report.tensors, shapes, strict=True)]
    assert all(len(row) == 5 for row in rows[: len(report.tensors)])


def test_markdown_begins_with_a_heading_the_facts_and_the_tree():
    text = run(FINETUNED, "--markdown", "--depth", 2)
    lines = text.splitlines()
    assert lines[0] == f"# `{FINETUNED}`"
    assert {"- layout: deltalm/fairseq, under `model`", "- parameters: 286,658"} <= set(lines)
    assert "| &emsp;`layers.{0..3}` 4 × | 133,888 |  |" in lines
    assert "| `last_optimizer_state` | `2 entries` | 270 tensors, 2.29 MB |" in lines
    assert text == tree_markdown(inspect(FINETUNED), 2)


def test_markdown_cells_stay_cells(nasty: Path):
    report = inspect(nasty)
    text = tensors_markdown(report)
    rows = [cells(line) for line in text.splitlines() if line.startswith("| `")]
    assert [len(row) for row in rows] == [5] * len(report.tensors)
    assert [rows[4][0], rows[5][0], rows[6][0]] == ["`a\\|b`", "`a\\\\\\|b`", "`` `x` ``"]
    assert "`<script>`" in text
    assert all(character.isprintable() or character == "\n" for character in text)
    assert all(character.isprintable() or character == "\n" for character in tree_markdown(report, None))


@pytest.mark.parametrize("forms", [["--json", "--csv"], ["--csv", "--markdown"], ["--json", "--csv", "--markdown"]])
def test_one_form_at_a_time(forms: list[str]):
    result = CliRunner().invoke(main, ["inspect", str(FINETUNED), *forms])
    assert result.exit_code == 2
    assert "--json, --csv and --markdown" in result.output


def possible(path: Path) -> list[str]:
    return [note for note in inspect(path).notes if "could be tied" in note]


def test_keys_that_may_hold_equal_bytes_are_told_and_not_compared():
    assert possible(GOLDEN / "deltalm_finetuned_untied.pt") == [
        "decoder.embed_tokens.weight and 1 more could be tied to encoder.embed_tokens.weight (same shape, other "
        "storage): inspect doesn't compare values, convert does"
    ]


@pytest.mark.parametrize(
    "path", [FINETUNED, GOLDEN / "deltalm_finetuned_share_all.pt", GOLDEN / "hf_xlmr_mlm_transformers-4.30.2.bin"]
)
def test_keys_that_share_their_storage_are_no_possible_ties(path: Path):
    assert possible(path) == []


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda key, tensor: tensor.clone(), 2),
        (lambda key, tensor: None if key.startswith("decoder.") else tensor.clone(), 0),
        (lambda key, tensor: tensor[: 100 if key.startswith("decoder.e") else 90].clone(), 1),
        (lambda key, tensor: tensor.clone().to(torch.float16 if key.startswith("decoder.e") else torch.float32), 1),
    ],
    ids=["copies", "absent", "another shape", "another dtype"],
)
def test_possible_ties_in_safetensors(change, count: int, tmp_path: Path):
    """Safetensors holds no shared storage: keys that are absent, of another shape or dtype, are no possible ties."""
    state = torch.load(FINETUNED / "checkpoint_best.pt", weights_only=False)["model"]
    embeddings = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight"}
    changed = {key: change(key, tensor) if key in embeddings else tensor.clone() for key, tensor in state.items()}
    save_file({key: tensor for key, tensor in changed.items() if tensor is not None}, tmp_path / "x.safetensors")
    notes = possible(tmp_path / "x.safetensors")
    assert [("and 1 more" in note) + 1 for note in notes] == ([count] if count else [])


def test_our_own_note_on_ties_is_no_metadata(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(3)}, path, metadata={"ckptconv.tied": json.dumps({"b": "a"}), "format": "pt"})
    found = inspect(path)
    assert found.metadata == {"format": "pt"}
    assert [(info.key, info.tied_to) for info in found.tensors] == [("a", None), ("b", "a")]


def test_names_are_safe_in_every_form(nasty: Path):
    for form in ([], ["--tensors"], ["--json"], ["--csv"], ["--markdown"], ["--markdown", "--tensors"]):
        assert not set(run(nasty, *form)) & set("\x1b\r\u202e")
    assert tensors_csv(inspect(nasty)) == run(nasty, "--csv")
