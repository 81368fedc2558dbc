"""Our transformers model against the real fairseq with our plugin, for every kind of DeltaLM."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

pytest.importorskip("fairseq")  # the [fairseq] extra is not installed with transformers 4.57

import torch
from fairseq.utils import make_positions
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ckptconv.hf import DeltaLMForConditionalGeneration
from ckptconv.hf.layers_deltalm import position_rows
from tests import fairseq_side

Model = DeltaLMForConditionalGeneration
pytestmark = pytest.mark.usefixtures("no_warnings")
PAD, EOS = 1, 2
PRE = {"encoder_normalize_before": True, "decoder_normalize_before": True}
KINDS: dict[str, dict[str, Any]] = {
    "base": {"share_all_embeddings": True},
    "decoder shared": {"share_decoder_input_output_embed": True},
    "untied": {},
    "large": {"share_all_embeddings": True, "layernorm_embedding": False},
    "pre-norm": {"share_all_embeddings": True, **PRE},
    "large pre-norm": {"share_decoder_input_output_embed": True, "layernorm_embedding": False, **PRE},
    "pre-norm encoder only": {"encoder_normalize_before": True},
    "two dictionaries": {"vocab": (44, 51), "share_decoder_input_output_embed": True, "max_target_positions": 27},
    "two dictionaries untied": {"vocab": (44, 31)},
    "scaled": {"share_all_embeddings": True, "no_scale_embedding": False},
    "relu": {"share_all_embeddings": True, "activation_fn": "relu"},
    "other sizes": {
        "share_all_embeddings": True, "encoder_layers": 3, "decoder_layers": 4, "encoder_ffn_embed_dim": 40,
        "decoder_ffn_embed_dim": 72,
    },
}  # fmt: skip


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def pair(request: pytest.FixtureRequest, from_fairseq: Callable[..., Model]) -> tuple[Any, Model]:
    """fairseq's model with random weights (norms and biases, too) and ours with the same."""
    original = fairseq_side.build(**request.param)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in original.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    args = original.encoder.cfg
    ours = from_fairseq(
        original.state_dict(), args.encoder.attention_heads, scale_embedding=not args.no_scale_embedding,
        activation_function=args.activation_fn,
    )  # fmt: skip
    assert args.decoder.attention_heads == args.encoder.attention_heads
    return original, ours


def batch(left: bool) -> tuple[Tensor, Tensor]:
    source = fairseq_side.pad([[5, 9, 11, 30, 17, 2], [7, 8, 2], [20, 2]], left)
    target = fairseq_side.pad([[2, 6, 7], [2, 10, 11, 12, 13, 14], [2, 4, 5, 6]], False)
    return source, target


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_states_and_logits(pair: tuple[Any, Model], left: bool, attention: str) -> None:
    original, ours = pair
    ours.set_attn_implementation(attention)
    source, target = batch(left)
    expected = fairseq_side.forward(original, source, target)
    out = ours(input_ids=source, decoder_input_ids=target, output_hidden_states=True)
    at_source, at_target = source != PAD, target != PAD

    def check(found: Tensor, name: str, where: Tensor) -> None:
        torch.testing.assert_close(
            found[where], expected[name][where], atol=1e-5, rtol=1e-5, msg=partial("{}: {}".format, name)
        )

    # The last state is the one after the final norm here, before it in fairseq: without such a norm they are the same.
    for side, states, where in (
        ("encoder", out.encoder_hidden_states, at_source), ("decoder", out.decoder_hidden_states, at_target),
    ):  # fmt: skip
        pre_norm = getattr(ours.config, f"{side}_normalize_before")
        for number, state in enumerate(states[:-1] if pre_norm else states):
            check(state, f"{side}_states.{number}", where)
        assert f"{side}_states.{len(states) - 1}" in expected
        assert f"{side}_states.{len(states)}" not in expected
    check(out.encoder_last_hidden_state, "encoder_out", at_source)
    check(out.decoder_hidden_states[-1], "decoder_features", at_target)
    check(out.logits, "logits", at_target)


@given(rows=st.lists(st.lists(st.sampled_from([0, 1, 2, 7]), min_size=4, max_size=4), min_size=1, max_size=3))
def test_positions(rows: list[list[int]]) -> None:
    ids = torch.tensor(rows)
    assert torch.equal(position_rows(ids != PAD), make_positions(ids, PAD))


@torch.no_grad()
def test_left_padded_targets(pair: tuple[Any, Model]) -> None:
    """Rare in fairseq (--left-pad-target), but positions and masks are defined there."""
    original, ours = pair
    source, target = batch(True)[0], fairseq_side.pad([[2, 6, 7], [2, 10, 11, 12, 13, 14], [2, 4, 5, 6]], True)
    # fairseq gives NaN to a query that sees padding only, and a NaN key poisons the row: only unpadded rows compare
    expected = fairseq_side.forward(original, source[1:2], target[1:2])["logits"]
    found = ours(input_ids=source, decoder_input_ids=target).logits[1:2]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_greedy_and_scores(pair: tuple[Any, Model]) -> None:
    original, ours = pair
    sources = [[5, 9, 11, 30, 17, 2], [7, 8, 2], [20, 2]]
    source = fairseq_side.pad(sources, left=True)
    # What fairseq does by itself: no </s> at the first step, never padding, </s> at the last step.
    found = ours.generate(
        input_ids=source, attention_mask=source != PAD, num_beams=1, max_length=20, min_new_tokens=1,
        suppress_tokens=[PAD], forced_eos_token_id=EOS,
    )  # fmt: skip
    greedy = [hypotheses[0].tokens for hypotheses in fairseq_side.generate(original, sources, 1, max_len_b=18)]
    assert [row[row != PAD].tolist() for row in found[:, 1:]] == greedy
    for one_source, hypotheses in zip(sources, fairseq_side.generate(original, sources, 4, max_len_b=18), strict=True):
        assert len(hypotheses) == 4
        for one in hypotheses:
            assert score(ours, one_source, one.tokens) == pytest.approx(one.score, abs=1e-4)


@torch.no_grad()
def score(model: Model, source: list[int], target: list[int]) -> float:
    """Mean log2 probability of the target's tokens, </s> included."""
    out = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[EOS, *target[:-1]]]))
    chosen = out.logits[0].log_softmax(-1)[range(len(target)), target]
    return float(chosen.mean()) / math.log(2)


def test_training_gives_the_same_gradients(pair: tuple[Any, Model]) -> None:
    original, ours = pair
    source, given = batch(True)
    target = fairseq_side.pad([[6, 7, 2], [10, 11, 12, 13, 14, 2], [4, 5, 6, 2]])
    logits, _ = original(source, src_lengths=(source != PAD).sum(1), prev_output_tokens=given)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)
    loss.backward()
    out = ours(input_ids=source, labels=target.masked_fill(target == PAD, -100))
    out.loss.backward()
    torch.testing.assert_close(out.loss, loss)
    gradients = {f"model.{name}": weight.grad for name, weight in original.named_parameters()}
    head = gradients.pop("model.decoder.output_projection.weight", None)
    compared = 0
    for name, weight in ours.named_parameters():
        expected = (
            head
            if name == "lm_head.weight"
            else gradients.get(name.replace("model.shared", "model.encoder.embed_tokens"))
        )
        assert expected is not None, name
        torch.testing.assert_close(weight.grad, expected, atol=1e-5, rtol=1e-4, msg=partial("{}: {}".format, name))
        compared += 1
    assert compared == len(gradients) + (head is not None)
