"""ckptconv audit: forms, exit codes, bad input, and what is imported."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner
from rich.console import Console
from safetensors.torch import save_file

from ckptconv import audit
from ckptconv.cli import main
from ckptconv.errors import CkptconvError
from ckptconv.report.audit import screen
from tests.auditing.conftest import SMALL, saved
from tests.commands.conftest import GOLDEN

__all__ = ["saved"]  # the fixture


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["audit", *map(str, arguments)])


def test_json_has_the_fields_that_others_rely_on(saved: Callable[..., Path]):
    result = invoke(saved("XLMRobertaForTokenClassification", num_labels=9), "--against",
                    saved("XLMRobertaForTokenClassification"), "--json")  # fmt: skip
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert {"missing_keys", "unexpected_keys", "mismatched_keys", "tied", "ignored", "verdict"} <= set(found)
    assert found["mismatched_keys"][0] == {
        "key": "classifier.weight", "got": [9, 32], "wanted": [2, 32],
        "reason": "9 where the config has 2 (num_labels)", "expected": False,
    }  # fmt: skip
    result = invoke(saved("XLMRobertaForMaskedLM"), "--against", saved("XLMRobertaModel"), "--json")
    assert result.exit_code == 0
    assert set(json.loads(result.stdout)["missing_keys"][0]) == {"key", "reason", "expected"}


@pytest.mark.parametrize(
    ("source", "target", "code"),
    [
        ("fairseq-0.9.0_roberta_mlm.pt", "fairseq-0.9", 0),
        ("hf_xlmr_mlm_transformers-4.30.2.bin", "hf", 0),
        ("fairseq-0.9.0_roberta_mlm.pt", "hf", 1),
    ],
)
def test_exit_codes(source: str, target: str, code: int):
    assert invoke(GOLDEN / source, "--against", target).exit_code == code


def test_csv_parses_back(saved: Callable[..., Path]):
    arguments = (saved("XLMRobertaForTokenClassification", num_labels=9), saved("XLMRobertaForMaskedLM"))
    report = audit(*arguments)
    rows = list(csv.DictReader(io.StringIO(invoke(arguments[0], "--against", arguments[1], "--csv").stdout)))
    found = {(row["list"], row["key"], row["expected"] == "true", row["reason"]) for row in rows}
    lists = {"missing": report.missing_keys, "unexpected": report.unexpected_keys, "mismatched": report.mismatched_keys,
             "tied": report.tied, "ignored": report.ignored}  # fmt: skip
    assert found == {(name, each.key, each.expected, each.reason) for name, each in pairs(lists)}
    assert len(rows) == len(found)


def pairs(lists: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, each) for name, listed in lists.items() for each in listed]


def test_markdown_is_a_table_with_a_line_per_reason(saved: Callable[..., Path]):
    text = invoke(saved("XLMRobertaForMaskedLM"), "--against", saved("XLMRobertaModel"), "--markdown").stdout
    assert "**as expected: it can be used**" in text
    reason = "a pooler, which will be new: random until it is trained"
    assert f"| missing | 2 | yes | `{reason}` | `pooler.dense.{{weight,bias}}` |" in text


@pytest.mark.parametrize("width", [80, 120])
def test_screens_keep_to_the_terminal(saved: Callable[..., Path], width: int):
    out = io.StringIO()
    report = audit(GOLDEN / "fairseq-0.9.0_roberta_mlm.pt", saved("XLMRobertaForMaskedLM"))
    Console(file=out, width=width).print(screen(report), crop=False)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) < 25


def test_fifty_thousand_keys_are_a_short_screen(tmp_path: Path):
    names = [f"{number}.w{number}" for number in range(50_000)]
    save_file({f"m.{name}": torch.zeros(1) for name in names}, tmp_path / "a.safetensors")
    save_file({f"m.{name}": torch.zeros(at % 900 + 2) for at, name in enumerate(names)}, tmp_path / "b.safetensors")
    save_file({f"n.{name}": torch.zeros(1) for name in names}, tmp_path / "c.safetensors")
    for other in ("b", "c"):
        result = invoke(tmp_path / "a.safetensors", "--against", tmp_path / f"{other}.safetensors")
        assert result.exit_code == 1
        assert len(result.stdout.splitlines()) < 60
        assert len(result.stdout) < 20_000
        assert "50,000" in result.stdout
    rows = invoke(tmp_path / "a.safetensors", "--against", tmp_path / "b.safetensors", "--csv").stdout.splitlines()
    assert len(rows) == 50_001


def test_names_from_a_file_reach_no_terminal(tmp_path: Path):
    save_file({"\x1b[31m=evil\u202e": torch.zeros(1), "=1+1": torch.zeros(1)}, tmp_path / "x.safetensors")
    for form in ([], ["--csv"], ["--markdown"], ["--json"]):
        text = invoke(tmp_path / "x.safetensors", "--against", "xlmr/hf", *form).stdout
        assert all(character.isprintable() or character == "\n" for character in text)
    assert ",=1+1," not in invoke(tmp_path / "x.safetensors", "--against", "xlmr/hf", "--csv").stdout


CONFIG = {"model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], **SMALL}
BROKEN: dict[str, tuple[str, list[str], int, str]] = {
    "no json": ("{", [], 3, "can't be read as JSON"),
    "a list": ("[1]", [], 3, "can't be read as JSON"),
    "no architectures": (json.dumps({"model_type": "xlm-roberta"}), [], 2, "names no class"),
    "odd architectures": (json.dumps({**CONFIG, "architectures": {"a": 5}}), [], 2, "names no class"),
    "numbers for classes": (json.dumps({**CONFIG, "architectures": [5]}), [], 2, "names no class"),
    "unknown class": (json.dumps(CONFIG), ["--class", "XLMRobertaForTokenClasification"], 3,
                      "instance XLMRobertaForTokenClassification"),
    "no model class": (json.dumps(CONFIG), ["--class", "Trainer"], 3, "There is no model class Trainer"),
    "an Auto class": (json.dumps(CONFIG), ["--class", "AutoModelForMaskedLM"], 3, "There is no model class"),
    "an attribute": (json.dumps({**CONFIG, "architectures": ["__name__"]}), [], 3, "There is no model class"),
    "a class of no config": (json.dumps(CONFIG), ["--class", "PreTrainedModel"], 3, "There is no model class"),
    "custom code": (json.dumps({**CONFIG, "architectures": ["Mine"], "auto_map": {"AutoModel": "code.Mine"}}), [], 3,
                    "say --trust-remote-code"),
    "custom code that isn't there": (
        json.dumps({**CONFIG, "architectures": ["Mine"], "auto_map": {"AutoModel": "code.Mine"}}),
        ["--trust-remote-code"], 3, "can't be imported"),
    "absurd layers": (json.dumps({**CONFIG, "num_hidden_layers": 10**9}), [], 3, "which no model has"),
    "absurd sizes": (json.dumps({**CONFIG, "vocab_size": 10**30}), [], 3, "can't be built"),
    "negative sizes": (json.dumps({**CONFIG, "hidden_size": -4}), [], 3, "can't be built"),
    "text for sizes": (json.dumps({**CONFIG, "hidden_size": "wide"}), [], 3, "can't be built"),
    "heads that don't divide": (json.dumps({**CONFIG, "num_attention_heads": 5}), [], 3, "can't be built"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_bad_configs_are_one_sentence(case: str, tmp_path: Path):
    text, more, code, told = BROKEN[case]
    (tmp_path / "config.json").write_text(text)
    result = invoke(GOLDEN / "hf_xlmr_mlm_transformers-4.30.2.bin", "--against", tmp_path / "config.json", *more)
    assert result.exit_code == code, result.output
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
    found = json.loads(
        invoke(GOLDEN / "hf_xlmr_mlm_transformers-4.30.2.bin", "--against", tmp_path, *more, "--json").stdout
    )
    assert told.split()[-1] in found["error"]["message"]


def test_bad_targets_and_sources(tmp_path: Path):
    good, truncated = GOLDEN / "fairseq-0.9.0_roberta_mlm.pt", tmp_path / "cut.safetensors"
    truncated.write_bytes((GOLDEN / "hf_xlmr_mlm_transformers-5.23.safetensors").read_bytes()[:5000])
    (tmp_path / "empty").mkdir()
    for source, target, code in (
        (good, "xlm-roberta-base", 3), (good, tmp_path / "no.pt", 3), (good, truncated, 3), (truncated, "hf", 3),
        (good, tmp_path / "empty", 3), (tmp_path / "no.pt", "hf", 3), (good, "xlmr/nonsense", 3),
    ):  # fmt: skip
        result = invoke(source, "--against", target)
        assert result.exit_code == code, result.output
        assert len(result.stderr.splitlines()) == 1


def test_wrong_usage(saved: Callable[..., Path]):
    good = GOLDEN / "fairseq-0.9.0_roberta_mlm.pt"
    for arguments in (
        [good], [good, "--against", "hf", "--class", "XLMRobertaModel"], [good, "--against", "hf", "--json", "--csv"],
        [good, "--against", good, "--class", "XLMRobertaModel"],
    ):  # fmt: skip
        assert invoke(*arguments).exit_code == 2


@pytest.mark.parametrize("name", ["torch", "transformers", "accelerate"])
def test_what_to_install_where_a_library_is_missing(saved: Callable[..., Path], name: str):
    folder = str(saved("XLMRobertaModel"))
    program = f"import sys\nsys.modules[{name!r}] = None\nfrom ckptconv.cli import main\nmain(sys.argv[1:])"
    arguments = [sys.executable, "-c", program, "audit", folder, "--against", folder]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert f"To audit against a model class, {name} is needed" in done.stderr
    assert "pip install 'ckptconv[hf]'" in done.stderr


@pytest.mark.parametrize("target", ["xlmr/hf", str(GOLDEN / "hf_xlmr_mlm_transformers-4.30.2.bin")])
def test_layouts_and_checkpoints_need_neither_torch_nor_transformers(target: str):
    program = (
        "import sys\nfrom ckptconv import audit\naudit(sys.argv[1], sys.argv[2])\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'imported'"
    )
    arguments = [sys.executable, "-c", program, str(GOLDEN / "hf_xlmr_mlm_transformers-5.23.safetensors"), target]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_nothing_is_printed_and_transformers_is_as_talkative_as_before(
    saved: Callable[..., Path], capfd: pytest.CaptureFixture[str]
):
    before = transformers.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    source, target = saved("XLMRobertaForMaskedLM"), saved("XLMRobertaForTokenClassification")
    capfd.readouterr()  # what transformers says as it saves them
    audit(source, target)
    assert capfd.readouterr() == ("", "")
    assert before == (transformers.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled())


def test_errors_are_those_of_the_package(tmp_path: Path):
    with pytest.raises(CkptconvError, match="neither a layout"):
        audit(GOLDEN / "fairseq-0.9.0_roberta_mlm.pt", "nope")


def test_the_limit_of_modules_ends_with_the_audit(saved: Callable[..., Path]):
    audit(saved("XLMRobertaModel"), saved("XLMRobertaModel"))
    assert len(torch.nn.ModuleList(torch.nn.Identity() for _ in range(20_001))) == 20_001
