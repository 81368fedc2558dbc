"""`ckptconv verify`: exit codes, fields, screens, and text from files that stays text."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from ckptconv.cli import main
from tests.commands.conftest import FINETUNED, GOLDEN, run


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["verify", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def broken(hf_copy: Path) -> Path:
    """An HF directory with one value changed."""
    state = load_file(hf_copy / "model.safetensors")
    state["model.decoder.layers.0.fc1.bias"][3] += 1
    save_file(state, hf_copy / "model.safetensors", {"format": "pt"})
    return hf_copy


def test_exit_codes(hf_copy: Path, tmp_path: Path):
    assert invoke(FINETUNED, hf_copy)[0] == 0
    assert invoke(hf_copy)[0] == 0
    assert invoke(FINETUNED)[0] == 3  # no receipt
    assert invoke(FINETUNED, tmp_path / "nowhere")[0] == 3
    assert invoke(FINETUNED, GOLDEN / "hf_xlmr_mlm_transformers-4.30.2.bin")[0] == 3
    assert invoke()[0] == 2
    assert invoke(hf_copy, "--forward")[0] == 2
    (hf_copy / "config.json").unlink()
    assert invoke(hf_copy)[0] == 1


def test_what_differs_is_named(broken: Path):
    code, out, _ = invoke(FINETUNED, broken)
    assert code == 1
    line = next(line for line in out.splitlines() if line.startswith("differ"))
    assert "model.decoder.layers.0.fc1.bias" in line
    assert "1 of 128 values differ, by up to 1" in line
    assert out.splitlines()[-1] == "not proved: DST isn't what SRC becomes"


def test_json_has_the_fields_that_others_rely_on(broken: Path, tmp_path: Path):
    code, out, _ = invoke(FINETUNED, broken, "--json")
    document = json.loads(out)
    assert (code, document["verdict"]) == (1, "differs")
    assert {"equal", "differ"} <= set(document["tensors"])
    assert document["tensors"]["differ"] == len(document["differences"]) == 1
    assert document["differences"][0]["key"] == "model.decoder.layers.0.fc1.bias"
    assert {"path", "output", "source", "target", "dropped", "resized", "config", "forward", "notes"} <= set(document)
    document = json.loads(invoke(broken, "--json")[1])
    assert (document["verdict"], document["tensors"]) == ("changed", None)
    assert {each["status"] for each in document["files"]} == {"same", "changed"}
    assert json.loads(invoke(tmp_path / "nowhere", "--json")[1])["error"]["path"] == str(tmp_path / "nowhere")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_names_from_a_receipt_stay_text(form: list[str], tmp_path: Path):
    (tmp_path / "conversion.json").write_text(
        json.dumps({"files": [{"name": "\x1b[31mred\u202e", "size": 1, "sha256": "\x1b"}]})
    )
    code, out, err = invoke(tmp_path, *form)
    assert code == 1
    assert all(character.isprintable() or character == "\n" for character in out + err)


def test_an_output_is_verified_wherever_it_is_moved(tmp_path: Path):
    run(FINETUNED, tmp_path / "out.safetensors", "hf")
    for name in ("out.safetensors", "out.safetensors.conversion.json"):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    assert invoke(tmp_path / "elsewhere" / "out.safetensors")[0] == 0


def test_a_forward_pass_that_could_not_run_is_no_proof(hf_copy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "fairseq", None)
    code, out, _ = invoke(FINETUNED, hf_copy, "--forward")
    assert code == 1
    assert "not run: the source half could not run" in " ".join(out.split())
    assert out.splitlines()[-1].startswith("not proved: the tensors are right")
    document = json.loads(invoke(FINETUNED, hf_copy, "--forward", "--json")[1])
    assert (document["verdict"], document["forward"]["passed"]) == ("not_run", None)
    assert document["tensors"]["differ"] == 0


def test_a_forward_pass_in_both_engines(hf_copy: Path):
    pytest.importorskip("fairseq")
    document = json.loads(invoke(FINETUNED, hf_copy, "--forward", "--json")[1])
    found = document["forward"]
    assert (document["verdict"], found["passed"], found["top1"]) == ("proved", True, 1.0)
    assert found["source_engine"].startswith("fairseq")
    assert found["target_engine"].startswith("transformers")
    assert found["greedy"]["same"] == found["greedy"]["of"] > 0
    assert max(each["max_abs"] for each in found["layers"]) < 1e-5
