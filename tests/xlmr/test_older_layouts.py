"""hf → the files of older fairseq and of unilm: today's fairseq loads them by its upgrades, strictly, to the same."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fairseq")

import torch
from transformers import XLMRobertaXLForMaskedLM

from ckptconv.errors import DoesNotFit
from tests import xlmr_side
from tests.xlmr.hf_side import assert_same, build, load, outputs, padded_batches, run
from tests.xlmr.samples import SAMPLES

OLDER = ["fairseq-0.10", "fairseq-0.9", "fairseq-0.8", "fairseq-xlm_align"]
# A key of the layout's own generation, which proves that fairseq's upgrades had something to do.
MARK = {
    "fairseq-0.10": "encoder.sentence_encoder.emb_layer_norm.weight",
    "fairseq-0.9": "decoder.sentence_encoder.layers.1.self_attn.q_proj.weight",
    "fairseq-0.8": "decoder.sentence_encoder.layers.1.self_attn.in_proj_weight",
    "fairseq-xlm_align": "decoder.sentence_encoder.emb_layer_norm.weight",
}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return xlmr_side.write_dictionary(tmp_path_factory.mktemp("words"), 45)


def state_of(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=False)["model"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("untied", [False, True], ids=["tied", "untied"])
@pytest.mark.parametrize("layout", OLDER)
def test_an_older_file_computes_the_same(layout: str, untied: bool, data: Path, tmp_path: Path) -> None:
    model = build(tie_word_embeddings=not untied)
    model.save_pretrained(tmp_path / "hf")
    run(tmp_path / "hf", tmp_path / "old", f"xlmr/{layout}")
    assert MARK[layout] in state_of(tmp_path / "old" / "model.pt")
    with torch.serialization.safe_globals([Namespace]):
        theirs = xlmr_side.load(tmp_path / "old" / "model.pt", data)
    for ids in padded_batches(45):
        assert_same(xlmr_side.outputs(theirs, ids), outputs(model, ids), ids)


@pytest.mark.parametrize("source", [name for name in SAMPLES if name != "XL"])
@pytest.mark.parametrize("layout", [*OLDER, "fairseq"])
def test_any_sample_in_any_layout_is_one_model(layout: str, source: str, tmp_path: Path) -> None:
    """From sample to HF and to the layout: bit for bit what the real fairseq makes of the sample itself."""
    sample = SAMPLES[source]
    original = xlmr_side.from_state(sample.state(), sample.arguments())
    run(sample.path, tmp_path / "hf", "xlmr/hf", **sample.options)
    run(tmp_path / "hf", tmp_path / "out.pt", f"xlmr/{layout}")
    found = xlmr_side.from_state(state_of(tmp_path / "out.pt"), sample.arguments())
    # Parameters only: `version`, a buffer, is what tells fairseq the generation.
    weights = dict(found.named_parameters()), dict(original.named_parameters())
    assert list(weights[0]) == list(weights[1])
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


@pytest.mark.parametrize("untied", [False, True], ids=["tied", "untied"])
def test_in_infoxlm_the_fast_model_is_the_one(untied: bool, tmp_path: Path) -> None:
    """unilm's InfoXLM can't run here: its model_fast, which is a RoBERTa of fairseq 0.9, is compared."""
    model = build(tie_word_embeddings=not untied)
    model.save_pretrained(tmp_path / "hf")
    run(tmp_path / "hf", tmp_path / "info.pt", "xlmr/fairseq-infoxlm")
    written = state_of(tmp_path / "info.pt")
    args = xlmr_side.build(untie_weights_roberta=untied).args
    for part in ("model_fast.", "model_slow."):
        inner = {key.removeprefix(part): value for key, value in written.items() if key.startswith(part)}
        theirs = xlmr_side.from_state(inner, args)
        for ids in padded_batches(45):
            assert_same(xlmr_side.outputs(theirs, ids), outputs(model, ids), ids)
    back = load(run(tmp_path / "info.pt", tmp_path / "back", "xlmr/hf"))
    for ids in padded_batches(45):
        assert_same(outputs(back, ids), outputs(model, ids), ids)


@pytest.mark.parametrize("layout", [*OLDER, "fairseq-infoxlm"])
def test_norms_before_the_sublayers_have_no_place_in_older_files(layout: str, tmp_path: Path) -> None:
    build(XLMRobertaXLForMaskedLM).save_pretrained(tmp_path / "hf")
    with pytest.raises(DoesNotFit, match="convert to xlmr/fairseq"):
        run(tmp_path / "hf", tmp_path / "out.pt", f"xlmr/{layout}")
    assert not (tmp_path / "out.pt").exists()
