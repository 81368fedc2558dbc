"""What is no XLM, or one that the other side can't hold: one sentence that says so, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import (
    XLMForQuestionAnswering,
    XLMForQuestionAnsweringSimple,
    XLMForSequenceClassification,
    XLMForTokenClassification,
)

import ckptconv
from ckptconv.cli import main
from ckptconv.errors import CkptconvError, DoesNotFit
from tests.xlm.side import TINY, checkpoint, loaded, logits, made, original, references, run, saved, within

HEADS = {
    XLMForSequenceClassification: "train one and never save it",
    XLMForTokenClassification: "XLM has no token classification head",
    XLMForQuestionAnsweringSimple: "XLM has no question answering head",
    XLMForQuestionAnswering: "XLM has no question answering head",
}


@pytest.mark.parametrize("kind", HEADS, ids=lambda kind: kind.__name__)
def test_heads_are_left_behind_only_when_asked(kind: Any, tmp_path: Path):
    model = made(kind)
    model.save_pretrained(tmp_path / "hf")
    with pytest.raises(DoesNotFit, match=HEADS[kind]):
        run(tmp_path / "hf", tmp_path / "out", "xlm/original")
    back = original(run(tmp_path / "hf", tmp_path / "out", "xlm/original", head="none"))
    assert torch.equal(back["model"]["ffns.1.lin1.weight"], model.transformer.ffns[1].lin1.weight)
    assert not back["model"]["pred_layer.proj.bias"].any()


def test_an_adaptive_softmax(tmp_path: Path):
    source = saved(checkpoint("adaptive softmax"), tmp_path / "in.pth")
    assert ckptconv.inspect(source).layout == "xlm/original"
    with pytest.raises(DoesNotFit, match=r"its adaptive softmax .* can't run in transformers"):
        run(source, tmp_path / "hf", "xlm/hf")


def test_an_encoder_with_a_decoder(tmp_path: Path):
    told = references()["encoder and decoder"]
    source = saved(told["checkpoint"], tmp_path / "in.pth")
    with pytest.raises(DoesNotFit, match=r"encoder_only = False; .* an encoder alone, .*--set encoder_only=true takes"):
        run(source, tmp_path / "hf", "xlm/hf")
    asked = ckptconv.Options(to="xlm/hf", set={"encoder_only": True})
    report = ckptconv.convert(source, tmp_path / "hf", asked)
    assert [each.reason for each in report.plan.dropped if each.key == "decoder"] == [
        "another state dict of the same file"
    ]
    found = logits(loaded(tmp_path / "hf"), told["x"], told["lengths"], told["langs"])
    there = within(told["x"], told["lengths"])
    torch.testing.assert_close(found[there], told["y"][there], atol=1e-5, rtol=0)


PARAMS = {
    "other special ids": ({"pad_index": 1}, "params.pad_index = 1, expected 2"),
    "another mask": ({"mask_index": 6}, "params.mask_index = 6, expected 5"),
    "heads that don't divide": ({"n_heads": 3}, "the heads divide the width"),
    "another width": ({"emb_dim": 16}, "params.emb_dim = 16, but the tensors say d = 8"),
    "more words": ({"n_words": 31}, "params.n_words = 31, but the tensors say vocab = 30"),
    "more languages than embeddings": ({"n_langs": 4}, "says 4 languages, but names 3"),
    "fewer languages than embeddings": (
        {"n_langs": 2, "id2lang": {0: "en", 1: "fr"}, "lang2id": {"en": 0, "fr": 1}},
        "n_langs = 2; expected that it is the number of the language embeddings",
    ),
    "embeddings that aren't used": ({"use_lang_emb": False}, "use_lang_emb = False; expected that a model of several"),
    "no number of languages": ({"n_langs": "three"}, "n_langs = 'three'; expected a value such as 3"),
    "no truth": ({"use_lang_emb": 7.5}, "use_lang_emb = 7.5; expected a value such as True"),
    "one language twice": ({"id2lang": {0: "en", 1: "en", 2: "de"}}, "contradict each other"),
    "the other direction": ({"lang2id": {"en": 1, "fr": 0, "de": 2}}, "contradict each other"),
    "languages without numbers": ({"id2lang": {"a": "en"}}, "expected a name for each of the numbers"),
    "names that are none": ({"id2lang": {0: 1, 1: 2, 2: 3}}, "expected a name for each of the numbers"),
    "an adaptive softmax without one": ({"asm": True}, "params.asm = True, expected False"),
}


@pytest.mark.parametrize("name", PARAMS)
def test_params_that_contradict_the_tensors(name: str, tmp_path: Path):
    changes, said = PARAMS[name]
    content = checkpoint("language embeddings")
    content["params"] |= changes
    with pytest.raises(CkptconvError) as caught:
        run(saved(content, tmp_path / "in.pth"), tmp_path / "hf", "xlm/hf")
    assert said in caught.value.message
    assert not (tmp_path / "hf").exists()


def test_language_embeddings_that_are_missing(tmp_path: Path):
    content = checkpoint("language embeddings")
    del content["model"]["lang_embeddings.weight"]
    with pytest.raises(
        DoesNotFit, match="use_lang_emb = True; expected that a model of several languages has language"
    ):
        run(saved(content, tmp_path / "in.pth"), tmp_path / "hf", "xlm/hf")


def test_languages_without_end(tmp_path: Path):
    content = checkpoint("languages without embeddings")
    content["params"] = {**content["params"], "n_langs": 10**12, "id2lang": None, "lang2id": None}
    with pytest.raises(DoesNotFit, match="says 1,000,000,000,000 languages and names none"):
        run(saved(content, tmp_path / "in.pth"), tmp_path / "hf", "xlm/hf")


CONFIGS = {
    "FlauBERT": ({"model_type": "flaubert"}, "model_type = 'flaubert', expected xlm"),
    "another eps": ({"layer_norm_eps": 1e-5}, "layer_norm_eps = 1e-05, expected 1e-12"),
    "a decoder": ({"is_encoder": False}, "is_encoder = False; expected that the model is an encoder alone"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_xlm_can_not_follow(name: str, tmp_path: Path):
    changes, said = CONFIGS[name]
    made().save_pretrained(tmp_path / "hf")
    config = tmp_path / "hf" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    with pytest.raises(DoesNotFit, match=said):
        run(tmp_path / "hf", tmp_path / "out", "xlm/original")


def test_feed_forward_layers_of_another_width(tmp_path: Path):
    content = checkpoint("one language")
    for layer in range(2):
        content["model"][f"ffns.{layer}.lin1.weight"] = torch.zeros(24, 8)
        content["model"][f"ffns.{layer}.lin1.bias"] = torch.zeros(24)
        content["model"][f"ffns.{layer}.lin2.weight"] = torch.zeros(8, 24)
    with pytest.raises(DoesNotFit, match="the feed-forward layers are four times as wide"):
        run(saved(content, tmp_path / "in.pth"), tmp_path / "hf", "xlm/hf")


@pytest.mark.parametrize("vocab", [68729, 67542])
def test_flaubert_is_named(vocab: int, tmp_path: Path):
    content = checkpoint("one language")["model"]
    content["embeddings.weight"] = content["pred_layer.proj.weight"] = torch.zeros(vocab, 8)
    content["pred_layer.proj.bias"] = torch.zeros(vocab)
    with pytest.raises(CkptconvError, match="is FlauBERT"):
        run(saved({"model": content}, tmp_path / "in.pth"), tmp_path / "hf", "xlm/hf")


@pytest.mark.parametrize("to", ["xlmr/hf", "xlmr/fairseq"])
def test_what_some_notes_take_for_xlmr(to: str, tmp_path: Path):
    result = CliRunner().invoke(main, ["convert", str(TINY), str(tmp_path / "out"), "--to", to])
    assert result.exit_code == 3
    text = " ".join(result.stderr.split())
    assert (
        "is xlm/original (XLM of facebookresearch/XLM: MLM, CLM or TLM; the model before XLM-R), which can't become"
        in text
    )
    assert "expected xlm/hf or same" in text
