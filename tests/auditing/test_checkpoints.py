"""Another checkpoint as the target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

from ckptconv import audit
from tests.auditing.conftest import keys
from tests.commands.conftest import GOLDEN


def test_another_checkpoint(saved: Callable[..., Path], tmp_path: Path):
    folder = saved("XLMRobertaForTokenClassification")
    assert audit(folder, folder / "model.safetensors").verdict == "exact"
    state = load_file(folder / "model.safetensors")
    state["classifier.bias"] = torch.zeros(5)
    state["roberta.embeddings.LayerNorm.bias"] = state["roberta.embeddings.LayerNorm.bias"].half()
    state["roberta.embeddings.LayerNorm.weight"] = state["roberta.embeddings.LayerNorm.weight"].int()
    state["new.weight"] = state.pop("roberta.encoder.layer.1.output.dense.bias")
    state["roberta.embeddings.position_ids"] = torch.arange(34)[None]
    save_file(state, tmp_path / "x.safetensors")
    report = audit(tmp_path / "x.safetensors", folder / "model.safetensors")
    assert report.kind == "checkpoint"
    assert keys(report.missing_keys) == {"roberta.encoder.layer.1.output.dense.bias"}
    assert {(each.key, each.expected) for each in report.unexpected_keys} == {
        ("new.weight", True), ("roberta.embeddings.position_ids", True),
    }  # fmt: skip
    assert [(each.key, each.got, each.wanted) for each in report.mismatched_keys] == [("classifier.bias", (5,), (2,))]
    assert {(each.key, each.got, each.wanted, each.expected) for each in report.dtypes} == {
        ("roberta.embeddings.LayerNorm.bias", "F16", "F32", True),
        ("roberta.embeddings.LayerNorm.weight", "I32", "F32", False),
    }


def test_heads_between_checkpoints(saved: Callable[..., Path]):
    mlm, ner = (saved(f"XLMRobertaFor{task}") / "model.safetensors" for task in ("MaskedLM", "TokenClassification"))
    report = audit(mlm, ner)
    assert report.verdict == "as_expected"
    assert keys(report.missing_keys) == {"classifier.weight", "classifier.bias"}


def test_a_key_that_only_one_file_stores_twice(saved: Callable[..., Path], tmp_path: Path):
    folder = saved("XLMRobertaForMaskedLM")
    model = transformers.XLMRobertaForMaskedLM.from_pretrained(folder)
    torch.save(model.state_dict(), tmp_path / "shared.bin")
    back = audit(folder / "model.safetensors", tmp_path / "shared.bin")
    assert (back.verdict, back.missing_keys) == ("exact", ())
    assert {(each.key, each.both) for each in back.tied} == {
        ("lm_head.decoder.weight", False), ("lm_head.decoder.bias", False),
    }  # fmt: skip
    there = audit(tmp_path / "shared.bin", folder / "model.safetensors")
    assert keys(there.ignored) == {"lm_head.decoder.weight", "lm_head.decoder.bias"}
    assert there.verdict == "exact"


def test_two_layouts_of_one_family():
    report = audit(GOLDEN / "fairseq-0.10.2_roberta_mlm.pt", GOLDEN / "hf_xlmr_mlm_transformers-4.30.2.bin")
    assert report.diagnoses[0].sentence.endswith("in xlmr/hf")
    assert report.advice.endswith("--to xlmr/hf")
