"""Every sample → hf in transformers: each class finds all it needs and nothing else, and computes fairseq's logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from tests.xlmr.hf_side import assert_same, build, load, outputs, padded_batches, run, states
from tests.xlmr.samples import LOGITS, SAMPLES, TOKENS

KINDS = ["XLMRobertaForMaskedLM", "XLMRobertaXLForMaskedLM", "XLMRobertaForSequenceClassification",
         "XLMRobertaXLForSequenceClassification"]  # fmt: skip


@pytest.mark.parametrize("name", LOGITS)
def test_logits_are_those_that_its_own_fairseq_computed(name: str, hf_sample: Callable[[str], Path]) -> None:
    expected = torch.load(SAMPLES[name].path.with_name(LOGITS[name]), weights_only=True)["o"]
    found = outputs(load(hf_sample(name)), TOKENS)
    assert_same({"logits": found["logits"]}, {"logits": expected}, TOKENS)


@pytest.mark.parametrize("name", SAMPLES)
def test_its_class_finds_all_it_needs(name: str, hf_sample: Callable[[str], Path]) -> None:
    (architecture,) = AutoConfig.from_pretrained(hf_sample(name)).architectures
    model = load(hf_sample(name), getattr(transformers, architecture))
    assert type(model) is type(load(hf_sample(name), AutoModelForMaskedLM))
    assert ("XL" in architecture.removeprefix("XLM")) == (name == "XL")
    assert model.lm_head.decoder.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("name", SAMPLES)
def test_the_bare_model_finds_all_it_needs(name: str, tmp_path: Path, hf_sample: Callable[[str], Path]) -> None:
    options = {**SAMPLES[name].options, "head": "none", "create": ("pooler",)}
    bare = load(run(SAMPLES[name].path, tmp_path / "bare", "xlmr/hf", **options), AutoModel)
    whole = load(hf_sample(name))
    for ids in padded_batches(45):
        assert_same(outputs(bare, ids), states(outputs(whole, ids)), ids)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("untied", [False, True], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_every_class_finds_all_it_needs(kind: str, untied: bool, layers: int, tmp_path: Path) -> None:
    """hf → fairseq → hf, as far as it can be seen without fairseq: the same class, and what it computed before."""
    fields = {"num_hidden_layers": layers, "num_labels": 3, "tie_word_embeddings": not untied}
    before = build(getattr(transformers, kind), **fields)
    before.save_pretrained(tmp_path / "before")
    run(tmp_path / "before", tmp_path / "fairseq", "xlmr/fairseq")
    auto = AutoModelForSequenceClassification if kind.endswith("SequenceClassification") else AutoModelForMaskedLM
    after = load(run(tmp_path / "fairseq", tmp_path / "after", "xlmr/hf"), type(before))
    assert type(load(tmp_path / "after", auto)) is type(before)
    ids = padded_batches(45)[0]
    expected, found = outputs(before, ids), outputs(after, ids)
    if "MaskedLM" in kind:
        assert_same(found, expected, ids)
        assert after.config.tie_word_embeddings == (not untied)
    else:
        torch.testing.assert_close(found["logits"], expected["logits"], atol=1e-5, rtol=0)
