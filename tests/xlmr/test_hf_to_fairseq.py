"""hf → fairseq: the real fairseq loads the directory strictly, and computes what transformers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fairseq")

import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    XLMRobertaForMaskedLM,
    XLMRobertaXLForMaskedLM,
)

import ckptconv
from ckptconv.errors import DoesNotFit
from tests import spm_side, xlmr_side
from tests.xlmr.hf_side import assert_same, build, outputs, padded, padded_batches, run, tune
from tests.xlmr.samples import PRENORM

KINDS = {"XLM-R": XLMRobertaForMaskedLM, "XLM-R XL": XLMRobertaXLForMaskedLM}
TYPES = "roberta.embeddings.token_type_embeddings.weight"


def in_fairseq(model: PreTrainedModel, folder: Path, **options: Any) -> Any:
    """The model after saving in transformers, conversion, and fairseq's own strict loader."""
    model.save_pretrained(folder / "hf")
    run(folder / "hf", folder / "fairseq", "xlmr/fairseq", **options)
    data = xlmr_side.write_dictionary(folder / "data", model.config.vocab_size)
    return xlmr_side.load(folder / "fairseq" / "model.pt", data)


def assert_all_the_same(model: PreTrainedModel, theirs: Any) -> None:
    for ids in padded_batches(model.config.vocab_size, longest=16):
        assert_same(xlmr_side.outputs(theirs, ids), outputs(model, ids), ids)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_hidden_layers": 1, "num_attention_heads": 8, "intermediate_size": 40},
        {"vocab_size": 77, "hidden_size": 24, "num_attention_heads": 2, "max_position_embeddings": 21},
        {"tie_word_embeddings": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_any_model_computes_the_same_in_fairseq(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    model = build(KINDS[kind], **fields)
    theirs = in_fairseq(model, tmp_path)
    weights = theirs.encoder.sentence_encoder.embed_tokens.weight, theirs.encoder.lm_head.weight
    assert (weights[0] is weights[1]) == fields.get("tie_word_embeddings", True)
    assert_all_the_same(model, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_was_trained_in_transformers_computes_the_same(kind: str, tmp_path: Path) -> None:
    """From fairseq, where there are no token types, over a few real steps that move them, and more rows, to fairseq."""
    flags = PRENORM if kind == "XLM-R XL" else {}
    run(xlmr_side.save(xlmr_side.build(**flags), tmp_path / "in.pt"), tmp_path / "start", "xlmr/hf")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "start")
    assert type(model) is KINDS[kind]
    model.resize_token_embeddings(53)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert not before[TYPES].any()
    tune(model)
    still = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    # A key's bias adds the same to every score, so its gradient is rounding noise.
    assert not {key for key in still if not key.endswith("key.bias")}
    assert_all_the_same(model, in_fairseq(model, tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_an_untied_output_projection_stays_untied_through_training(kind: str, tmp_path: Path) -> None:
    model = tune(build(KINDS[kind], tie_word_embeddings=False))
    assert not torch.equal(model.lm_head.decoder.weight, model.get_input_embeddings().weight)
    assert model.lm_head.decoder.bias.any()
    assert_all_the_same(model, in_fairseq(model, tmp_path))


def test_the_last_norm_of_a_prenorm_model_is_used(tmp_path: Path) -> None:
    """It hangs on `version`: without it, fairseq loads the same file as strictly, and computes something else."""
    model = build(XLMRobertaXLForMaskedLM)
    theirs = in_fairseq(model, tmp_path)
    assert theirs.encoder.sentence_encoder.layer_norm is not None
    content = torch.load(tmp_path / "fairseq" / "model.pt", weights_only=True)
    assert content["model"]["encoder.sentence_encoder.version"].tolist() == [3.0]
    del content["model"]["encoder.sentence_encoder.version"]
    torch.save(content, tmp_path / "without.pt")
    without = xlmr_side.load(tmp_path / "without.pt", tmp_path / "data")
    ids = padded_batches(45)[0]
    with pytest.raises(AssertionError, match=r"states\.2"):
        assert_same(xlmr_side.outputs(without, ids), outputs(model, ids), ids)


def test_moved_token_types_are_folded_into_the_positions_and_told(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path / "hf")
    report = ckptconv.convert(tmp_path / "hf", tmp_path / "out", ckptconv.Options(to="xlmr/fairseq"))
    assert [told.reason.split(":")[0] for told in report.plan.dropped if told.key == TYPES] == ["folded"]
    written = torch.load(tmp_path / "out" / "model.pt", weights_only=True)["model"]
    embeddings = model.roberta.embeddings
    sums = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight
    assert torch.equal(written["encoder.sentence_encoder.embed_positions.weight"], sums)


@pytest.mark.parametrize("dtype", ["keep", "fp32"])
def test_a_fold_in_fp16_is_rounded_once_and_told(dtype: str, tmp_path: Path) -> None:
    model = build().half()
    model.save_pretrained(tmp_path / "hf")
    report = ckptconv.convert(tmp_path / "hf", tmp_path / "out", ckptconv.Options(to="xlmr/fairseq", dtype=dtype))
    (reason,) = [told.reason for told in report.plan.dropped if told.key == TYPES]
    assert reason.endswith("rounded once, to " + {"keep": "F16", "fp32": "F32"}[dtype])
    theirs = xlmr_side.load(tmp_path / "out" / "model.pt", xlmr_side.write_dictionary(tmp_path / "data", 45))
    model.float()
    if dtype == "fp32":
        assert_all_the_same(model, theirs)
    else:
        found = theirs.encoder.sentence_encoder.embed_positions.weight
        embeddings = model.roberta.embeddings
        sums = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight
        assert torch.equal(found, sums.half().float())


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_an_activation_that_fairseqs_masked_lm_head_would_have_too_is_refused(activation: str, tmp_path: Path) -> None:
    build(hidden_act=activation).save_pretrained(tmp_path / "hf")
    with pytest.raises(DoesNotFit, match="gelu"):
        run(tmp_path / "hf", tmp_path / "out", "xlmr/fairseq")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [0, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_opens_as_fairseqs_users_open_it(kind: str, more: int, spm: bytes, tmp_path: Path) -> None:
    """From a fairseq directory, over training and so many more rows in transformers, to XLMRModel.from_pretrained."""
    words = spm_side.xlmr(spm)
    start = xlmr_side.build(len(words), max_positions=126, **(PRENORM if kind == "XLM-R XL" else {}))
    given = xlmr_side.save_directory(start, tmp_path / "given", words, spm)
    run(given, tmp_path / "start", "xlmr/hf")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "start")
    model.resize_token_embeddings(len(words) + more)
    tune(model)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "start")
    model.save_pretrained(tmp_path / "tuned")
    tokenizer.save_pretrained(tmp_path / "tuned")
    (tmp_path / "tuned" / "sentencepiece.bpe.model").write_bytes(spm)

    hub = xlmr_side.open_directory(run(tmp_path / "tuned", tmp_path / "fairseq", "xlmr/fairseq"))
    assert len(hub.task.source_dictionary) == len(words) + more
    assert hub.task.mask_idx == tokenizer.mask_token_id == len(words) - 1
    same = (tmp_path / "fairseq" / "dict.txt").read_bytes() == (given / "dict.txt").read_bytes()
    assert same == (more == 0)
    lines = spm_side.SCRIPTS
    rows = [hub.encode(line).tolist() for line in lines]
    assert rows == tokenizer(lines)["input_ids"]
    for ids in (padded(rows), padded(rows, left=True)):
        assert_same(xlmr_side.outputs(hub.model, ids), outputs(model, ids), ids)
    masked = f"{lines[0]} <mask>"
    ids = tokenizer(masked, return_tensors="pt")["input_ids"]
    scores = outputs(model, ids)["logits"][0, ids[0] == tokenizer.mask_token_id].softmax(-1)
    (_, score, _), *_ = hub.fill_mask(masked, topk=1)
    torch.testing.assert_close(torch.tensor(score), scores.max(), atol=1e-5, rtol=0)
