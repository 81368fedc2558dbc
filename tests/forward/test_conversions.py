"""Conversions that are right pass: every sample, to Hugging Face, back, and against itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fairseq")  # the [fairseq] extra is not installed with transformers 4.57

import torch
from transformers import (
    AutoModelForSequenceClassification,
    XLMRobertaForMaskedLM,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
    XLMRobertaXLForSequenceClassification,
)

from ckptconv.forward import Forward
from tests import xlmr_side
from tests.forward.conftest import DELTALM, XLMR
from tests.forward.side import GOLDEN, NUMBERS, both, convert
from tests.xlmr.hf_side import build
from tests.xlmr.samples import PRENORM, SAMPLES

FINETUNED = [
    "deltalm_finetuned_share_all",
    "deltalm_finetuned_untied",
    "deltalm_finetuned_v0122",
    "fairseq_deltalm_namespace_free_cfg",
]
HF_FILES = {
    "hf_xlmr_mlm_transformers-2.3.0_205style_legacy.bin": "hf_xlmr_mlm_transformers-2.3.0.config.json",
    "hf_xlmr_mlm_transformers-4.30.2.bin": "",
    "hf_xlmr_mlm_transformers-5.23.safetensors": "",
    "hf_deltalm_fengshen_transformers-4.30.2.bin": "hf_deltalm_fengshen.config.json",
}
ENCODER = ("embeddings", "layers.0", "layers.1", "logits")
BOTH = (
    "encoder.embeddings", *(f"encoder.layers.{number}" for number in range(4)),
    "decoder.embeddings", "decoder.layers.0", "decoder.layers.1", "logits",
)  # fmt: skip


def names(found: Forward) -> tuple[str, ...]:
    return tuple(each.name for each in found.layers)


def assert_passed(found: Forward, expected: tuple[str, ...] = ENCODER, most: float = 2e-5) -> None:
    """Everything was compared, and it is the same to within what the order of additions explains."""
    assert found.passed, found
    assert not found.not_run
    assert names(found) == expected
    assert max(each.max_abs for each in found.layers) <= most
    assert all(each.scale > 0.05 for each in found.layers)
    assert found.top1 == (1.0 if "logits" in expected else None)
    assert found.greedy == ((6, 6) if expected == BOTH else None)


@pytest.mark.parametrize("name", SAMPLES)
def test_xlmr_of_every_generation(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    model = convert(sample.path, tmp_path / "hf", "xlmr/hf", **sample.options)
    found = both(sample.path, model)
    assert_passed(found)
    assert found.source_engine == "fairseq 0.12.3.1 RobertaModel"
    assert found.target_engine.split()[::2] == ["transformers", f"XLMRoberta{'XL' * (name == 'XL')}ForMaskedLM"]
    assert found.sentences == 9


@pytest.mark.parametrize("name", ["0.8", "InfoXLM", "XL"])
def test_xlmr_there_and_back(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    model = convert(sample.path, tmp_path / "hf", "xlmr/hf", **sample.options)
    back = convert(model, tmp_path / "back", "xlmr/fairseq")
    assert_passed(both(model, back))
    assert_passed(both(sample.path, back))


@pytest.mark.parametrize(
    "layout", ["fairseq-0.8", "fairseq-0.9", "fairseq-0.10", "fairseq-xlm_align", "fairseq-infoxlm"]
)
def test_back_to_an_older_layout(layout: str, xlmr_hf: Path, tmp_path: Path) -> None:
    assert_passed(both(xlmr_hf, convert(xlmr_hf, tmp_path / "old.pt", f"xlmr/{layout}")))


@pytest.mark.parametrize("name", FINETUNED)
def test_deltalm(name: str, tmp_path: Path) -> None:
    source = GOLDEN / f"{name}.pt"
    model = convert(source, tmp_path / "hf", "deltalm/hf")
    assert_passed(both(source, model), BOTH)
    back = convert(model, tmp_path / "back.pt", "deltalm/fairseq")
    assert_passed(both(model, back), BOTH)


def test_deltalm_pretrained(tmp_path: Path) -> None:
    """It has no config: the other half's counts, and it is told; nor a projection, in place of which it is tied."""
    source = GOLDEN / "deltalm_pretrained_weights_tiny.pt"
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 2}
    model = convert(source, tmp_path / "hf", "deltalm/hf", set=heads)
    found = both(source, model)
    assert_passed(found, BOTH)
    notes = " ".join(found.notes)
    assert "no config: encoder_attention_heads = 4, decoder_attention_heads = 2" in notes
    assert "as the config of the target says" in notes
    assert "no output projection" in notes
    assert_passed(both(model, convert(model, tmp_path / "back.pt", "deltalm/pretrained")), BOTH)
    alone = both(source, source)
    assert_passed(alone, BOTH)
    assert any("encoder_attention_heads = 1" in note and "assumed" in note for note in alone.notes)


def test_a_trained_deltalm_decodes_sentences_that_end(deltalm_hf: Path) -> None:
    assert_passed(both(DELTALM, deltalm_hf), BOTH, most=1e-4)


@pytest.mark.parametrize("name", HF_FILES)
def test_what_older_transformers_wrote(name: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(GOLDEN / name, source / ("model" if "safe" in name else "pytorch_model")).rename(
        source / f"model{Path(name).suffix}" if "safe" in name else source / "pytorch_model.bin"
    )
    if HF_FILES[name]:
        shutil.copy(GOLDEN / HF_FILES[name], source / "config.json")
    family, expected = ("deltalm", BOTH) if "deltalm" in name else ("xlmr", ENCODER)
    assert_passed(both(source, convert(source, tmp_path / "out", f"{family}/fairseq")), expected)
    assert_passed(both(source, convert(source, tmp_path / "same", "same")), expected)


@pytest.mark.parametrize("kind", [XLMRobertaForSequenceClassification, XLMRobertaXLForSequenceClassification])
def test_a_head_from_transformers(kind: Any, tmp_path: Path) -> None:
    build(kind, num_labels=3).save_pretrained(tmp_path / "hf")
    found = both(tmp_path / "hf", convert(tmp_path / "hf", tmp_path / "out.pt", "xlmr/fairseq", head="mnli"))
    assert_passed(found, ("embeddings", "layers.0", "layers.1", "head mnli"), most=1e-4)


@pytest.mark.parametrize("flags", [{}, PRENORM], ids=["XLM-R", "XL"])
def test_one_of_several_heads_from_fairseq(flags: dict[str, Any], tmp_path: Path) -> None:
    theirs = xlmr_side.build(heads={"first": 3, "mnli": 3, "rte": 2}, **flags)
    source = xlmr_side.save(theirs, tmp_path / "in.pt")
    found = both(source, convert(source, tmp_path / "hf", "xlmr/hf", head="mnli"))
    assert_passed(found, ("embeddings", "layers.0", "layers.1", "head mnli"), most=1e-4)
    old = source if flags else convert(source, tmp_path / "old.pt", "xlmr/fairseq-0.9")
    heads = ("head first", "head mnli", "head rte")
    assert_passed(both(source, old), (*ENCODER, *heads), most=1e-4)


def test_heads_that_only_transformers_has(tmp_path: Path) -> None:
    file = GOLDEN / "hf_xlmr_tokcls_transformers-5.23.safetensors"
    (tmp_path / "hf").mkdir()
    shutil.copy(file, tmp_path / "hf" / "model.safetensors")
    shutil.copy(GOLDEN / "hf_xlmr_tokcls.config.json", tmp_path / "hf" / "config.json")
    tokens = ("embeddings", "layers.0", "layers.1", "head token_classification")
    assert_passed(both(tmp_path / "hf", convert(tmp_path / "hf", tmp_path / "same", "same")), tokens)
    assert_passed(both(file, tmp_path / "hf"), tokens)


def test_a_bare_model_has_states_only(tmp_path: Path) -> None:
    build(XLMRobertaModel).save_pretrained(tmp_path / "hf")
    assert_passed(both(tmp_path / "hf", tmp_path / "hf"), (*ENCODER[:-1], "pooler"))
    found = both(tmp_path / "hf", convert(tmp_path / "hf", tmp_path / "out.pt", "xlmr/fairseq"))
    assert_passed(found, ENCODER[:-1], most=1e-4)
    assert any("only the states" in note for note in found.notes)


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 2e-2), ("bf16", 1e-1)])
@pytest.mark.parametrize("source", [XLMR, DELTALM], ids=["xlmr", "deltalm"])
def test_a_cast_has_a_tolerance_of_its_own(source: Path, dtype: str, tolerance: float, tmp_path: Path) -> None:
    family = "xlmr" if source == XLMR else "deltalm"
    half = convert(source, tmp_path / "half", f"{family}/hf", dtype=dtype)
    found = both(source, half)
    assert (found.passed, found.tolerance) == (True, tolerance)
    assert max(each.max_abs for each in found.layers) > 1e-4
    assert any("the source holds F32" in note for note in found.notes)
    exact = both(half, convert(half, tmp_path / "again", "same"))  # nothing is computed in halves
    assert (exact.passed, exact.tolerance) == (True, 2e-5)
    assert {each.max_abs for each in exact.layers} == {0.0}


def test_a_fold_in_halves(tmp_path: Path) -> None:
    """Token types are added to the positions in fp16, so the sums are rounded."""
    build(XLMRobertaForMaskedLM).half().save_pretrained(tmp_path / "hf")
    found = both(tmp_path / "hf", convert(tmp_path / "hf", tmp_path / "out.pt", "xlmr/fairseq"))
    assert (found.passed, found.tolerance) == (True, 2e-2)
    assert found.layers[0].max_abs > 1e-4


@pytest.mark.parametrize(
    "options", [{"vocab": 40}, {"vocab": 60}, {"max_positions": 20}, {"max_positions": 70}], ids=str
)
@pytest.mark.parametrize("name", ["fairseq-0.10.2_roberta_mlm", "deltalm_finetuned_untied"])
def test_a_resized_vocabulary_or_length(name: str, options: dict[str, int], tmp_path: Path) -> None:
    source = GOLDEN / f"{name}.pt"
    family, expected = ("xlmr", ENCODER) if "roberta" in name else ("deltalm", BOTH)
    found = both(source, convert(source, tmp_path / "hf", f"{family}/hf", **options))
    assert_passed(found, expected)
    assert any(note.startswith("resized: ") for note in found.notes)


def test_a_vocabulary_that_a_dictionary_cut(tmp_path: Path) -> None:
    files = NUMBERS / "finetuned"
    words = {"dictionaries": (files / "dict.de.txt", files / "dict.en.txt"), "spm": files / "spm.model"}
    found = both(NUMBERS / "pretrained.pt", convert(NUMBERS / "pretrained.pt", tmp_path / "hf", "deltalm/hf", **words))
    assert_passed(found, BOTH)
    assert any("vocab = 170 and 163" in note for note in found.notes)


def test_what_transformers_saves_again(xlmr_hf: Path, tmp_path: Path) -> None:
    """A classifier on top of a converted model, saved by transformers, without a common head."""
    AutoModelForSequenceClassification.from_pretrained(xlmr_hf, num_labels=2).save_pretrained(tmp_path / "tuned")
    found = both(XLMR, tmp_path / "tuned")
    assert_passed(found, ENCODER[:-1])
    assert any("no head in common" in note for note in found.notes)


def test_progress_and_threads(xlmr_hf: Path) -> None:
    from ckptconv.forward import run_both
    from tests.forward.side import subject

    seen: list[tuple[int, int]] = []
    threads = torch.get_num_threads()
    run_both(subject(XLMR), subject(xlmr_hf), lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert {total for _, total in seen} == {seen[-1][0]}
    assert torch.get_num_threads() == threads
