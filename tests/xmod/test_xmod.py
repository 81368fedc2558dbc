"""X-MOD between the real fairseq and transformers: every language, both ways, post-norm and pre-norm."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fairseq")  # the [fairseq] extra is not installed with transformers 4.57

import torch
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.xmod import XMODModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    XmodForMaskedLM,
    XmodForSequenceClassification,
    XmodForTokenClassification,
    XmodModel,
)

import ckptconv
from ckptconv import Options, convert, verify
from ckptconv.errors import DoesNotFit, WrongUse
from tests.fairseq_side import dictionary, quiet
from tests.xlmr.hf_side import PAD, assert_same, padded_batches, shake
from tests.xlmr.samples import TOKENS

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
LANGUAGES = ["en_XX", "de_DE", "fr_XX"]
SIZES = {"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4,
         "max_positions": 32, "languages": LANGUAGES}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "base": ("xmod_base", {}),
    "large, norms first": ("xmod_large_prenorm", {}),
    "one language": ("xmod_base", {"languages": ["sw_KE"]}),
    "in no order": ("xmod_base", {"languages": ["vi_VN", "en_XX", "zh_CN", "af_ZA"]}),
    "narrow adapters": ("xmod_base", {"bottleneck": 8}),
    "untied": ("xmod_base", {"untie_weights_roberta": True}),
    "other sizes": ("xmod_base", {"encoder_layers": 3, "encoder_attention_heads": 2, "max_positions": 20}),
    "no norm before the adapter's residual": ("xmod_base", {"ln_before_adapter": False}),
    "the norm not used twice": ("xmod_base", {"adapter_reuse_layer_norm": False}),
    "a norm of its own": ("xmod_base", {"adapter_layer_norm": True, "adapter_reuse_layer_norm": False}),
    "the adapters' norm, norms first": ("xmod_large_prenorm", {"adapter_layer_norm": False}),
}


def build(arch: str = "xmod_base", heads: dict[str, int] | None = None, **flags: Any) -> Any:
    """fairseq's model with random weights (biases and norms too), in eval mode."""
    torch.manual_seed(0)
    args = argparse.Namespace(**{**SIZES, **flags})
    ARCH_CONFIG_REGISTRY[arch](args)
    with quiet():
        model = XMODModel.build_model(args, SimpleNamespace(source_dictionary=dictionary(45)))
    for name, classes in (heads or {}).items():
        model.register_classification_head(name, classes)
    shake(model)
    return model.eval()


def save(model: Any, path: Path) -> Path:
    """The model in a file as fairseq 0.12 writes it, as far as reading needs it."""
    torch.save({"args": None, "cfg": {"model": model.args}, "model": model.state_dict()}, path)
    return path


def run(source: Path, output: Path, to: str, **options: Any) -> Path:
    convert(source, output, Options(to=to, **options))
    return output


def opened(path: Path) -> Any:
    """A file of ours in fairseq: its own args, its own upgrade, strictly."""
    content = torch.load(path, weights_only=True)
    args = argparse.Namespace(**content["cfg"]["model"])
    with quiet():
        model = XMODModel.build_model(args, SimpleNamespace(source_dictionary=dictionary(45)))
        model.load_state_dict(content["model"], strict=True)
    return model.eval()


@torch.no_grad()
def in_fairseq(model: Any, ids: Tensor, language: str) -> dict[str, Tensor]:
    spoken = [language] * len(ids)
    logits, extra = model(ids, return_all_hiddens=True, lang_id=spoken)
    features, _ = model(ids, features_only=True, lang_id=spoken)
    states = [state.transpose(0, 1) for state in extra["inner_states"][:-1]] + [features]
    return {**{f"states.{number}": state for number, state in enumerate(states)}, "logits": logits}


def loaded(kind: Any, folder: Path) -> Any:
    model, told = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


@torch.no_grad()
def in_transformers(model: Any, ids: Tensor, language: str) -> dict[str, Tensor]:
    spoken = torch.full((len(ids),), list(model.config.languages).index(language))
    found = model(input_ids=ids, attention_mask=ids.ne(PAD).long(), lang_ids=spoken, output_hidden_states=True)
    return {**{f"states.{number}": state for number, state in enumerate(found.hidden_states)}, "logits": found.logits}


def assert_alike(ours: Any, original: Any, languages: Sequence[str]) -> None:
    for language in languages:
        for ids in padded_batches(45):
            assert_same(in_transformers(ours, ids, language), in_fairseq(original, ids, language), ids)


@pytest.mark.parametrize("kind", KINDS)
def test_every_language_computes_what_fairseq_computes_and_comes_back(kind: str, tmp_path: Path):
    arch, flags = KINDS[kind]
    original = build(arch, **flags)
    source = save(original, tmp_path / "in.pt")
    ours = loaded(XmodForMaskedLM, run(source, tmp_path / "hf", "xmod/hf"))
    languages = flags.get("languages", LANGUAGES)
    assert list(ours.config.languages) == languages
    assert_alike(ours, original, languages)
    back = opened(run(tmp_path / "hf", tmp_path / "back", "fairseq") / "model.pt")
    assert list(back.encoder.sentence_encoder.layers[0].adapter_modules) == languages
    before, after = original.state_dict(), back.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    for ids in padded_batches(45):
        for language in languages:
            assert_same(in_fairseq(back, ids, language), in_fairseq(original, ids, language), ids)


def test_the_sample_computes_what_its_own_fairseq_computed(tmp_path: Path):
    sample = torch.load(GOLDEN / "xmod_base.pt", weights_only=False)
    torch.save({"args": None, "cfg": {"model": sample["args"]}, "model": sample["sd"]}, tmp_path / "in.pt")
    ours = loaded(XmodForMaskedLM, run(tmp_path / "in.pt", tmp_path / "hf", "hf"))
    with torch.no_grad():
        found = ours(input_ids=TOKENS, attention_mask=TOKENS.ne(PAD).long(), lang_ids=torch.tensor([0, 2, 1])).logits
    there = TOKENS.ne(PAD)
    torch.testing.assert_close(found[there], sample["o"][there], atol=1e-5, rtol=0)


@pytest.mark.parametrize("arch", ["xmod_base", "xmod_large_prenorm"])
@pytest.mark.parametrize("asked", [("fr_XX",), ("fr_XX", "en_XX"), tuple(LANGUAGES)])
def test_languages_that_are_kept(arch: str, asked: tuple[str, ...], tmp_path: Path):
    original = build(arch)
    source = save(original, tmp_path / "in.pt")
    report = convert(source, tmp_path / "hf", Options(to="hf", languages=asked))
    kept = [language for language in LANGUAGES if language in asked]
    ours = loaded(XmodForMaskedLM, tmp_path / "hf")
    assert list(ours.config.languages) == kept
    assert_alike(ours, original, kept)
    told = {each.key: each.reason for each in report.plan.dropped if "adapter_modules" in each.key}
    assert {key.split(".")[5] for key in told} == set(LANGUAGES) - set(asked)
    assert all("is not among --languages" in reason for reason in told.values())
    proof = verify(source, tmp_path / "hf")
    assert proof.verdict == ("proved" if len(kept) == 3 else "proved_with_losses")
    fewer = opened(run(tmp_path / "hf", tmp_path / "back", "fairseq", languages=kept[:1]) / "model.pt")
    for ids in padded_batches(45):
        assert_same(in_fairseq(fewer, ids, kept[0]), in_fairseq(original, ids, kept[0]), ids)


def test_languages_that_are_not_there(tmp_path: Path):
    source = save(build(), tmp_path / "in.pt")
    with pytest.raises(DoesNotFit, match=r"--languages fr_FR: the model has no such one; expected some of fr_XX"):
        run(source, tmp_path / "hf", "hf", languages=("fr_FR",))
    assert not (tmp_path / "hf").exists()
    with pytest.raises(WrongUse, match="--languages: the models of xlmr have none to choose from"):
        run(GOLDEN / "fairseq-0.10.2_roberta_mlm.pt", tmp_path / "hf", "hf", languages=("en_XX",))
    with pytest.raises(WrongUse, match="--languages can't go with --to same"):
        run(source, tmp_path / "x.pt", "same", languages=("en_XX",))


def test_the_order_of_languages_is_the_configs_and_a_config_of_others_is_refused(tmp_path: Path):
    run(save(build(), tmp_path / "in.pt"), tmp_path / "hf", "hf")
    keys = [key for key in load_file(tmp_path / "hf" / "model.safetensors") if "layer.0.output.adapter_modules" in key]
    assert next(key.split(".")[6] for key in sorted(keys)) == "de_DE"  # by the alphabet, in the file
    config = tmp_path / "hf" / "config.json"
    document = json.loads(config.read_text())
    config.write_text(json.dumps({**document, "languages": ["en_XX", "de_DE", "it_IT"]}))
    with pytest.raises(DoesNotFit, match="languages"):
        run(tmp_path / "hf", tmp_path / "back", "fairseq")


@pytest.mark.parametrize("heads", [{"mnli": 3}, {"mnli": 3, "xnli": 2}])
def test_classification_heads(heads: dict[str, int], tmp_path: Path):
    original = build(heads=heads)
    source = save(original, tmp_path / "in.pt")
    ids, _ = padded_batches(45)
    for name, classes in heads.items():
        ours = loaded(XmodForSequenceClassification, run(source, tmp_path / name, "hf", head=name))
        assert ours.config.num_labels == classes
        for number, language in enumerate(LANGUAGES):
            with torch.no_grad():
                expected, _ = original(ids, classification_head_name=name, lang_id=[language] * len(ids))
                spoken = torch.full((len(ids),), number)
                found = ours(input_ids=ids, attention_mask=ids.ne(PAD).long(), lang_ids=spoken).logits
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        back = run(tmp_path / name, tmp_path / f"{name}-back", "fairseq", head=name) / "model.pt"
        state = torch.load(back, weights_only=True)["model"]
        assert torch.equal(state[f"classification_heads.{name}.dense.weight"], ours.classifier.dense.weight)


@pytest.mark.parametrize("kind", [XmodForMaskedLM, XmodModel, XmodForSequenceClassification])
def test_what_transformers_writes_becomes_fairseqs(kind: Any, tmp_path: Path):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "xmod", vocab_size=45, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=34, type_vocab_size=1, layer_norm_eps=1e-5, languages=LANGUAGES, num_labels=3,
        pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = kind(config).eval()
    shake(model)
    model.save_pretrained(tmp_path / "hf")
    original = opened(run(tmp_path / "hf", tmp_path / "out", "xmod/fairseq") / "model.pt")
    body = getattr(model, "roberta", model)
    for ids in padded_batches(45):
        for number, language in enumerate(LANGUAGES):
            with torch.no_grad():
                spoken = torch.full((len(ids),), number)
                found = body(input_ids=ids, attention_mask=ids.ne(PAD).long(), lang_ids=spoken).last_hidden_state
                expected, _ = original(ids, features_only=True, lang_id=[language] * len(ids))
            torch.testing.assert_close(found[ids.ne(PAD)], expected[ids.ne(PAD)], atol=1e-5, rtol=0)


def test_token_classification_has_no_counterpart(tmp_path: Path):
    config = AutoConfig.for_model("xmod", vocab_size=45, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
                                  intermediate_size=64, type_vocab_size=1, layer_norm_eps=1e-5)  # fmt: skip
    XmodForTokenClassification(config).save_pretrained(tmp_path / "hf")
    with pytest.raises(DoesNotFit, match="no token classification"):
        run(tmp_path / "hf", tmp_path / "out", "xmod/fairseq")


@pytest.mark.parametrize("names", json.loads((GOLDEN / "xmod_langs.json").read_text()).values(), ids=len)
def test_every_published_list_of_languages_keeps_its_order(names: list[str], tmp_path: Path):
    original = build(languages=names, encoder_layers=1)
    run(save(original, tmp_path / "in.pt"), tmp_path / "hf", "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["languages"] == names
    run(tmp_path / "hf", tmp_path / "back", "fairseq")
    assert torch.load(tmp_path / "back" / "model.pt", weights_only=True)["cfg"]["model"]["languages"] == names


@pytest.mark.parametrize("arch", ["xmod_base", "xmod_large_prenorm"])
def test_both_forward_passes(arch: str, tmp_path: Path):
    source = save(build(arch, languages=[f"l{number:02}_XX" for number in range(20)]), tmp_path / "in.pt")
    found = verify(source, run(source, tmp_path / "hf", "hf"), forward=True).forward
    assert (found.passed, found.top1) == (True, 1.0)
    assert found.sentences >= 20  # each language is run
    state = load_file(tmp_path / "hf" / "model.safetensors")
    key = "roberta.encoder.layer.1.output.adapter_modules.l17_XX.dense1.weight"
    save_file({**state, key: state[key] * 2}, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    assert verify(source, tmp_path / "hf", forward=True).forward.passed is False


def test_inspect_names_it(tmp_path: Path):
    report = ckptconv.inspect(save(build(), tmp_path / "in.pt"))
    assert (report.layout, report.dims["adapter"]) == ("xmod/fairseq", 16)
