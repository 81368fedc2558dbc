"""inspect: the JSON contract, CSV and Markdown that parse back, what is worth a note, filters, statistics, configs."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import save_file

from ckptconv.cli import main
from ckptconv.commands.inspect import Closest, inspect
from ckptconv.errors import WrongUse
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
        assert set(each) == {"key", "shape", "dtype", "bytes", "tied_to", "contiguous"}
    for each in found["other"]:
        assert set(each) == {"name", "kind", "tensors", "bytes"}
    added = {"producer", "keys", "match", "closest", "shared", "odd_keys", "config", "coverage", "misfits", "notes"}
    assert added <= set(found)
    assert found["keys"] == len(found["tensors"])
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
    assert rows[-1] == ["'-t", "2x3", "F32", "24", "a|b", "true"]


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


# ---- what is worth a note


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A state dict with one of everything that is legal and strange."""
    fused, large = torch.randn(6, 4), torch.randn(100, 100)
    state = {
        "attn.qkv": fused,
        "attn.q": fused[:2],
        "turned.weight": torch.randn(3, 5).t(),
        "slice.weight": large[:3, :4],
        "none.weight": torch.empty(0, 4),
        "bad\x1b[31m": torch.zeros(2),
        "Norm.weight": torch.ones(2),
        "norm.weight": torch.ones(2),
    }
    torch.save(state, tmp_path / "odd.pt")
    return tmp_path / "odd.pt"


def test_what_is_strange_is_told(odd: Path):
    found = json.loads(run(odd, "--json"))
    assert [each["key"] for each in found["tensors"] if not each["contiguous"]] == ["turned.weight", "slice.weight"]
    assert found["shared"] == [{"keys": ["attn.qkv", "attn.q"], "bytes": 96, "overlapping": ["attn.q", "attn.qkv"]}]
    assert {each["reason"]: each["keys"] for each in found["odd_keys"]} == {
        "control or invisible characters": ["bad\x1b[31m"],
        "equal but for upper and lower case": ["Norm.weight", "norm.weight"],
    }
    assert found["notes"] == [
        "not contiguous: turned.weight, slice.weight",
        "empty: none.weight",
        "39,184 bytes of the tensors' storages belong to no key: a slice was saved with its whole tensor",
    ]
    assert (found["layout"], found["closest"], found["coverage"]) == (None, None, 0.0)


def test_bytes_that_the_optimizer_views_belong_to_someone(tmp_path: Path):
    flat = torch.randn(1000)
    torch.save({"model": {"a": flat[:5], "b": torch.ones(2)}, "last_optimizer_state": {"x": flat}}, tmp_path / "x.pt")
    assert inspect(tmp_path / "x.pt").notes == ()


def test_no_real_checkpoint_has_anything_strange(checkpoint: Path):
    found = inspect(checkpoint)
    assert (found.shared, found.odd_keys) == ((), ())
    assert not any("belong to no key" in note or note.startswith(("empty", "not cont")) for note in found.notes)


def test_the_closest_layout_of_a_stranger(tmp_path: Path):
    state = torch.load(FINETUNED / "checkpoint_best.pt", weights_only=False)["model"]
    few = dict(list(state.items())[:40]) | {f"other.{number}.weight": torch.ones(2) for number in range(60)}
    torch.save(few, tmp_path / "x.pt")
    assert inspect(tmp_path / "x.pt").closest == Closest("deltalm/fairseq", 0.4)
    text = run(tmp_path / "x.pt")
    assert "closest: deltalm/fairseq, which knows 40.0% of the keys" in text
    assert "- closest: deltalm/fairseq" in run(tmp_path / "x.pt", "--markdown")


def test_how_sure_the_layout_is(tmp_path: Path):
    assert "all 139 keys and their shapes fit" in run(FINETUNED)
    state = torch.load(FINETUNED / "checkpoint_best.pt", weights_only=False)["model"]
    torch.save({"model": {**state, "more": torch.ones(1)} | {"decoder.version": torch.ones(5)}}, tmp_path / "x.pt")
    assert "99.3% of the keys are known; not all of it fits: 0 missing, 1 left over, 1 of another" in run(tmp_path)


def test_entries_are_counted(tmp_path: Path):
    other = {"one": {"a": 1}, "two": [1, 2], "none": (), "set": {1, 2, 3}}
    torch.save({"model": {"a": torch.ones(1)}, **other}, tmp_path / "x.pt", pickle_protocol=4)
    kinds = {entry.name: entry.kind for entry in inspect(tmp_path / "x.pt").other}
    assert kinds == {"one": "1 entry", "two": "2 items", "none": "empty", "set": "3 items"}


# ---- --match and --sort


@pytest.mark.parametrize("pattern", ["*.fc1.*", "decoder.*", "encoder.layers.[01].*", "version", "*", "nothing"])
def test_match_filters_the_totals_too(pattern: str):
    whole, found = inspect(FINETUNED), inspect(FINETUNED, match=pattern)
    chosen = tuple(info for info in whole.tensors if fnmatchcase(info.key, pattern))
    assert found.tensors == chosen
    owners = [info for info in chosen if info.tied_to is None]
    assert found.unique == sum(math.prod(info.shape) for info in owners)
    assert found.stored == sum(math.prod(info.shape) for info in chosen)
    assert (found.bytes, sum(found.dtypes.values())) == (sum(info.bytes for info in owners),) * 2
    assert (found.layout, found.coverage, found.dims, found.keys) == (whole.layout, 1.0, whole.dims, 139)
    text = run(FINETUNED, "--match", pattern)
    assert f"{len(chosen)} of 139 keys match `{pattern}`: the totals are theirs" in text
    assert json.loads(run(FINETUNED, "--match", pattern, "--json"))["match"] == pattern
    assert len(run(FINETUNED, "--match", pattern, "--csv").splitlines()) == 1 + len(chosen)


def test_match_leaves_out_what_is_strange_elsewhere(odd: Path):
    found = inspect(odd, match="n*")
    assert (found.shared, [each.keys for each in found.odd_keys]) == ((), [("norm.weight",)])
    assert found.notes == ("empty: none.weight",)


def test_sorting():
    keys = {sort: [info.key for info in inspect(FINETUNED, sort=sort).tensors] for sort in ("key", "size", "shape")}
    infos = {info.key: info for info in inspect(FINETUNED).tensors}
    assert len({*map(frozenset, keys.values())}) == 1
    assert keys["key"][0] == "decoder.embed_positions.weight"
    sizes = [infos[key].bytes for key in keys["size"]]
    assert sizes == sorted(sizes, reverse=True)
    shapes = [(len(infos[key].shape), infos[key].shape) for key in keys["shape"]]
    assert shapes == sorted(shapes, reverse=True)


def test_numbers_are_sorted_as_numbers(tmp_path: Path):
    names = ["b.10.w", "b.9.w", "b.x.w", "a", "b.09.w"]
    save_file({key: torch.ones(1) for key in names}, tmp_path / "x.safetensors")
    found = inspect(tmp_path / "x.safetensors", sort="key")
    assert [info.key for info in found.tensors] == ["a", "b.09.w", "b.x.w", "b.9.w", "b.10.w"]


def test_another_order_is_refused():
    with pytest.raises(WrongUse, match="expected one of key, size, shape"):
        inspect(FINETUNED, sort="bytes")


# ---- --config


def test_config_is_shown_flat_and_escaped(tmp_path: Path):
    config = {"model": {"arch": "x\x1b[31my", "dims": [1, 2]}, "nan": math.nan}
    torch.save({"model": {"a": torch.ones(2)}, "cfg": config, "args": None}, tmp_path / "x.pt")
    (tmp_path / "config.json").write_text('{"model_type": "xlm", "transformers_version": "4.0"}')
    for form in ([], ["--json"], ["--markdown"]):
        without, text = run(tmp_path / "x.pt", *form), run(tmp_path / "x.pt", *form, "--config")
        assert ("model_type" in text, "model_type" in without) == (True, False)
        assert "\x1b" not in text
    found = json.loads(run(tmp_path / "x.pt", "--config", "--json"))["config"]
    assert found == [
        {"document": "config.json", "field": "model_type", "value": "xlm"},
        {"document": "config.json", "field": "transformers_version", "value": "4.0"},
        {"document": "cfg", "field": "model.arch", "value": "x\x1b[31my"},
        {"document": "cfg", "field": "model.dims", "value": [1, 2]},
        {"document": "cfg", "field": "nan", "value": "nan"},
    ]
    assert json.loads(run(tmp_path / "x.pt", "--json"))["config"] == []


def test_config_of_this_transformers(tmp_path: Path):
    config = transformers.XLMRobertaConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.XLMRobertaModel(config).save_pretrained(tmp_path)
    found = inspect(tmp_path, config=True)
    assert {each.field: each.value for each in found.config}["num_attention_heads"] == 2
    assert ("transformers", transformers.__version__) in [(each.name, each.version) for each in found.producer]
    assert f"transformers {transformers.__version__} (config.json)" in run(tmp_path)


def test_a_broken_config_beside_is_a_note(tmp_path: Path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    (tmp_path / "config.json").write_text("{")
    assert any("config.json can't be read as JSON" in note for note in inspect(tmp_path / "x.pt", config=True).notes)
