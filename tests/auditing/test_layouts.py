"""A layout as the target, on files that the real software wrote."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv import audit
from ckptconv.tables.catalog import tables
from tests.auditing.conftest import SAMPLES, expected, follow, keys
from tests.commands.conftest import FINETUNED, GOLDEN

OTHERS = [
    (file, f"{table.family}/{layout.name}")
    for file, own in SAMPLES.items()
    for table in tables()
    for layout in table.layouts
    if table.family == own.partition("/")[0] and f"{table.family}/{layout.name}" != own
    # XLM-Align's training is written as fairseq 0.9 writes it; XL has no place in files of fairseq up to 0.10
    if (own, layout.name) != ("xlmr/fairseq-0.9", "fairseq-xlm_align")
    if not ("xl_tiny" in file and layout.name.startswith(("fairseq-", "ernie_m")))
]


@pytest.mark.parametrize("file", SAMPLES)
def test_a_file_in_its_own_layout(file: str):
    report = audit(GOLDEN / file, SAMPLES[file])
    assert (report.kind, report.target, report.layout) == ("layout", SAMPLES[file], SAMPLES[file])
    assert report.verdict == "exact"
    assert (report.missing_keys, report.unexpected_keys, report.mismatched_keys) == ((), (), ())
    assert report.fitting + len(report.ignored) == report.keys


@pytest.mark.parametrize(("file", "layout"), OTHERS, ids=[f"{file}-{layout}" for file, layout in OTHERS])
def test_a_file_in_another_layout_becomes_exact_by_the_command_that_is_named(file: str, layout: str, tmp_path: Path):
    report = audit(GOLDEN / file, layout)
    assert report.verdict == "does_not_fit"
    assert f"is in the layout {SAMPLES[file]}" in report.diagnoses[0].sentence
    assert f"not in {layout}" in report.diagnoses[0].sentence
    follow(report, tmp_path / "out")
    made, there = (keys(ckptconv.inspect(path).tensors) for path in (tmp_path / "out", GOLDEN / file))
    family, _, name = layout.partition("/")
    table = next(table for table in tables() if table.family == family)
    names = {key for tie in table.ties if tie.layout == name for key in tie.keys}
    # XLM's keys are those of a bare model of transformers, which are read with its prefix.
    names |= {line.prefix + key for line in table.bases if line.layout == name for key in there}
    slow = {key for key in made if key.startswith("model_slow.")}  # the copy that InfoXLM's training begins with
    assert made - there - names - slow <= keys(report.missing_keys)
    assert audit(tmp_path / "out", layout).verdict == "exact"


def test_what_every_file_of_a_layout_has_is_missed(tmp_path: Path):
    whole = torch.load(GOLDEN / "fairseq-e3fafbdf_2021-09_mlm.pt", weights_only=False)["model"]
    torch.save({"model": {key: value for key, value in whole.items() if "lm_head" not in key}}, tmp_path / "x.pt")
    report = audit(tmp_path / "x.pt", "xlmr/fairseq")
    made_up = {each.key for each in report.missing_keys if "every fairseq file has one" in each.reason}
    assert made_up == {key for key in whole if "lm_head" in key} - {"encoder.lm_head.weight"}  # tied


def test_a_layout_that_has_no_place_for_the_model(saved: Callable[..., Path]):
    report = audit(GOLDEN / "xlmr_xl_tiny.pt", "xlmr/fairseq-0.10")
    assert (report.verdict, report.advice.partition(":")[0]) == ("does_not_fit", "it can't become that")
    report = audit(saved("XLMRobertaForTokenClassification"), "fairseq")
    assert report.advice.startswith("it can't become that: fairseq's RobertaModel has no token classification")


def test_a_layout_alone_is_that_of_the_checkpoints_family():
    assert audit(FINETUNED, "hf").target == "deltalm/hf"
    assert audit(GOLDEN / "fairseq-0.9.0_roberta_mlm.pt", "hf").target == "xlmr/hf"


def test_what_is_missing_left_over_and_of_another_shape(tmp_path: Path):
    state = load_file(GOLDEN / "hf_xlmr_mlm_transformers-5.23.safetensors")
    state["roberta.encoder.layer.1.output.dense.weight"] = torch.zeros(3, 3)
    del state["roberta.encoder.layer.0.output.dense.bias"]
    save_file({**state, "foo.bar": torch.zeros(1)}, tmp_path / "x.safetensors")
    report = audit(tmp_path / "x.safetensors", "xlmr/hf")
    assert keys(report.missing_keys) == {"roberta.encoder.layer.0.output.dense.bias"}
    assert keys(report.unexpected_keys) == {"foo.bar"}
    assert [(each.key, each.got, each.wanted) for each in report.mismatched_keys] == [
        ("roberta.encoder.layer.1.output.dense.weight", (3, 3), (32, 64))
    ]
    assert "d,ffn" in report.mismatched_keys[0].reason
    assert "mappings/xlmr.tbl:" in report.mismatched_keys[0].reason
    assert expected([*report.missing_keys, *report.unexpected_keys, *report.mismatched_keys]) == {False}
    assert report.verdict == "does_not_fit"


def test_a_constant_without_which_the_model_is_another(tmp_path: Path):
    content = torch.load(GOLDEN / "xlmr_xl_tiny.pt", weights_only=False)["sd"]
    content.pop("encoder.sentence_encoder.version")
    torch.save({"model": content}, tmp_path / "x.pt")
    report = audit(tmp_path / "x.pt", "fairseq")
    assert [(each.key, each.expected) for each in report.missing_keys] == [("encoder.sentence_encoder.version", False)]
    assert "leaves out a last norm" in report.missing_keys[0].reason


def test_a_constant_that_is_no_loss(tmp_path: Path):
    content = torch.load(GOLDEN / "deltalm_finetuned_share_all.pt", weights_only=False)["model"]
    torch.save({"model": {key: content[key] for key in content if "version" not in key}}, tmp_path / "x.pt")
    report = audit(tmp_path / "x.pt", "fairseq")
    assert keys(report.missing_keys) == {"encoder.version", "decoder.version"}
    assert report.verdict == "as_expected"


def test_a_head_that_every_file_of_the_layout_has(tmp_path: Path):
    content = torch.load(GOLDEN / "fairseq-0.10.2_roberta_mlm.pt", weights_only=False)["model"]
    torch.save({"model": {key: content[key] for key in content if "lm_head" not in key}}, tmp_path / "x.pt")
    report = audit(tmp_path / "x.pt", "fairseq-0.10")
    assert keys(report.missing_keys) | keys(report.tied) == {key for key in content if "lm_head" in key}
    assert expected(report.missing_keys) == {False}


def test_another_model_is_named():
    report = audit(GOLDEN / "xlm_original.tiny.pth", "xlmr/hf")
    assert "xlm/original (XLM of facebookresearch/XLM" in report.diagnoses[0].sentence
    report = audit(FINETUNED, "xlmr/hf")
    assert "which is another model" in report.diagnoses[0].sentence


def test_a_layouts_name_is_one_even_beside_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    good = GOLDEN / "fairseq-0.9.0_roberta_mlm.pt"
    shutil.copy(good, "fairseq-0.9")
    assert audit(good, "fairseq-0.9").kind == "layout"
    assert audit(good, "./fairseq-0.9").kind == "checkpoint"
    assert audit(good, Path("fairseq-0.9")).kind == "checkpoint"
