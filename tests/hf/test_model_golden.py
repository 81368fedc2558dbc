"""Our model against what the original code computed: states, logits, translations, scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ckptconv.hf import DeltaLMConfig, DeltaLMForConditionalGeneration

Model = DeltaLMForConditionalGeneration
pytestmark = pytest.mark.usefixtures("no_warnings")
PAD, EOS = 1, 2


@pytest.fixture(scope="module")
def recorded(numbers_dir: Path) -> dict[str, Tensor]:
    """What the original model computed for one batch of five sentences, padded on the left."""
    return load_file(numbers_dir / "forward.safetensors")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("mask", ["from ids", "given"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_every_state_equals_the_recorded_one(
    numbers: Model, recorded: dict[str, Tensor], side: str, mask: str, attention: str
) -> None:
    numbers.set_attn_implementation(attention)
    source, target = recorded["src_tokens"], recorded["prev_output_tokens"]
    # The right-padded batch is the same one: every state is compared at the same token.
    tokens = source != PAD
    turn = (lambda x: x) if side == "left" else (lambda x: torch.stack(
        [row.roll(-int((~kept).sum()), 0) for row, kept in zip(x, tokens, strict=True)]))  # fmt: skip
    source = turn(source)
    masks = {"attention_mask": (source != PAD).long(), "decoder_attention_mask": (target != PAD).long()}
    out = numbers(
        input_ids=source,
        decoder_input_ids=target,
        output_hidden_states=True,
        **(masks if mask == "given" else {}),
    )
    assert (source[:, 0] == PAD).any() == (side == "left")
    assert (target == PAD).any()
    at_target = target != PAD
    for number, state in enumerate(out.encoder_hidden_states):  # at padding, too
        torch.testing.assert_close(state, turn(recorded[f"encoder_states.{number}"]), atol=1e-5, rtol=0)
    for number, state in enumerate(out.decoder_hidden_states):
        torch.testing.assert_close(state[at_target], recorded[f"decoder_states.{number}"][at_target], atol=1e-5, rtol=0)
    assert len(out.encoder_hidden_states) == 5
    assert len(out.decoder_hidden_states) == 3
    torch.testing.assert_close(out.encoder_last_hidden_state, turn(recorded["encoder_out"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.logits[at_target], recorded["logits"][at_target], atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", ["nopad", "rpad", "lpad"])
@pytest.mark.parametrize("sample", ["share_all", "untied", "v0122"])
@torch.no_grad()
def test_logits_of_the_samples(
    golden: Path, from_fairseq: Callable[..., Model], sample: str, padding: str, attention: str
) -> None:
    reference = torch.load(golden / f"ref_logits_dlm_{sample}.pt", weights_only=False)
    model = from_fairseq(reference["sd"])
    model.set_attn_implementation(attention)
    second = {"nopad": [7, 8, 20, 21, 2], "rpad": [7, 8, 2, 1, 1], "lpad": [1, 1, 7, 8, 2]}[padding]
    out = model(
        input_ids=torch.tensor([[5, 9, 11, 30, 2], second]),
        decoder_input_ids=torch.tensor([[2, 6, 7, 8], [2, 10, 11, 12]]),
    )
    torch.testing.assert_close(out.logits, reference["r"][padding], atol=1e-5, rtol=0)
    untied = sample == "untied"
    assert model.config.share_encoder_decoder_embeddings is not untied
    assert model.config.tie_word_embeddings is not untied


@pytest.mark.parametrize("sample", ["share_all", "untied", "v0122"])
def test_sample_checkpoints_load_strictly(golden: Path, from_fairseq: Callable[..., Model], sample: str) -> None:
    state = torch.load(golden / f"deltalm_finetuned_{sample}.pt", weights_only=False, map_location="cpu")["model"]
    model = from_fairseq(state)
    assert torch.equal(model.lm_head.weight, state["decoder.output_projection.weight"])
    assert torch.equal(model.model.decoder.layers[1].fc4.bias, state["decoder.layers.1.fc4.bias"])


def test_public_port_file_loads(golden: Path) -> None:
    state = torch.load(golden / "hf_deltalm_fengshen_transformers-4.30.2.bin", weights_only=True)
    sizes = DeltaLMConfig(
        vocab_size=44, d_model=32, encoder_layers=4, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=32,
    )  # fmt: skip
    model, info = Model.from_pretrained(None, config=sizes, state_dict=dict(state), output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    bias = state.pop("final_logits_bias")
    assert not bias.any()
    ours = model.state_dict()
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[key], value) for key, value in state.items())


def sources(numbers_dir: Path, encode: Callable[[str], list[int]]) -> list[list[int]]:
    return [encode(line) for line in (numbers_dir / "test.de").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_greedy_translations_equal_fairseqs(
    numbers: Model, numbers_dir: Path, encode: Callable[[str], list[int]], decode: Callable[[Tensor], str],
    pad_batch: Callable[..., Tensor], generated: Callable[[str], list[dict[str, str]]], left: bool, use_cache: bool,
) -> None:  # fmt: skip
    batch = pad_batch(sources(numbers_dir, encode), left)
    found = numbers.generate(
        input_ids=batch, attention_mask=(batch != PAD).long(), max_length=60, num_beams=1, use_cache=use_cache
    )
    expected = [row["hypothesis"] for row in generated("greedy")]
    assert len(expected) == 100
    assert [decode(row) for row in found] == expected


@torch.no_grad()
def scores(model: Model, source: Tensor, target: Tensor) -> Tensor:
    """Mean log2 probability of each target row with its </s>, as fairseq-generate prints it."""
    start = torch.full_like(target[:, :1], EOS)
    out = model(input_ids=source, decoder_input_ids=torch.cat([start, target[:, :-1]], 1))
    chosen = out.logits.log_softmax(-1).gather(2, target[:, :, None]).squeeze(2) / math.log(2)
    counted = target != PAD
    return (chosen * counted).sum(1) / counted.sum(1)


def test_beam_hypotheses_score_as_in_fairseq_and_ours_at_least_as_high(
    numbers: Model, numbers_dir: Path, encode: Callable[[str], list[int]], pad_batch: Callable[..., Tensor],
    generated: Callable[[str], list[dict[str, str]]],
) -> None:  # fmt: skip
    rows = generated("beam5")
    source = pad_batch(sources(numbers_dir, encode), True)
    hypotheses = [encode(row["hypothesis"]) for row in rows]
    assert [len(ids) for ids in hypotheses] == [len(row["token_scores_log2"].split()) for row in rows]
    recorded = torch.tensor([float(row["score_log2"]) for row in rows])
    torch.testing.assert_close(scores(numbers, source, pad_batch(hypotheses)), recorded, atol=1e-4, rtol=0)
    found = numbers.generate(
        input_ids=source, attention_mask=(source != PAD).long(), max_length=60, num_beams=5,
        early_stopping=False, length_penalty=1.0,
    )  # fmt: skip
    ours = scores(numbers, source, found[:, 1:])
    assert (ours >= recorded - 1e-4).all(), [rows[i]["source"] for i in (ours < recorded - 1e-4).nonzero().flatten()]
