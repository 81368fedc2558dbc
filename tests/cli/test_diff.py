"""`ckptconv diff`: exit codes, the JSON contract, CSV and Markdown that parse back, screens of 80 and 120 columns."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console
from safetensors.torch import save_file

from ckptconv.cli import main
from ckptconv.commands.diff import diff
from ckptconv.report.diff import markdown, screen, verdict
from tests.commands.conftest import FINETUNED, GOLDEN, NUMBERS, run

NASTY = ["=1+1", "+x", "a|b", "`x`", "<script>", 'q"u,o', "\x1b[31m\r\nkey\u202e", "[bold]", "k" * 300]
NUMBERED = ("max_abs", "max_rel", "cosine", "rel_l2", "changed")


def invoke(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["diff", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def printed(a: Path, b: Path, width: int = 160, terminal: bool = False, **options) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=terminal, color_system="standard" if terminal else None).print(
        screen(diff(a, b, **options)), crop=False
    )
    return out.getvalue()


def words(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two files with a difference of every kind: A under `module.` with other entries, B in safetensors."""
    folder = tmp_path_factory.mktemp("two")
    torch.manual_seed(0)
    names = [f"encoder.layer.{i}.attention.self.{n}.weight" for i in range(12) for n in ("query", "key", "value")]
    a = {name: torch.randn(8, 8) for name in names}
    a |= {"emb.weight": torch.randn(20, 8), "cls.weight": torch.randn(9, 8), "old.bias": torch.randn(3)}
    a |= {"odd.w": torch.tensor([1.0, float("nan"), float("inf")]), "count": torch.tensor([2**60, 5])}
    a |= {"zero.w": torch.zeros(4)}
    b = {key: tensor.clone() for key, tensor in a.items() if key != "old.bias"} | {"new.x": torch.randn(2)}
    b |= {"cls.weight": torch.randn(7, 8), "odd.w": torch.tensor([1.0, 2.0, -float("inf")])}
    b |= {"count": torch.tensor([2**60 + 1, 5]), "emb.weight": b["emb.weight"].bfloat16(), "zero.w": -torch.zeros(4)}
    b["encoder.layer.7.attention.self.query.weight"] *= 1.01
    for i in range(12):
        b[f"encoder.layer.{i}.attn.key"] = b.pop(f"encoder.layer.{i}.attention.self.key.weight")
    torch.save({"model": {f"module.{key}": tensor for key, tensor in a.items()}, "epoch": 3}, folder / "a.pt")
    save_file(b, folder / "b.safetensors")
    return folder / "a.pt", folder / "b.safetensors"


@pytest.fixture
def nasty(tmp_path: Path) -> tuple[Path, Path]:
    torch.save({key: torch.ones(2, 3) for key in NASTY}, tmp_path / "a.pt")
    torch.save({key: torch.zeros(2, 3) for key in NASTY[1:]} | {"new\x1b]0;x\x07": torch.ones(4)}, tmp_path / "b.pt")
    return tmp_path / "a.pt", tmp_path / "b.pt"


# ------------------------------------------------------------------------------------------------------ exit codes
def test_exit_codes(two: tuple[Path, Path], hf_copy: Path, tmp_path: Path):
    assert invoke(FINETUNED, hf_copy).exit_code == 0
    assert invoke(FINETUNED, hf_copy, "--values").exit_code == 0
    assert invoke(*two).exit_code == 1
    assert invoke(FINETUNED, NUMBERS / "pretrained_in_fairseq.pt").exit_code == 0
    assert invoke(FINETUNED, NUMBERS / "pretrained_in_fairseq.pt", "--values").exit_code == 1
    assert invoke(FINETUNED).exit_code == 2
    assert invoke(*two, "--atol", "1e-3").exit_code == 2
    assert invoke(*two, "--values", "--atol", "nan").exit_code == 2
    assert invoke(*two, "--json", "--csv").exit_code == 2
    assert invoke(FINETUNED, tmp_path / "nope.pt").exit_code == 3
    assert invoke(*two, "--table", tmp_path / "nope.tbl").exit_code in (2, 3)


@pytest.mark.parametrize("broken", [0, 1])
def test_unreadable_input_is_one_sentence_or_one_document(broken: int, tmp_path: Path):
    data = (FINETUNED / "checkpoint_best.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    files = [FINETUNED, FINETUNED]
    files[broken] = tmp_path / "cut.pt"
    result = invoke(*files)
    assert result.exit_code == 3
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "cut.pt" in result.stderr
    error = json.loads(invoke(*files, "--json").stdout)["error"]
    assert (error["kind"], error["path"]) == ("damaged", str(tmp_path / "cut.pt"))


# -------------------------------------------------------------------------------------------------- JSON, CSV, Markdown
def test_json_has_the_fields_that_others_rely_on(two: tuple[Path, Path]):
    result = invoke(*two, "--values", "--json")
    found = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (result.exit_code, result.stderr) == (1, "")
    assert {"new.x", "encoder.layer.3.attn.key"} <= set(found["added"])
    assert {"module.old.bias", "module.encoder.layer.3.attention.self.key.weight"} <= set(found["removed"])
    assert found["shape_changed"] == [{"key": "cls.weight", "a": [9, 8], "b": [7, 8]}]
    assert found["dtype_changed"] == [{"key": "emb.weight", "a": "F32", "b": "BF16"}]
    assert found["values"] == {"equal": 23, "close": 0, "differ": 5}
    assert len(found["renamed"]) == 12
    tensors = {each["key"]: each for each in found["tensors"]}
    assert tensors["count"]["max_abs"] == 1
    assert (tensors["odd.w"]["nan_mismatches"], tensors["odd.w"]["inf_mismatches"]) == (1, 1)
    assert (tensors["emb.weight"]["compared_as"], tensors["emb.weight"]["rounded_to"]) == ("F32", "BF16")
    assert tensors["cls.weight"]["status"] is None
    moved = tensors["encoder.layer.7.attention.self.query.weight"]
    assert moved["rel_l2"] == pytest.approx(0.01, rel=1e-4)
    assert (moved["status"], moved["changed"], moved["cosine"]) == ("differ", 64, pytest.approx(1.0))
    assert (found["a"]["entry"], found["b"]["layout"], found["different"]) == ("model", None, True)
    assert found["layers"][0]["name"] == "odd"


def test_json_without_values(two: tuple[Path, Path]):
    found = json.loads(invoke(*two, "--json").stdout)
    assert found["values"] == {"equal": None, "close": None, "differ": None}
    assert {each["status"] for each in found["tensors"]} == {None}
    assert (found["layers"], found["renamed"], found["tolerance"]) == ([], [], None)


def test_json_says_null_for_what_it_cannot_say(tmp_path: Path):
    huge = torch.tensor([1.7e308, 1.0], dtype=torch.float64)
    torch.save({"w": huge}, tmp_path / "a.pt")
    torch.save({"w": -huge}, tmp_path / "b.pt")
    text = invoke(tmp_path / "a.pt", tmp_path / "b.pt", "--values", "--json").stdout
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (found["tensors"][0]["max_abs"], found["tensors"][0]["max_rel"]) == (None, 2.0)


def test_json_of_a_conversion(hf_copy: Path):
    found = json.loads(invoke(FINETUNED, hf_copy, "--values", "--json").stdout)
    assert (found["a"]["layout"], found["b"]["layout"], found["different"]) == ("deltalm/fairseq", "deltalm/hf", False)
    assert {(each["key"], each["only_in"]) for each in found["explained"]} == {
        ("encoder.version", "a"),
        ("decoder.version", "a"),
    }
    (pair,) = [each for each in found["tensors"] if each["key"] == "model.decoder.layers.1.fc3.weight"]
    assert (pair["a"], pair["b"]) == (["decoder.layers.1.fc3.weight"], ["model.decoder.layers.1.fc3.weight"])


def test_csv_parses_back(two: tuple[Path, Path]):
    report = diff(*two, values=True)
    rows = list(csv.DictReader(io.StringIO(invoke(*two, "--values", "--csv").stdout)))
    by_status: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_status.setdefault(row["status"], []).append(row)
    counts = {status: len(found) for status, found in by_status.items()}
    assert counts == {"equal": 23, "differ": 5, "shape": 1, "renamed": 12, "added": 1, "removed": 1}
    (shape,) = by_status["shape"]
    assert (shape["key"], shape["shape_a"], shape["shape_b"], shape["max_abs"]) == ("cls.weight", "9x8", "7x8", "")
    assert by_status["added"][0]["b"] == "new.x"
    pairs = {pair.key: pair.comparison for pair in report.pairs}
    for row in by_status["differ"]:
        found = pairs[row["key"]]
        expected = (found.max_abs, found.max_rel, found.cosine, found.relative, found.changed)
        assert [row[name] for name in NUMBERED] == ["" if each is None else str(each) for each in expected]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.findall(r"((?:\\.|[^|\\])*)\|", line.removeprefix("|"))]


def test_markdown(two: tuple[Path, Path]):
    text = invoke(*two, "--values", "--markdown").stdout
    lines = text.splitlines()
    assert lines[0] == f"# `{two[0]}` → `{two[1]}`"
    assert lines[2] == f"**{verdict(diff(*two, values=True))}**"
    rows = [cells(line) for line in lines if line.startswith("|")]
    assert rows[0] == ["layer", "moved", "L2 of the change over that of A"]
    (layer,) = [row for row in rows if row[0] == "`encoder.layer.7`"]
    assert layer[1] == "1 of 2"
    assert layer[2].endswith(" %")
    assert "- only in B, 1: `new.x`" in lines


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"], ["--markdown"]])
@pytest.mark.parametrize("values", [[], ["--values"]])
def test_names_are_safe_in_every_form(form: list[str], values: list[str], nasty: tuple[Path, Path]):
    for files in (nasty, nasty[::-1]):
        text = invoke(*files, *form, *values).stdout
        assert all(character.isprintable() or character == "\n" for character in text)
        assert "[bold]" in text or (not values and form in ([], ["--markdown"]))  # there, only what differs


def test_csv_cells_are_no_formulas(nasty: tuple[Path, Path]):
    rows = list(csv.reader(io.StringIO(invoke(*nasty, "--csv").stdout)))
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row)
    assert any(row[0] == "'=1+1" for row in rows)


def test_markdown_cells_stay_cells(nasty: tuple[Path, Path]):
    text = markdown(diff(*nasty, values=True))
    rows = [cells(line) for line in text.splitlines() if line.startswith("| `")]
    assert {len(row) for row in rows} == {3, 7}
    assert "`a\\|b`" in [row[0] for row in rows]


# ---------------------------------------------------------------------------------------------------------- screens
@pytest.mark.parametrize("width", [80, 120, 160])
@pytest.mark.parametrize("values", [False, True])
def test_screens_fit_and_keys_are_whole(two: tuple[Path, Path], width: int, values: bool):
    text = printed(*two, width=width, values=values)
    assert max(map(len, text.splitlines())) <= width
    assert "module.encoder.layer.{0..11}.attention.self.key.weight" in text
    if values:
        assert "encoder.layer.7.attention.self.query.weight" in text
    narrow = words(printed(*two, width=80, values=True))
    assert any(line.startswith("change 1 % max abs ") for line in narrow)


def test_the_screen_says_everything(two: tuple[Path, Path]):
    lines = words(printed(*two, values=True))
    for expected in (
        "different: 1 key in A only, 1 key in B only, 12 keys renamed, 1 of another shape, 1 of another dtype, "
        "1 rounded, 4 with other values",
        "only in A 1 module.old.bias",
        "only in B 1 new.x",
        "renamed 12 equal bytes under another key",
        "module.encoder.layer.{0..11}.attention.self.key.weight → encoder.layer.{0..11}.attn.key",
        "shape 1 9 × 8 → 7 × 8",
        "dtype 1 F32 → BF16: compared as F32; all equal bit for bit once rounded to BF16",
        "equal 23 bit for bit",
        "differ 5 1 of them only by rounding",
        "odd 1 of 1 NaN ████████████████ 1 NaN on one side only, 1 infinite and different",
        "note: all keys of A begin with `module.`: compared without it",
        "note: A: not compared, since they are no part of the state dict: epoch",
    ):
        assert expected in lines
    assert any(
        line.startswith("unchanged, but for rounding: encoder.layer.{0,1,2,3,4,5,6,8,9,10,11}") for line in lines
    )
    assert any(
        line.startswith("zero.w") and line.endswith("only in the signs of zeros or the bits of NaN") for line in lines
    )


def test_without_values_the_screen_says_so(two: tuple[Path, Path]):
    lines = words(printed(*two))
    assert "same 27 key, shape and dtype; values were not compared" in lines
    assert not any("what moved" in line for line in lines)
    text = printed(FINETUNED, FINETUNED)
    assert "no difference in keys, shapes and dtypes; values were not compared (--values)" in text


def test_the_verdict_stands_out_on_a_terminal(two: tuple[Path, Path]):
    assert "\x1b[1;31mdifferent: " in printed(*two, terminal=True)
    assert "\x1b[1;32mno difference: 139 tensors equal, bit for bit" in printed(
        FINETUNED, FINETUNED, terminal=True, values=True
    )
    assert "\x1b" not in invoke(*two).stdout


def test_a_conversion_on_the_screen(hf_copy: Path):
    lines = words(invoke(FINETUNED, hf_copy, "--values").stdout)
    assert "explained 2 in A only: a constant that deltalm/hf lacks" in lines
    assert "note: A is seen as deltalm/hf" in lines


def test_close_and_ignored_on_the_screen(two: tuple[Path, Path]):
    lines = words(printed(*two, values=True, atol=0.5, rtol=0.25, ignore=["odd.*", "count", "zero.*"]))
    assert "close 2 |a - b| <= 0.5 + 0.25 |b|" in lines
    assert "ignored 3 left out by --ignore" in lines


@pytest.mark.parametrize("values", [[], ["--values"]])
@pytest.mark.parametrize("kind", ["renamed", "shapes", "values", "ties"])
def test_fifty_thousand_tensors_stay_on_a_screen(kind: str, values: list[str], tmp_path: Path):
    count = 50_000
    a = {f"m.b{i // 10}.l{i}.w": torch.full((2,), float(i)) for i in range(count)}
    if kind == "renamed":
        b = {key.replace("m.b", "m.c"): value for key, value in a.items()}
    elif kind == "shapes":
        b = {key: torch.ones(1 + number % 100) for number, key in enumerate(a)}
    elif kind == "values":
        b = {key: value + 1 for key, value in a.items()}
    else:
        a = {key: a[f"m.b0.l{number % 5}.w"] for number, key in enumerate(a)}
        b = {key: value.clone() for key, value in a.items()}
    torch.save(a, tmp_path / "a.pt")
    save_file({key: value.clone() for key, value in b.items()}, tmp_path / "b.safetensors")
    text = invoke(tmp_path / "a.pt", tmp_path / "b.safetensors", *values).stdout
    assert len(text.splitlines()) < 200
    assert bool(re.search(r"… and [\d,]+ more", text)) == (kind != "values" or bool(values))
    markdown_text = invoke(tmp_path / "a.pt", tmp_path / "b.safetensors", *values, "--markdown").stdout
    assert len(markdown_text.splitlines()) < 200


# ------------------------------------------------------------------------------------------------------- start-up
@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        ([], ("torch", "transformers", "fairseq", "safetensors", "numpy", "ml_dtypes")),
        (["--json"], ("torch", "transformers", "fairseq", "safetensors", "numpy", "rich")),
        (["--values", "--json"], ("torch", "transformers", "fairseq", "safetensors", "rich", "ml_dtypes")),
    ],
    ids=["screen", "json", "values"],
)
def test_start_up_imports_only_what_it_uses(arguments: list[str], unwanted: tuple[str, ...], hf_copy: Path):
    program = (
        "import sys\nfrom ckptconv.cli import main\n"
        f"try:\n    main(['diff', {str(FINETUNED)!r}, {str(hf_copy)!r}, *{arguments!r}])\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"found = [name for name in {unwanted!r} if name in sys.modules]\nassert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_file_of_another_family_is_compared_key_by_key():
    result = invoke(GOLDEN / "xlm_original.tiny.pth", GOLDEN / "fairseq-0.8.0_roberta_mlm_fused.pt", "--json")
    found = json.loads(result.stdout)
    assert (len(found["removed"]), len(found["added"]), found["tensors"]) == (38, 34, [])


def test_help_names_every_option():
    text = invoke("--help").stdout
    for option in ("--values", "--atol", "--rtol", "--ignore", "--table", "--json", "--csv", "--markdown"):
        assert option in text
    assert "Exit code 1" in text


def test_a_table_of_ones_own(tmp_path: Path):
    table = (GOLDEN.parents[1] / "mappings" / "deltalm.tbl").read_text()
    assert "family   deltalm" in table
    own = tmp_path / "own.tbl"
    own.write_text(table.replace("family   deltalm", "family   mine"))
    run(FINETUNED, tmp_path / "hf.safetensors", "mine/hf", table=own)
    result = invoke(FINETUNED, tmp_path / "hf.safetensors", "--table", own, "--json")
    assert (result.exit_code, json.loads(result.stdout)["a"]["layout"]) == (0, "mine/fairseq")
