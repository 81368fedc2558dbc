"""What the model promises beyond the golden numbers: loss, masks, positions, cache, generation, precision, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import StaticCache
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from ckptconv.hf import DeltaLMConfig, DeltaLMForConditionalGeneration, DeltaLMModel

Model = DeltaLMForConditionalGeneration
pytestmark = pytest.mark.usefixtures("no_warnings")
PAD, EOS = 1, 2
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {"layernorm_embedding": False},
    "pre-norm": {"encoder_normalize_before": True, "decoder_normalize_before": True},
    "scaled, mixed norms": {"scale_embedding": True, "encoder_normalize_before": True, "layernorm_embedding": False},
    "own dictionaries": {
        "decoder_vocab_size": 37, "share_encoder_decoder_embeddings": False, "decoder_max_position_embeddings": 26,
    },
    "relu": {"activation_function": "relu"},
}  # fmt: skip
SOURCE = [[5, 9, 11, 28, 2], [7, 8, 2]]
TARGET = [[6, 7, 2], [10, 11, 12, 13, 2]]


def everything_close(ours: Tensor, expected: Tensor, where: Tensor | None = None) -> None:
    if where is not None:
        ours, expected = ours[where], expected[where]
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


@pytest.fixture(params=list(VARIANTS.values()), ids=list(VARIANTS))
def variant(request: pytest.FixtureRequest, tiny: Callable[..., Model]) -> Model:
    return tiny(**request.param)


@pytest.fixture
def source(pad_batch: Callable[..., Tensor]) -> Tensor:
    return pad_batch(SOURCE)


@pytest.fixture
def labels(pad_batch: Callable[..., Tensor]) -> Tensor:
    return pad_batch(TARGET, value=-100)


@torch.no_grad()
def test_loss_is_the_mean_cross_entropy_of_the_labels(variant: Model, source: Tensor, labels: Tensor) -> None:
    out = variant(input_ids=source, labels=labels)
    given = torch.tensor([[2, 6, 7, 2, 1], [2, 10, 11, 12, 13]])
    logits = variant(input_ids=source, decoder_input_ids=given).logits
    everything_close(out.logits, logits)
    by_hand = [
        -logits[row, place].double().log_softmax(0)[labels[row, place]]
        for row, place in (labels != -100).nonzero().tolist()
    ]
    assert len(by_hand) == 8
    torch.testing.assert_close(out.loss.double(), torch.stack(by_hand).mean(), atol=1e-5, rtol=0)
    # Trainer gives the count over all accumulated batches
    summed = variant(input_ids=source, labels=labels, num_items_in_batch=torch.tensor(16)).loss
    torch.testing.assert_close(summed, out.loss / 2)
    assert out.past_key_values is None


@torch.no_grad()
def test_eager_equals_sdpa(variant: Model, source: Tensor, labels: Tensor) -> None:
    found = {}
    for name in ("eager", "sdpa"):
        variant.set_attn_implementation(name)
        assert variant.config._attn_implementation == name
        found[name] = variant(input_ids=source, labels=labels)
    everything_close(found["eager"].logits, found["sdpa"].logits)
    everything_close(found["eager"].loss, found["sdpa"].loss)


@torch.no_grad()
def test_attention_weights_are_given_with_sdpa_too(tiny: Callable[..., Model], source: Tensor, labels: Tensor) -> None:
    model = tiny()
    assert model.config._attn_implementation == "sdpa"
    out = model(input_ids=source, labels=labels, output_attentions=True, output_hidden_states=True)
    assert [weights.shape for weights in out.encoder_attentions] == [(2, 4, 5, 5)] * 2
    assert [weights.shape for weights in out.decoder_attentions] == [(2, 2, 5, 5)] * 2
    assert [weights.shape for weights in out.cross_attentions] == [(2, 2, 5, 5)] * 2
    for weights in (*out.encoder_attentions, *out.decoder_attentions, *out.cross_attentions):
        everything_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert not out.cross_attentions[0][1, :, :, 3:].any()  # padding of the second source
    assert not out.decoder_attentions[0].triu(1).any()  # nothing from the future
    assert len(out.encoder_hidden_states) == len(out.decoder_hidden_states) == 3


@torch.no_grad()
def test_last_hidden_state_is_the_last_of_all(variant: Model, source: Tensor, labels: Tensor) -> None:
    out = variant.model(
        input_ids=source,
        decoder_input_ids=variant.prepare_decoder_input_ids_from_labels(labels),
        output_hidden_states=True,
    )
    assert torch.equal(out.decoder_hidden_states[-1], out.last_hidden_state)
    assert torch.equal(out.encoder_hidden_states[-1], out.encoder_last_hidden_state)
    plain = variant.model(
        input_ids=source, decoder_input_ids=variant.prepare_decoder_input_ids_from_labels(labels), return_dict=False
    )
    assert isinstance(plain, tuple)
    assert torch.equal(plain[0], out.last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_on_any_side_changes_nothing(variant: Model, attention: str) -> None:
    variant.set_attn_implementation(attention)
    alone = variant(input_ids=torch.tensor([[7, 8, 2]]), decoder_input_ids=torch.tensor([[2, 10, 11]])).logits[0]
    for row in ([1, 1, 7, 8, 2], [7, 8, 2, 1, 1], [1, 7, 8, 2, 1]):
        for target in ([2, 10, 11, 1, 1], [1, 1, 2, 10, 11], [1, 2, 10, 11, 1]):
            out = variant(
                input_ids=torch.tensor([[5, 9, 11, 28, 2], row]),
                decoder_input_ids=torch.tensor([[2, 6, 7, 8, 9], target]),
            )
            assert out.logits.isfinite().all()
            everything_close(out.logits[1][torch.tensor(target) != PAD], alone)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_row_of_padding_is_not_nan(tiny: Callable[..., Model], attention: str) -> None:
    model = tiny()
    model.set_attn_implementation(attention)
    out = model(input_ids=torch.tensor([[5, 9, 2], [1, 1, 1]]), decoder_input_ids=torch.tensor([[2, 6, 7], [1, 1, 1]]))
    assert out.logits.isfinite().all()
    alone = model(input_ids=torch.tensor([[5, 9, 2]]), decoder_input_ids=torch.tensor([[2, 6, 7]]))
    everything_close(out.logits[:1], alone.logits)


@torch.no_grad()
def test_mask_decides_over_ids(tiny: Callable[..., Model]) -> None:
    model = tiny()
    masked = model(
        input_ids=torch.tensor([[5, 9, 2, 20]]), attention_mask=torch.tensor([[1, 1, 1, 0]]),
        decoder_input_ids=torch.tensor([[20, 2, 6]]), decoder_attention_mask=torch.tensor([[0, 1, 1]]),
    )  # fmt: skip
    plain = model(input_ids=torch.tensor([[5, 9, 2]]), decoder_input_ids=torch.tensor([[2, 6]]))
    everything_close(masked.logits[:, 1:], plain.logits)


@torch.no_grad()
def test_embeddings_stand_for_ids(variant: Model, source: Tensor, labels: Tensor) -> None:
    target = variant.prepare_decoder_input_ids_from_labels(labels)
    expected = variant(input_ids=source, decoder_input_ids=target).logits
    model = variant.model
    found = variant(
        inputs_embeds=model.encoder.embed_tokens(source), attention_mask=source != PAD,
        decoder_inputs_embeds=model.decoder.embed_tokens(target), decoder_attention_mask=target != PAD,
    )  # fmt: skip
    everything_close(found.logits, expected)
    whole = variant(
        inputs_embeds=model.encoder.embed_tokens(source[:1]),
        decoder_inputs_embeds=model.decoder.embed_tokens(target[1:]),
    )
    everything_close(whole.logits, variant(input_ids=source[:1], decoder_input_ids=target[1:]).logits)


@torch.no_grad()
def test_encoder_outputs_replace_the_source(variant: Model, source: Tensor, labels: Tensor) -> None:
    expected = variant(input_ids=source, labels=labels)
    encoded = variant.get_encoder()(input_ids=source)
    for given in (encoded, encoded.to_tuple()):
        found = variant(encoder_outputs=given, attention_mask=source != PAD, labels=labels)
        everything_close(found.logits, expected.logits)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_steps_with_the_cache_equal_one_pass(variant: Model, source: Tensor, attention: str) -> None:
    variant.set_attn_implementation(attention)
    target = torch.tensor([[2, 6, 7, 8, 9, 4], [1, 1, 2, 10, 11, 12]])
    mask = (target != PAD).long()
    whole = variant(input_ids=source, decoder_input_ids=target, decoder_attention_mask=mask, use_cache=False)
    assert whole.past_key_values is None
    cache, steps = None, []
    for start, end in ((0, 3), (3, 4), (4, 6)):  # several tokens at once, too
        out = variant(
            input_ids=source, decoder_input_ids=target[:, start:end], decoder_attention_mask=mask[:, :end],
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        cache = out.past_key_values
        steps.append(out.logits)
    everything_close(torch.cat(steps, 1), whole.logits, mask.bool())


@torch.no_grad()
def test_cached_tokens_count_without_a_mask(tiny: Callable[..., Model], source: Tensor) -> None:
    model, target = tiny(), torch.tensor([[2, 6, 7, 8], [2, 10, 11, 12]])
    first = model(input_ids=source, decoder_input_ids=target[:, :3])
    assert isinstance(first.past_key_values, EncoderDecoderCache)
    last = model(input_ids=source, decoder_input_ids=target[:, 3:], past_key_values=first.past_key_values)
    everything_close(last.logits, model(input_ids=source, decoder_input_ids=target).logits[:, 3:])


GENERATE: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1},
    "beams": {"num_beams": 4, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "top_k": 5},
}


@pytest.mark.parametrize("how", GENERATE)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_generate_is_the_same_without_and_with_every_cache(
    variant: Model, source: Tensor, how: str, attention: str
) -> None:
    variant.set_attn_implementation(attention)
    caches: dict[str, dict[str, Any]] = {
        "none": {"use_cache": False}, "dynamic": {}, "static": {"cache_implementation": "static"}
    }  # fmt: skip
    found = {}
    for name, cache in caches.items():
        torch.manual_seed(0)
        found[name] = variant.generate(
            input_ids=source, attention_mask=source != PAD, max_length=15, **GENERATE[how], **cache
        )
    assert (found["none"][:, 0] == EOS).all()
    assert torch.equal(found["none"], found["dynamic"])
    assert torch.equal(found["none"], found["static"])


@pytest.mark.parametrize("how", GENERATE)
@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no mask"])
def test_generate_after_a_left_padded_prompt_equals_the_prompt_alone(
    variant: Model, source: Tensor, how: str, mask: bool
) -> None:
    prompts = torch.tensor([[2, 6, 7, 8], [1, 1, 2, 10]])
    given = {"decoder_attention_mask": (prompts != PAD).long()} if mask else {}
    settings = {**GENERATE[how], "do_sample": False, "min_new_tokens": 8, "max_new_tokens": 8}
    settings.pop("top_k", None)
    found = {
        cache: variant.generate(
            input_ids=source,
            attention_mask=source != PAD,
            decoder_input_ids=prompts,
            use_cache=cache,
            **settings,
            **given,
        )
        for cache in (True, False)
    }
    assert torch.equal(found[True], found[False])
    alone = variant.generate(
        input_ids=source[1:], attention_mask=source[1:] != PAD, decoder_input_ids=prompts[1:, 2:], **settings
    )
    assert torch.equal(found[True][-len(alone) :, 2:], alone)


@torch.no_grad()
def test_caches_have_a_layer_for_each_of_the_decoder(tiny: Callable[..., Model]) -> None:
    model = tiny(decoder_layers=3)
    side = model.config.get_text_config(decoder=True)
    assert side.num_hidden_layers == 3
    assert model.config.num_hidden_layers == 2
    assert len(StaticCache(config=model.config, max_cache_len=8).layers) == 3


@torch.no_grad()
def test_a_plain_cache_serves_the_self_attention(tiny: Callable[..., Model], source: Tensor) -> None:
    model, target = tiny(), torch.tensor([[2, 6, 7, 8], [2, 10, 11, 12]])
    first = model(input_ids=source, decoder_input_ids=target[:, :3], past_key_values=DynamicCache())
    last = model(input_ids=source, decoder_input_ids=target[:, 3:], past_key_values=first.past_key_values)
    everything_close(last.logits, model(input_ids=source, decoder_input_ids=target).logits[:, 3:])


@torch.no_grad()
def test_forward_compiles_in_one_graph(tiny: Callable[..., Model], source: Tensor, labels: Tensor) -> None:
    model = tiny()
    target = model.prepare_decoder_input_ids_from_labels(labels)
    compiled = torch.compile(model.forward, backend="eager", fullgraph=True)
    found = compiled(input_ids=source, decoder_input_ids=target, use_cache=False)
    everything_close(found.logits, model(input_ids=source, decoder_input_ids=target).logits)
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_half_precision_runs(
    variant: Model, source: Tensor, labels: Tensor, dtype: torch.dtype, attention: str
) -> None:
    exact = variant(input_ids=source, labels=labels)
    half = variant.to(dtype)
    half.set_attn_implementation(attention)
    out = half(input_ids=source, labels=labels)
    assert out.logits.dtype == dtype
    torch.testing.assert_close(out.loss.float(), exact.loss, atol=0.1, rtol=0.05)
    assert out.loss.dtype == torch.float32
    everything_close(out.loss, torch.nn.functional.cross_entropy(out.logits.flatten(0, 1).float(), labels.flatten()))
    out.loss.backward()
    assert all(weight.grad.isfinite().all() for weight in half.parameters() if weight.grad is not None)
    assert half.eval().generate(input_ids=source, attention_mask=source != PAD, max_length=6).shape[1] <= 6


@pytest.mark.parametrize("settings", [None, {"use_reentrant": True}, {"use_reentrant": False}])
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(
    variant: Model, source: Tensor, labels: Tensor, settings: dict[str, bool] | None
) -> None:
    variant.train()
    variant.config.dropout = 0.0

    def step() -> tuple[Tensor, dict[str, Tensor]]:
        variant.zero_grad()
        loss = variant(input_ids=source, labels=labels, use_cache=True).loss
        loss.backward()
        return loss.detach(), {name: weight.grad.clone() for name, weight in variant.named_parameters()}

    plain_loss, plain = step()
    # transformers 5 has a new name for it
    enable = getattr(variant, "activation_checkpointing_enable", None) or variant.gradient_checkpointing_enable
    enable(settings)
    runs: list[int] = []
    hooks = [layer.self_attn.register_forward_hook(lambda *_: runs.append(1)) for layer in
             (variant.model.encoder.layers[1], variant.model.decoder.layers[0])]  # fmt: skip
    loss, grads = step()
    assert len(runs) == 2 * len(hooks)  # forward, and again in backward
    torch.testing.assert_close(loss, plain_loss)
    assert grads.keys() == plain.keys()
    assert any(grad.any() for grad in grads.values())
    for name, grad in grads.items():
        torch.testing.assert_close(grad, plain[name], msg=name)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropout_and_layerdrop_work_in_training_only(
    tiny: Callable[..., Model], source: Tensor, labels: Tensor, attention: str
) -> None:
    for field in ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop"):
        still = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
        model = tiny(**{**still, field: 0.5})
        model.set_attn_implementation(attention)
        assert len({model(input_ids=source, labels=labels).loss.item() for _ in range(8)}) == 1
        model.train()
        assert len({model(input_ids=source, labels=labels).loss.item() for _ in range(8)}) > 1, field


def test_too_long_input_names_the_limit(tiny: Callable[..., Model], caplog: pytest.LogCaptureFixture) -> None:
    model = tiny(max_position_embeddings=4, decoder_max_position_embeddings=6)
    short, start = torch.full((1, 3), 5), torch.full((1, 1), EOS)
    with pytest.raises(ValueError, match="DeltaLMEncoder got 5 tokens but has 4 positions"):
        model(input_ids=torch.full((1, 5), 5), decoder_input_ids=start)
    with pytest.raises(ValueError, match="DeltaLMDecoder got 7 tokens but has 6 positions"):
        model(input_ids=short, decoder_input_ids=torch.full((1, 7), 5))
    with pytest.raises(ValueError, match="DeltaLMDecoder got 7 tokens but has 6 positions"):
        model.generate(input_ids=short, max_new_tokens=7, min_new_tokens=7)
    caplog.clear()  # generate has warned of the same
    # Padding takes no position.
    model(input_ids=torch.tensor([[1, 1, 5, 5, 5, 5]]), decoder_input_ids=start)


def test_missing_decoder_input_is_told(tiny: Callable[..., Model]) -> None:
    with pytest.raises(ValueError, match="DeltaLMDecoder needs token ids or embeddings"):
        tiny()(input_ids=torch.tensor([[5, 2]]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 10}, "d_model=10 is not a multiple of encoder_attention_heads=12"),
        ({"d_model": 12, "decoder_attention_heads": 5}, "not a multiple of decoder_attention_heads=5"),
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"vocab_size": 5, "decoder_vocab_size": 6}, "set share_encoder_decoder_embeddings=False"),
    ],
)
def test_contradictory_sizes_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeltaLMConfig(**fields)


def test_default_config_is_deltalm_base() -> None:
    config = DeltaLMConfig()
    with torch.device("meta"):
        model = DeltaLMModel(config)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert model.encoder.embed_positions.weight.shape == (514, 768)
    assert model.decoder.embed_tokens.weight.shape == (250001, 768)
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id, config.decoder_start_token_id) == (
        1,
        0,
        2,
        2,
    )
    assert (len(model.encoder.layers), len(model.decoder.layers)) == (12, 6)


def test_the_text_config_is_the_targets() -> None:
    two = DeltaLMConfig(vocab_size=5, decoder_vocab_size=6, share_encoder_decoder_embeddings=False)
    assert (two.get_text_config().vocab_size, two.get_text_config(encoder=True).vocab_size) == (6, 5)
    assert two.get_text_config(decoder=True).get_text_config(decoder=True).vocab_size == 6
    assert two.vocab_size == 5
    one = DeltaLMConfig(vocab_size=5, decoder_vocab_size=5)
    assert one.decoder_vocab_size is None
    assert one.get_text_config() is one


def test_initial_weights_have_the_given_deviation() -> None:
    config = DeltaLMConfig(vocab_size=50, d_model=96, encoder_layers=1, decoder_layers=1, init_std=0.5)
    model = Model(config)
    config.share_encoder_decoder_embeddings = False
    assert not Model(config).model.decoder.embed_tokens.weight[PAD].any()
    assert 0.45 < model.model.encoder.layers[0].fc1.weight.std() < 0.55
    assert 0.45 < model.lm_head.weight[2:].std() < 0.55
    assert not model.model.shared.weight[PAD].any()
    assert not model.model.decoder.embed_positions.weight[PAD].any()
    assert not model.model.encoder.layers[0].fc1.bias.any()
    assert (model.model.decoder.layers[0].ffn_layer_norm.weight == 1).all()
