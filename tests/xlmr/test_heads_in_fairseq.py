"""Classification heads, both ways: trained on one side, they give the same logits on the other."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fairseq")

import torch
from transformers import (
    AutoModelForSequenceClassification,
    XLMRobertaForSequenceClassification,
    XLMRobertaXLForSequenceClassification,
)

import ckptconv
from ckptconv.errors import DoesNotFit
from tests import spm_side, xlmr_side
from tests.xlmr.hf_side import assert_same, build, load, outputs, padded, padded_batches, run, shake, states, tune
from tests.xlmr.samples import PRENORM

HEAD = "sentence_classification_head"  # what --classification-head-name of fairseq's task is, unless told otherwise
KINDS = {"XLM-R": XLMRobertaForSequenceClassification, "XLM-R XL": XLMRobertaXLForSequenceClassification}


def trained_in_fairseq(heads: dict[str, int], steps: int = 5, **flags: Any) -> Any:
    """A model with all of these heads, trained with fairseq's modules on classes, or where there is one, on zeros."""
    model = xlmr_side.build(heads=heads, **flags)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ids = padded_batches(45)[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for step in range(steps):
        for name, classes in heads.items():
            logits, _ = model(ids, classification_head_name=name)
            goal = (torch.arange(len(ids)) + step) % classes
            loss = logits.square().mean() if classes == 1 else torch.nn.functional.cross_entropy(logits, goal)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(
        not torch.equal(value, before[key]) for key, value in model.state_dict().items() if "classification" in key
    )
    return model.eval()


def assert_same_logits(model: Any, theirs: Any, head: str = HEAD) -> None:
    """Padded on the right: both heads read what stands first, which on the left would be padding."""
    ids = padded_batches(45)[0]
    found = outputs(model, ids)
    torch.testing.assert_close(found["logits"], xlmr_side.classify(theirs, ids, head), atol=1e-5, rtol=0)
    assert_same(states(found), states(xlmr_side.outputs(theirs, ids)), ids)


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_was_trained_in_fairseq(kind: str, classes: int, tmp_path: Path) -> None:
    theirs = trained_in_fairseq({HEAD: classes}, **(PRENORM if kind == "XLM-R XL" else {}))
    xlmr_side.save(theirs, tmp_path / "in.pt")
    model = load(run(tmp_path / "in.pt", tmp_path / "hf", "xlmr/hf"), AutoModelForSequenceClassification)
    assert type(model) is KINDS[kind]
    assert model.config.num_labels == classes
    assert_same_logits(model, theirs)


def test_of_several_heads_one_is_named(tmp_path: Path) -> None:
    theirs = trained_in_fairseq({"mnli": 3, "stsb": 1, "rte": 2})
    xlmr_side.save(theirs, tmp_path / "in.pt")
    with pytest.raises(DoesNotFit, match="mnli, stsb, rte"):
        run(tmp_path / "in.pt", tmp_path / "hf", "xlmr/hf")
    for name, classes in (("mnli", 3), ("stsb", 1), ("rte", 2)):
        folder = run(tmp_path / "in.pt", tmp_path / name, "xlmr/hf", head=name)
        model = load(folder, AutoModelForSequenceClassification)
        assert model.config.num_labels == classes
        assert_same_logits(model, theirs, name)


@pytest.mark.parametrize("layout", ["fairseq-0.10", "fairseq-0.9", "fairseq-0.8", "fairseq-xlm_align"])
def test_heads_of_the_older_layouts(layout: str, tmp_path: Path) -> None:
    """Several heads at once stay where both sides can hold them, and load in the real fairseq by its upgrades."""
    theirs = trained_in_fairseq({"mnli": 3, "rte": 2})
    xlmr_side.save(theirs, tmp_path / "in.pt")
    run(tmp_path / "in.pt", tmp_path / "old.pt", f"xlmr/{layout}")
    back = xlmr_side.load(run(tmp_path / "old.pt", tmp_path / "back.pt", "xlmr/fairseq"), data(tmp_path))
    with torch.serialization.safe_globals([Namespace]):
        old = xlmr_side.load(tmp_path / "old.pt", data(tmp_path))
    ids = padded_batches(45)[0]
    for name in ("mnli", "rte"):
        expected = xlmr_side.classify(theirs, ids, name)
        assert torch.equal(xlmr_side.classify(old, ids, name), expected)
        assert torch.equal(xlmr_side.classify(back, ids, name), expected)
    model = load(run(tmp_path / "old.pt", tmp_path / "hf", "xlmr/hf", head="rte"), AutoModelForSequenceClassification)
    assert_same_logits(model, theirs, "rte")


def data(folder: Path) -> Path:
    return xlmr_side.write_dictionary(folder / "data", 45)


@pytest.mark.parametrize(
    "fields", [{"num_labels": 3}, {"num_labels": 1}, {"num_labels": 1, "problem_type": "regression"}], ids=str
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_was_trained_in_transformers(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    model = tune(build(KINDS[kind], **fields))
    assert model.roberta.embeddings.token_type_embeddings.weight.any()
    model.save_pretrained(tmp_path / "hf")
    run(tmp_path / "hf", tmp_path / "fairseq", "xlmr/fairseq")
    theirs = xlmr_side.load(tmp_path / "fairseq" / "model.pt", data(tmp_path))
    assert list(theirs.classification_heads) == [HEAD]
    assert_same_logits(model, theirs)


@pytest.mark.parametrize("activation", ["gelu_new", "relu", "relu2", "tanh", "linear"])
def test_a_classifier_with_another_activation(activation: str, tmp_path: Path) -> None:
    """Its masked-LM head would differ; the classification head is tanh's on both sides."""
    model = build(XLMRobertaForSequenceClassification, num_labels=3, hidden_act=activation)
    model.save_pretrained(tmp_path / "hf")
    run(tmp_path / "hf", tmp_path / "out.pt", "xlmr/fairseq")
    assert_same_logits(model, xlmr_side.load(tmp_path / "out.pt", data(tmp_path)))


def test_a_new_head_on_a_pretrained_model_in_fairseqs_hub(spm: bytes, tmp_path: Path) -> None:
    """Pretrained in fairseq, classified in transformers with names for the classes, used in fairseq, and back."""
    words = spm_side.xlmr(spm)
    start = xlmr_side.build(len(words), max_positions=126)
    run(xlmr_side.save_directory(start, tmp_path / "given", words, spm), tmp_path / "start", "xlmr/hf")
    names = {0: "entailment", 1: "neutral", 2: "contradiction"}
    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "start", num_labels=3, id2label=names, label2id={name: number for number, name in names.items()}
    )
    shake(model.classifier)
    model = tune(model)
    for file in ("tokenizer.json", "tokenizer_config.json", "sentencepiece.bpe.model"):
        (tmp_path / "tuned").mkdir(exist_ok=True)
        (tmp_path / "tuned" / file).write_bytes((tmp_path / "start" / file).read_bytes())
    model.save_pretrained(tmp_path / "tuned")

    hub = xlmr_side.open_directory(run(tmp_path / "tuned", tmp_path / "fairseq", "xlmr/fairseq"))
    assert (tmp_path / "fairseq" / "label.dict.txt").read_text().split()[::2] == list(names.values())
    ids = padded([hub.encode(line, line[:9]).tolist() for line in spm_side.SCRIPTS])
    with torch.no_grad():
        found = hub.predict(HEAD, ids, return_logits=True)
    torch.testing.assert_close(found, outputs(model, ids)["logits"], atol=1e-5, rtol=0)

    back = load(run(tmp_path / "fairseq", tmp_path / "back", "xlmr/hf"), AutoModelForSequenceClassification)
    assert back.config.id2label == names
    torch.testing.assert_close(outputs(back, ids)["logits"], found, atol=1e-5, rtol=0)


def test_the_masked_lm_head_that_fairseq_must_have_is_made_up_and_told(tmp_path: Path) -> None:
    build(XLMRobertaForSequenceClassification, num_labels=3).save_pretrained(tmp_path / "hf")
    report = ckptconv.convert(tmp_path / "hf", tmp_path / "out", ckptconv.Options(to="xlmr/fairseq"))
    told = {each.key for each in report.plan.created}
    assert {f"encoder.lm_head.{key}" for key in ("weight", "bias", "dense.weight", "layer_norm.bias")} <= told
    theirs = xlmr_side.load(tmp_path / "out" / "model.pt", data(tmp_path))
    assert theirs.encoder.lm_head.weight is theirs.encoder.sentence_encoder.embed_tokens.weight
    assert not theirs.encoder.lm_head.dense.weight.any()
