"""There and back on random small models: what fairseq, and what transformers computes, stays bit for bit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fairseq")

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import XLMRobertaForMaskedLM, XLMRobertaXLForMaskedLM

from tests import xlmr_side
from tests.xlmr.hf_side import build, load, outputs, padded_batches, run
from tests.xlmr.samples import PRENORM

MANY = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, Any]:
    """A model's sizes, and whether its norms come before the sublayers and its output projection is its own."""
    heads = draw(st.integers(1, 4))
    return {
        "layers": draw(st.integers(1, 3)),
        "heads": heads,
        "width": heads * draw(st.sampled_from([2, 4, 6, 10])),
        "ffn": draw(st.integers(1, 70)),
        "vocab": draw(st.integers(6, 90)),
        "positions": draw(st.integers(14, 40)),
        "prenorm": draw(st.booleans()),
        "untied": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def in_fairseq(size: dict[str, Any]) -> Any:
    flags = PRENORM if size["prenorm"] else {}
    return xlmr_side.build(
        size["vocab"], size["seed"], encoder_layers=size["layers"], encoder_attention_heads=size["heads"],
        encoder_embed_dim=size["width"], encoder_ffn_embed_dim=size["ffn"], max_positions=size["positions"] - 2,
        untie_weights_roberta=size["untied"], **flags,
    )  # fmt: skip


def in_transformers(size: dict[str, Any]) -> Any:
    return build(
        XLMRobertaXLForMaskedLM if size["prenorm"] else XLMRobertaForMaskedLM, size["seed"], vocab_size=size["vocab"],
        num_hidden_layers=size["layers"], num_attention_heads=size["heads"], hidden_size=size["width"],
        intermediate_size=size["ffn"], max_position_embeddings=size["positions"],
        tie_word_embeddings=not size["untied"],
    )  # fmt: skip


@MANY
@given(sizes())
def test_fairseq_to_hf_to_fairseq(size: dict[str, Any]) -> None:
    before = in_fairseq(size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(xlmr_side.save(before, folder / "in.pt"), folder / "hf", "xlmr/hf")
        run(folder / "hf", folder / "back.pt", "xlmr/fairseq")
        after = xlmr_side.load(folder / "back.pt", xlmr_side.write_dictionary(folder / "data", size["vocab"]))
    assert_equal(after.state_dict(), before.state_dict())
    for ids in padded_batches(size["vocab"]):
        assert_equal(xlmr_side.outputs(after, ids), xlmr_side.outputs(before, ids))


@MANY
@given(sizes(), st.booleans())
def test_hf_to_fairseq_to_hf(size: dict[str, Any], moved: bool) -> None:
    """moved: whether the token types are; they are then part of the positions ever after."""
    before = in_transformers(size)
    if not moved:
        before.roberta.embeddings.token_type_embeddings.weight.data.zero_()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before.save_pretrained(folder / "hf")
        data = xlmr_side.write_dictionary(folder / "data", size["vocab"])
        first = xlmr_side.load(run(folder / "hf", folder / "1.pt", "xlmr/fairseq"), data)
        after = load(run(folder / "1.pt", folder / "back", "xlmr/hf"))
        second = xlmr_side.load(run(folder / "back", folder / "2.pt", "xlmr/fairseq"), data)
    assert type(after) is type(before)
    for ids in padded_batches(size["vocab"]):
        assert_equal(xlmr_side.outputs(second, ids), xlmr_side.outputs(first, ids))
        if not moved:
            assert_equal(outputs(after, ids), outputs(before, ids))
