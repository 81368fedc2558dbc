"""XLM between its own code's files and transformers: the same numbers, bit for bit the same tensors, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    XLMForMultipleChoice,
    XLMForQuestionAnswering,
    XLMForQuestionAnsweringSimple,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMModel,
    XLMWithLMHeadModel,
)

import ckptconv
from ckptconv import audit, verify
from tests.xlm.side import (
    GOLDEN,
    KINDS,
    SPECIAL,
    TINY,
    checkpoint,
    loaded,
    logits,
    made,
    original,
    references,
    run,
    saved,
    within,
)

CLASSES = [XLMModel, XLMWithLMHeadModel, XLMForSequenceClassification, XLMForTokenClassification,
           XLMForQuestionAnsweringSimple, XLMForQuestionAnswering, XLMForMultipleChoice]  # fmt: skip
# What SentenceEmbedder.reload and TransformerModel read of a file's params.
READ = ["n_words", "emb_dim", "n_layers", "n_heads", "n_langs", "id2lang", "lang2id", "langs", "use_lang_emb",
        "dropout", "attention_dropout", "gelu_activation", "sinusoidal_embeddings", "share_inout_emb", "asm",
        "use_memory", "encoder_only", "bos_index", "eos_index", "pad_index", "unk_index", "mask_index"]  # fmt: skip


def assert_close(found: Any, expected: Any, there: Any) -> None:
    torch.testing.assert_close(found[there], expected[there], atol=1e-5, rtol=0)


def test_the_sample_computes_what_its_own_code_computed(tmp_path: Path):
    reference = torch.load(GOLDEN / "ref_logits_xlm_tiny.pt", weights_only=True)
    ours = loaded(run(TINY, tmp_path / "hf", "xlm/hf"))
    there = within(reference["x"], reference["len"])
    assert_close(logits(ours, reference["x"], reference["len"]), reference["y"], there)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_computes_what_its_own_code_computed_and_comes_back(kind: str, tmp_path: Path):
    told = references()[kind]
    source = saved(told["checkpoint"], tmp_path / "in.pth")
    there = within(told["x"], told["lengths"])
    for causal in (False, True):
        ours = loaded(run(source, tmp_path / f"hf{causal}", "xlm/hf", set={"causal": causal}))
        assert ours.config.causal == causal
        found = logits(ours, told["x"], told["lengths"], told["langs"])
        assert_close(found, told["causal" if causal else "y"], there)
    assert verify(source, tmp_path / "hfFalse").verdict == "proved"
    back = original(run(tmp_path / "hfFalse", tmp_path / "back", "xlm/original"))
    before = told["checkpoint"]
    assert list(back["model"]) == list(before["model"])
    assert all(torch.equal(back["model"][key], before["model"][key]) for key in before["model"])
    words, output = (back["model"][key] for key in ("embeddings.weight", "pred_layer.proj.weight"))
    assert (words.data_ptr() == output.data_ptr()) == (kind != "untied")
    assert {name: back["params"][name] for name in READ} == {name: before["params"][name] for name in READ}
    assert verify(tmp_path / "hfFalse", tmp_path / "back").verdict == "proved"


@pytest.mark.parametrize("kind", KINDS)
def test_what_xlm_asserts_of_a_file_holds(kind: str, tmp_path: Path):
    """xlm/data/dictionary.py: Dictionary.check_valid; xlm/model/transformer.py: TransformerModel."""
    run(saved(checkpoint(kind), tmp_path / "in.pth"), tmp_path / "hf", "xlm/hf")
    back = original(run(tmp_path / "hf", tmp_path / "back", "xlm/original"))
    params, words, ids, counts = (back[name] for name in ("params", "dico_id2word", "dico_word2id", "dico_counts"))
    assert [words[number] for number in range(14)] == SPECIAL
    assert all(ids[word] == number for number, word in words.items())
    assert len(words) == len(ids) == len(counts) == params["n_words"]
    assert counts.keys() == ids.keys()
    listed = [counts[words[number]] for number in range(14, len(words))]
    assert listed == sorted(listed, reverse=True)
    assert len(params["id2lang"]) == len(params["lang2id"]) == params["n_langs"]
    assert all(params["lang2id"][name] == number for number, name in params["id2lang"].items())
    has = "lang_embeddings.weight" in back["model"]
    assert has == (params["n_langs"] > 1 and params["use_lang_emb"])


@pytest.mark.parametrize("emb", [True, False])
def test_languages_with_and_without_embeddings(emb: bool, tmp_path: Path):
    kind = "language embeddings" if emb else "languages without embeddings"
    run(saved(checkpoint(kind), tmp_path / "in.pth"), tmp_path / "hf", "xlm/hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["n_langs"], config["use_lang_emb"]) == (3, emb)
    assert config["id2lang"] == {"0": "en", "1": "fr", "2": "de"}
    assert config["lang2id"] == {"en": 0, "fr": 1, "de": 2}
    told = references()[kind]
    ours = loaded(tmp_path / "hf")
    spoken = logits(ours, told["x"], told["lengths"], told["langs"])
    silent = logits(ours, told["x"], told["lengths"])
    assert torch.equal(spoken, silent) == (not emb)


def test_the_sample_with_languages_but_no_embeddings(tmp_path: Path):
    ours = loaded(run(GOLDEN / "xlm_original.tiny_langs_nolangemb.pth", tmp_path / "hf", "hf"))
    assert (ours.config.n_langs, ours.config.use_lang_emb) == (3, False)
    back = original(run(tmp_path / "hf", tmp_path / "back", "original"))
    assert back["params"]["langs"] == ["en", "fr", "de"]


@pytest.mark.parametrize("prefix", ["module.", "model.module."])
def test_a_wrappers_prefix(prefix: str, tmp_path: Path):
    content = checkpoint("language embeddings")
    content["model"] = {prefix + key: weight for key, weight in content["model"].items()}
    report = ckptconv.convert(saved(content, tmp_path / "in.pth"), tmp_path / "hf", ckptconv.Options(to="xlm/hf"))
    assert any(prefix in note for note in report.notes)
    told = references()["language embeddings"]
    found = logits(loaded(tmp_path / "hf"), told["x"], told["lengths"], told["langs"])
    assert_close(found, told["y"], within(told["x"], told["lengths"]))


@pytest.mark.parametrize("lm_head", [True, False])
def test_what_transformers_writes_becomes_xlms(lm_head: bool, tmp_path: Path):
    model = made(XLMWithLMHeadModel if lm_head else XLMModel, n_langs=3)
    model.save_pretrained(tmp_path / "hf")
    report = ckptconv.convert(tmp_path / "hf", tmp_path / "out", ckptconv.Options(to="xlm/original"))
    back = original(tmp_path / "out")
    body = getattr(model, "transformer", model).state_dict()
    assert all(torch.equal(back["model"][key], body[key]) for key in body)
    assert torch.equal(back["model"]["pred_layer.proj.weight"], body["embeddings.weight"])
    assert {told.key for told in report.plan.created} == (
        {"pred_layer.proj.weight", "pred_layer.proj.bias"} if not lm_head else set()
    )
    assert back["params"]["id2lang"] == {0: "lang0", 1: "lang1", 2: "lang2"}
    assert back["dico_id2word"][14] == "madeupword0000"
    again = loaded(run(tmp_path / "out", tmp_path / "again", "xlm/hf"))
    assert all(torch.equal(again.transformer.state_dict()[key], body[key]) for key in body)


def test_positions_that_xlm_has_not(tmp_path: Path):
    made(max_position_embeddings=600).save_pretrained(tmp_path / "hf")
    with pytest.raises(
        ckptconv.errors.DoesNotFit, match=r"600, expected 512: XLM has 512 positions .*--max-positions 512"
    ):
        run(tmp_path / "hf", tmp_path / "out", "original")
    back = original(run(tmp_path / "hf", tmp_path / "out", "original", max_positions=512))
    assert back["model"]["position_embeddings.weight"].shape == (512, 8)


def test_more_rows_get_made_up_words(tmp_path: Path):
    source = saved(checkpoint("one language"), tmp_path / "in.pth")
    ours = loaded(run(source, tmp_path / "hf", "hf", vocab=33))
    vocab = json.loads((tmp_path / "hf" / "vocab.json").read_text())
    assert (ours.config.vocab_size, len(vocab), vocab["madeupword0002</w>"]) == (33, 33, 32)
    fewer = run(run(source, tmp_path / "cut", "hf", vocab=20), tmp_path / "back", "original")
    assert len(original(fewer)["dico_counts"]) == 20


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_of_transformers_is_known(kind: Any, tmp_path: Path):
    made(kind, num_labels=4, n_langs=2).save_pretrained(tmp_path / "hf")
    report = ckptconv.inspect(tmp_path / "hf")
    assert report.layout == "xlm/hf"
    assert audit(tmp_path / "hf", "xlm/hf").verdict == "exact"
    assert audit(tmp_path / "hf", tmp_path / "hf").verdict == "exact"
    made(n_langs=2).save_pretrained(tmp_path / "lm")
    body = audit(tmp_path / "lm", tmp_path / "hf")
    assert body.verdict == ("exact" if kind is XLMWithLMHeadModel else "as_expected")


def test_audit_of_an_original_file():
    report = audit(TINY, "xlm/original")
    assert (report.verdict, report.layout) == ("exact", "xlm/original")


def test_an_original_file_is_ready():
    assert {each.code for each in ckptconv.validate(TINY).findings} == {"UNKNOWN_SIZE"}


def test_inspect_says_what_it_is():
    report = ckptconv.inspect(TINY)
    assert report.layout == "xlm/original"
    assert (report.dims["layers"], report.dims["vocab"]) == (2, 60)
    assert report.about == "XLM of facebookresearch/XLM: MLM, CLM or TLM; the model before XLM-R"
    assert [each.name for each in report.producer] == ["torch", "facebookresearch/XLM"]


def test_verify_finds_a_changed_value_and_says_which_half_can_not_run(tmp_path: Path):
    source = saved(checkpoint("language embeddings"), tmp_path / "in.pth")
    run(source, tmp_path / "hf", "xlm/hf")
    found = verify(source, tmp_path / "hf", forward=True)
    assert [each.split(":")[0] for each in found.forward.not_run] == ["the source half could not run"]
    assert "fairseq has no xlm/original" in found.forward.not_run[0]
    state = load_file(tmp_path / "hf" / "model.safetensors")
    state["transformer.lang_embeddings.weight"][1, 2] += 1
    save_file(state, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    assert verify(source, tmp_path / "hf").verdict == "differs"


@pytest.mark.parametrize("kind", CLASSES[:5], ids=lambda kind: kind.__name__)
def test_two_directories_of_transformers_in_the_forward_pass(kind: Any, tmp_path: Path):
    made(kind, n_langs=3, num_labels=2).save_pretrained(tmp_path / "a")
    run(tmp_path / "a", tmp_path / "b", "same")
    found = verify(tmp_path / "a", tmp_path / "b", forward=True).forward
    assert found.passed, found.not_run
    state = load_file(tmp_path / "b" / "model.safetensors")
    key = next(key for key in state if key.endswith("lang_embeddings.weight"))
    save_file({**state, key: state[key].flip(0).contiguous()}, tmp_path / "b" / "model.safetensors", {"format": "pt"})
    assert verify(tmp_path / "a", tmp_path / "b", forward=True).forward.passed is False
