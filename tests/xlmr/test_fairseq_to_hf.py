"""fairseq → hf: states of every layer and logits of the converted class against the real fairseq's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fairseq")  # the [fairseq] extra is not installed with transformers 4.57

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

import ckptconv
from ckptconv.errors import DoesNotFit
from tests import xlmr_side
from tests.xlmr.hf_side import GOLDEN, assert_same, load, outputs, padded_batches, run, states
from tests.xlmr.samples import PRENORM, SAMPLES

FUSED = "0.8"


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """original(name) → the sample in the real fairseq: by its own loader where it takes the file as it is."""
    data = tmp_path_factory.mktemp("data")
    (data / "dict.txt").write_bytes((GOLDEN / "xlmr-dict.txt").read_bytes())

    @cache
    def model(name: str) -> Any:
        sample = SAMPLES[name]
        if not sample.opens:
            return xlmr_side.from_state(sample.state(), sample.arguments())
        with xlmr_side.trusted():
            return xlmr_side.load(sample.path, data)

    return model


def halved(value: Any) -> Any:
    """The same content with fp32 tensors in fp16, as the public files are."""
    if isinstance(value, torch.Tensor):
        return value.half() if value.is_floating_point() else value
    return {key: halved(each) for key, each in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_computes_what_fairseq_computes(
    name: str, hf_sample: Callable[[str], Path], original: Callable[[str], Any]
) -> None:
    model = load(hf_sample(name))
    assert model.config.num_hidden_layers == 2
    for ids in padded_batches(45, longest=20):
        assert_same(outputs(model, ids), xlmr_side.outputs(original(name), ids), ids)


@pytest.mark.parametrize(("dtype", "stored"), [("keep", torch.float16), ("fp32", torch.float32)])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_legacy_file_in_fp16_computes_the_same(name: str, dtype: str, stored: torch.dtype, tmp_path: Path) -> None:
    """`0.8` in this form is what the public xlmr.base and xlmr.large are: legacy container, fp16, fused."""
    sample = SAMPLES[name]
    content = sample.read()
    content[sample.entry] = halved(content[sample.entry])
    torch.save(content, tmp_path / "half.pt", _use_new_zipfile_serialization=False)
    run(tmp_path / "half.pt", tmp_path / "hf", "xlmr/hf", dtype=dtype, **sample.options)
    assert {tensor.dtype for tensor in load_file(tmp_path / "hf" / "model.safetensors").values()} == {stored}
    assert AutoConfig.from_pretrained(tmp_path / "hf").dtype == stored
    original = xlmr_side.from_state(halved(sample.state()), sample.arguments())
    for ids in padded_batches(45):
        assert_same(outputs(load(tmp_path / "hf"), ids), xlmr_side.outputs(original, ids), ids)


def test_of_infoxlms_two_models_the_trained_one_is_taken(tmp_path: Path) -> None:
    """The momentum copy, `model_slow`, comes first and lags behind; in the sample it is still equal."""
    sample = SAMPLES["InfoXLM"]
    content = sample.read()
    keys = list(content["model"])
    first = {part: next(at for at, key in enumerate(keys) if key.startswith(part)) for part in ("model_s", "model_f")}
    assert first["model_s"] < first["model_f"]
    slow = {key: torch.rand_like(value) for key, value in content["model"].items() if key.startswith("model_slow.")}
    content["model"] |= slow
    torch.save(content, tmp_path / "in.pt")
    model = load(run(tmp_path / "in.pt", tmp_path / "hf", "xlmr/hf"))
    original = xlmr_side.from_state(sample.state(), sample.arguments())
    for ids in padded_batches(45):
        assert_same(outputs(model, ids), xlmr_side.outputs(original, ids), ids)


@pytest.mark.parametrize(
    "flags",
    [
        {"encoder_layers": 1},
        {"encoder_layers": 3, "encoder_attention_heads": 8, "encoder_ffn_embed_dim": 40},
        {"vocab": 77, "encoder_embed_dim": 24, "encoder_attention_heads": 2, "max_positions": 19},
        {"untie_weights_roberta": True},
        {"untie_weights_roberta": True, **PRENORM},
        {"encoder_layers": 3, **PRENORM},
        {"encoder_normalize_before": True, "layernorm_embedding": False, "encoder_attention_heads": 1},
    ],
    ids=str,
)
def test_any_model_computes_what_fairseq_computes(flags: dict[str, Any], tmp_path: Path) -> None:
    original = xlmr_side.build(**flags)
    model = load(run(xlmr_side.save(original, tmp_path / "in.pt"), tmp_path / "hf", "xlmr/hf"))
    assert ("XL" in type(model).__name__.removeprefix("XLM")) == flags.get("encoder_normalize_before", False)
    assert model.config.tie_word_embeddings == (not flags.get("untie_weights_roberta", False))
    for ids in padded_batches(flags.get("vocab", 45)):
        assert_same(outputs(model, ids), xlmr_side.outputs(original, ids), ids)


@pytest.mark.parametrize("width", [64, 128])
def test_without_arguments_the_heads_are_those_of_the_published_sizes(width: int, tmp_path: Path) -> None:
    """64 columns each, as in base and large: no tensor shows it, so it is told."""
    original = xlmr_side.build(encoder_embed_dim=width, encoder_attention_heads=width // 64, encoder_layers=1)
    torch.save({"model": original.state_dict()}, tmp_path / "in.pt")
    report = ckptconv.convert(tmp_path / "in.pt", tmp_path / "hf", ckptconv.Options(to="xlmr/hf"))
    assert any(f"num_attention_heads = {width // 64}" in note for note in report.notes)
    for ids in padded_batches(45):
        assert_same(outputs(load(tmp_path / "hf"), ids), xlmr_side.outputs(original, ids), ids)


@pytest.mark.parametrize("activation", ["gelu_accurate", "relu", "relu_squared", "tanh", "linear"])
def test_another_activation_is_the_same_but_for_the_masked_lm_head(activation: str, tmp_path: Path) -> None:
    """transformers' masked-LM head is gelu's whatever the config says; fairseq's has the model's activation."""
    original = xlmr_side.build(activation_fn=activation, heads={"head": 3})
    xlmr_side.save(original, tmp_path / "in.pt")
    with pytest.raises(DoesNotFit, match="gelu"):
        run(tmp_path / "in.pt", tmp_path / "hf", "xlmr/hf", head="lm_head")
    assert not (tmp_path / "hf").exists()
    bare = run(tmp_path / "in.pt", tmp_path / "bare", "xlmr/hf", head="none", create=("pooler",))
    classifier = run(tmp_path / "in.pt", tmp_path / "classifier", "xlmr/hf", head="head")
    for ids in padded_batches(45):
        assert_same(outputs(load(bare, AutoModel), ids), states(xlmr_side.outputs(original, ids)), ids)
    ids = padded_batches(45)[0]
    logits = outputs(load(classifier, AutoModelForSequenceClassification), ids)["logits"]
    torch.testing.assert_close(logits, xlmr_side.classify(original, ids, "head"), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"no_scale_embedding": False}, "no_scale_embedding"),
        ({"encoder_normalize_before": True, "layernorm_embedding": True}, "layernorm_embedding"),
        ({"layernorm_embedding": False}, "layernorm_embedding"),
        ({"encoder_learned_pos": False}, "embed_positions"),
        ({"no_token_positional_embeddings": True}, "embed_positions"),
        ({"quant_noise_pq": 0.1}, "quant_noise"),
        ({"heads": {"head": 2}, "pooler_activation_fn": "relu"}, "pooler_activation_fn"),
        ({"heads": {"head": 2}, "spectral_norm_classification_head": True}, "weight_orig"),
    ],
    ids=str,
)
def test_what_transformers_would_compute_otherwise_is_refused(
    flags: dict[str, Any], named: str, tmp_path: Path
) -> None:
    xlmr_side.save(xlmr_side.build(**flags), tmp_path / "in.pt")
    with pytest.raises(DoesNotFit, match=named):
        run(tmp_path / "in.pt", tmp_path / "hf", "xlmr/hf")
    assert not (tmp_path / "hf").exists()


def test_a_last_norm_that_fairseq_would_leave_out_is_kept_and_told(tmp_path: Path) -> None:
    """Without `version`, fairseq takes a pre-norm file for one of 2019 and computes without the last norm."""
    original = xlmr_side.build(**PRENORM)
    state = original.state_dict()
    del state["encoder.sentence_encoder.version"]
    torch.save({"cfg": {"model": original.args}, "model": dict(state)}, tmp_path / "in.pt")
    assert xlmr_side.from_state(state, original.args).encoder.sentence_encoder.layer_norm is None
    report = ckptconv.convert(tmp_path / "in.pt", tmp_path / "hf", ckptconv.Options(to="xlmr/hf"))
    assert any("version" in note and "norm" in note for note in report.notes)
    for ids in padded_batches(45):
        assert_same(outputs(load(tmp_path / "hf"), ids), xlmr_side.outputs(original, ids), ids)


def test_swapped_queries_and_keys_would_be_seen(tmp_path: Path) -> None:
    """The comparison itself: a table that swaps two parts of the fused projection gives other numbers."""
    table = (Path(__file__).parents[2] / "mappings" / "xlmr.tbl").read_text()
    table = table.replace("[0/3]", "[9/3]").replace("[1/3]", "[0/3]").replace("[9/3]", "[1/3]")
    (tmp_path / "swapped.tbl").write_text(table)
    sample = SAMPLES[FUSED]
    run(sample.path, tmp_path / "hf", "xlmr/hf", table=tmp_path / "swapped.tbl")
    original = xlmr_side.from_state(sample.state(), sample.arguments())
    ids = padded_batches(45)[0]
    with pytest.raises(AssertionError, match=r"states\.1"):
        assert_same(outputs(load(tmp_path / "hf"), ids), xlmr_side.outputs(original, ids), ids)
