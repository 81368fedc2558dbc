"""The layers of DeltaLM and its two stacks, without anything of transformers' loading, saving and generation.

Computes what fairseq's ``TransformerEncoderBase`` and ``TransformerDecoderBase`` compute with unilm's
``DeltaLMDecoderLayer`` (deltalm/models/deltalm.py): learned positions counted from the padding mask, and a second
feed-forward block (fc3, fc4) between the decoder's self- and cross-attention. Tensors are batch first, masks are True
where a key may be seen. Softmax is in float32, as in fairseq.
"""

# torch and transformers are not typed for mypy here:
# mypy: disable-error-code="misc, no-any-return, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, pad, scaled_dot_product_attention
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions

from .configuration_deltalm import DeltaLMConfig

PADDING_ROW = 1
"""Row of embed_positions for padding; the first token has the next one (fairseq/utils.py, make_positions)."""


def position_rows(mask: Tensor) -> Tensor:
    """Rows of embed_positions for a padding mask [batch, length]: tokens count from PADDING_ROW + 1, padding does not.

    Source: fairseq/utils.py, make_positions.
    """
    mask = mask.long()
    return mask.cumsum(1) * mask + PADDING_ROW


def open_empty_rows(mask: Tensor) -> Tensor:
    """Let a query that may see no key see all of them: its result means nothing, but it must not be NaN."""
    return mask | ~mask.any(-1, keepdim=True)


def causal_mask(keys: Tensor, queries: int) -> Tensor:
    """The mask [batch, 1, queries, keys] of the last ``queries`` positions over the padding mask [batch, keys]."""
    length = keys.shape[1]
    past = torch.ones(queries, length, dtype=torch.bool, device=keys.device).tril(length - queries)
    return open_empty_rows(keys[:, None, None, :] & past)


class DeltaLMAttention(nn.Module):
    """Multi-head attention over the input itself or over ``context``, the encoder's output."""

    def __init__(self, config: DeltaLMConfig, heads: int, layer: int) -> None:
        super().__init__()
        width = config.d_model
        self.config = config
        self.heads = heads
        self.layer = layer
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        context: Tensor | None = None,
        cache: EncoderDecoderCache | None = None,
        cache_position: Tensor | None = None,
        want_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """[batch, queries, d_model] → the same, and the weights [batch, heads, queries, keys] if they are wanted."""
        query = self._split(self.q_proj(x))
        if context is None:
            key, value = self._own_keys(x, cache, cache_position)
        else:
            key, value = self._context_keys(context, cache)
        attend = self._eager if want_weights or self.config._attn_implementation == "eager" else self._sdpa
        y, weights = attend(query, key, value, mask)
        return self.out_proj(y.transpose(1, 2).flatten(2)), weights if want_weights else None

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self.k_proj(x)), self._split(self.v_proj(x))

    def _own_keys(
        self, x: Tensor, cache: EncoderDecoderCache | None, cache_position: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        key, value = self._project(x)
        if cache is None:
            return key, value
        # transformers 4.57 tells a static cache where to write; 5 counts for itself and ignores it
        where = {"cache_position": cache_position}
        return cache.self_attention_cache.update(key, value, self.layer, where)

    def _context_keys(self, context: Tensor, cache: EncoderDecoderCache | None) -> tuple[Tensor, Tensor]:
        if cache is None:
            return self._project(context)
        if not cache.is_updated.get(self.layer, False):
            cache.cross_attention_cache.update(*self._project(context), self.layer)
            cache.is_updated[self.layer] = True
        kept = cache.cross_attention_cache.layers[self.layer]
        return kept.keys, kept.values

    def _dropout(self) -> float:
        return self.config.attention_dropout if self.training else 0.0

    def _eager(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.float32).to(query.dtype)
        return dropout(weights, self._dropout(), self.training) @ value, weights

    def _sdpa(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=self._dropout()), None


class DeltaLMLayer(GradientCheckpointingLayer):
    """What both kinds of layer share: residual blocks with the layer norm before (pre-norm) or after them."""

    def __init__(self, config: DeltaLMConfig, normalize_before: bool) -> None:
        super().__init__()
        self.config = config
        self.normalize_before = normalize_before
        self.activation = ACT2FN[config.activation_function]

    def enter(self, norm: nn.Module, x: Tensor) -> Tensor:
        """What a block with this norm works on."""
        return norm(x) if self.normalize_before else x

    def leave(self, norm: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Add the block's result ``y`` to its input ``x``."""
        x = x + dropout(y, self.config.dropout, self.training)
        return x if self.normalize_before else norm(x)

    def feed_forward(self, norm: nn.Module, widen: nn.Module, narrow: nn.Module, x: Tensor) -> Tensor:
        """A whole feed-forward block."""
        y = self.activation(widen(self.enter(norm, x)))
        y = narrow(dropout(y, self.config.activation_dropout, self.training))
        return self.leave(norm, x, y)


class DeltaLMEncoderLayer(DeltaLMLayer):
    """Self-attention, feed-forward (fairseq, TransformerEncoderLayerBase)."""

    def __init__(self, config: DeltaLMConfig, layer: int) -> None:
        super().__init__(config, config.encoder_normalize_before)
        width, inner = config.d_model, config.encoder_ffn_dim
        self.self_attn = DeltaLMAttention(config, config.encoder_attention_heads, layer)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor, want_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """[batch, length, d_model] → the same, and the attention weights if they are wanted."""
        y, weights = self.self_attn(self.enter(self.self_attn_layer_norm, x), mask, want_weights=want_weights)
        x = self.leave(self.self_attn_layer_norm, x, y)
        return self.feed_forward(self.final_layer_norm, self.fc1, self.fc2, x), weights


class DeltaLMDecoderLayer(DeltaLMLayer):
    """Self-attention, feed-forward, cross-attention, feed-forward (unilm, DeltaLMDecoderLayer)."""

    def __init__(self, config: DeltaLMConfig, layer: int) -> None:
        super().__init__(config, config.decoder_normalize_before)
        width, inner = config.d_model, config.decoder_ffn_dim
        self.self_attn = DeltaLMAttention(config, config.decoder_attention_heads, layer)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = DeltaLMAttention(config, config.decoder_attention_heads, layer)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.fc3 = nn.Linear(width, inner)
        self.fc4 = nn.Linear(inner, width)
        self.ffn_layer_norm = nn.LayerNorm(width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        context: Tensor,
        context_mask: Tensor,
        past_key_values: EncoderDecoderCache | None = None,
        cache_position: Tensor | None = None,
        want_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """[batch, length, d_model] → the same, and the weights of both attentions if they are wanted."""
        y, weights = self.self_attn(
            self.enter(self.self_attn_layer_norm, x), mask, None, past_key_values, cache_position, want_weights
        )
        x = self.leave(self.self_attn_layer_norm, x, y)
        x = self.feed_forward(self.ffn_layer_norm, self.fc3, self.fc4, x)
        y, context_weights = self.encoder_attn(
            self.enter(self.encoder_attn_layer_norm, x), context_mask, context, past_key_values, None, want_weights
        )
        x = self.leave(self.encoder_attn_layer_norm, x, y)
        return self.feed_forward(self.final_layer_norm, self.fc1, self.fc2, x), weights, context_weights


class DeltaLMStack(nn.Module):
    """Embeddings and layers of one side."""

    gradient_checkpointing = False

    def __init__(
        self, config: DeltaLMConfig, vocab_size: int, positions: int, layers: list[DeltaLMLayer], final_norm: bool
    ) -> None:
        super().__init__()
        width = config.d_model
        self.config = config
        self.max_positions = positions
        self.embed_scale = width**0.5 if config.scale_embedding else 1.0
        self.embed_tokens = nn.Embedding(vocab_size, width, config.pad_token_id)
        self.embed_positions = nn.Embedding(positions + PADDING_ROW + 1, width, PADDING_ROW)
        self.layernorm_embedding = nn.LayerNorm(width) if config.layernorm_embedding else None
        self.layers = nn.ModuleList(layers)
        self.layer_norm = nn.LayerNorm(width) if final_norm else None

    def real_tokens(self, ids: Tensor | None, embeds: Tensor | None) -> Tensor:
        """The padding mask [batch, length] that the input itself shows: padding ids; embeddings have none."""
        if ids is not None:
            return ids != self.config.pad_token_id
        if embeds is None:
            raise ValueError(f"{type(self).__name__} needs token ids or embeddings, got neither.")
        return torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)

    def embed(self, ids: Tensor | None, embeds: Tensor | None, rows: Tensor, longest: int) -> Tensor:
        """Embeddings plus positions, [batch, length, d_model]; ``longest`` bounds the tokens seen so far."""
        if longest > self.max_positions and int(rows.max()) >= self.embed_positions.num_embeddings:
            raise ValueError(
                f"{type(self).__name__} got {int(rows.max()) - PADDING_ROW} tokens but has {self.max_positions} "
                "positions; truncate the input or lower max_length."
            )
        if embeds is None:
            embeds = self.embed_tokens(ids)
        x = embeds * self.embed_scale + self.embed_positions(rows)
        if self.layernorm_embedding is not None:
            x = self.layernorm_embedding(x)
        return dropout(x, self.config.dropout, self.training)

    def run_layers(
        self, x: Tensor, *args: Tensor, layerdrop: float, want_states: bool, **kwargs: Any
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, list[tuple[Tensor | None, ...]]]:
        """Last state, all states (the first is ``x``, the last the result) if wanted, and each layer's weights."""
        states, weights = [x], []
        for layer in self.layers:
            if self.training and layerdrop > 0 and torch.rand(()) < layerdrop:
                continue
            x, *layer_weights = layer(x, *args, **kwargs)
            weights.append(tuple(layer_weights))
            if want_states:
                states.append(x)
        if self.layer_norm is not None:
            x = states[-1] = self.layer_norm(x)
        return x, tuple(states) if want_states else None, weights

    def _wants(self, attentions: bool | None, states: bool | None) -> tuple[bool, bool]:
        return (
            self.config.output_attentions if attentions is None else attentions,
            self.config.output_hidden_states if states is None else states,
        )


class DeltaLMEncoder(DeltaLMStack):
    """fairseq's TransformerEncoderBase."""

    def __init__(self, config: DeltaLMConfig) -> None:
        layers = [DeltaLMEncoderLayer(config, layer) for layer in range(config.encoder_layers)]
        super().__init__(
            config, config.vocab_size, config.max_position_embeddings, layers, config.encoder_normalize_before
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Encode ids [batch, length], padded on either side; ``attention_mask`` [batch, length] is 1 at tokens."""
        want_weights, want_states = self._wants(output_attentions, output_hidden_states)
        tokens = self.real_tokens(input_ids, inputs_embeds) if attention_mask is None else attention_mask.bool()
        x = self.embed(input_ids, inputs_embeds, position_rows(tokens), tokens.shape[1])
        x = x * tokens[:, :, None]
        mask = open_empty_rows(tokens[:, None, None, :])
        x, states, weights = self.run_layers(
            x, mask, layerdrop=self.config.encoder_layerdrop, want_states=want_states, want_weights=want_weights
        )
        attentions = tuple(own for (own,) in weights) if want_weights else None
        return BaseModelOutput(last_hidden_state=x, hidden_states=states, attentions=attentions)


class DeltaLMDecoder(DeltaLMStack):
    """fairseq's TransformerDecoderBase with unilm's decoder layer."""

    def __init__(self, config: DeltaLMConfig) -> None:
        layers = [DeltaLMDecoderLayer(config, layer) for layer in range(config.decoder_layers)]
        super().__init__(
            config, config.target_vocab_size, config.target_positions, layers, config.decoder_normalize_before
        )

    def forward(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        context: Tensor,
        context_tokens: Tensor,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Decode the ids [batch, length] that follow those in ``past_key_values``; see DeltaLMModel.forward."""
        want_weights, want_states = self._wants(output_attentions, output_hidden_states)
        cache = self._cache(past_key_values, use_cache)
        mask, rows = self._mask_and_rows(input_ids, inputs_embeds, attention_mask, position_ids, cache)
        x, states, weights = self.run_layers(
            self.embed(input_ids, inputs_embeds, rows, mask.shape[-1]),
            mask,
            context,
            open_empty_rows(context_tokens[:, None, None, :]),
            layerdrop=self.config.decoder_layerdrop,
            want_states=want_states,
            past_key_values=cache,
            cache_position=cache_position,
            want_weights=want_weights,
        )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=x,
            past_key_values=cache,
            hidden_states=states,
            attentions=tuple(own for own, _ in weights) if want_weights else None,
            cross_attentions=tuple(cross for _, cross in weights) if want_weights else None,
        )

    def _cache(self, given: Cache | None, use_cache: bool | None) -> EncoderDecoderCache | None:
        if self.training and self.gradient_checkpointing:
            return None
        if given is None:
            wanted = self.config.use_cache if use_cache is None else use_cache
            return EncoderDecoderCache(DynamicCache(), DynamicCache()) if wanted else None
        return given if isinstance(given, EncoderDecoderCache) else EncoderDecoderCache(given, DynamicCache())

    def _mask_and_rows(
        self,
        ids: Tensor | None,
        embeds: Tensor | None,
        mask: Tensor | None,
        position_ids: Tensor | None,
        cache: EncoderDecoderCache | None,
    ) -> tuple[Tensor, Tensor]:
        """The mask [batch, 1, queries, keys] of the self-attention and the queries' rows of embed_positions."""
        tokens = self.real_tokens(ids, embeds)
        queries = tokens.shape[1]
        if mask is None:
            past = 0 if cache is None else int(cache.get_seq_length())
            mask = pad(tokens, (past, 0), value=True)
        if mask.dim() == 4:  # made by generate, for a static cache
            mask = mask == 0 if mask.is_floating_point() else mask.bool()
            keys = open_empty_rows(mask)
        else:
            keys = causal_mask(mask.bool(), queries)
        if position_ids is not None:
            return keys, position_ids + PADDING_ROW + 1
        if mask.dim() == 4:
            raise ValueError("A decoder_attention_mask of four dimensions needs decoder_position_ids.")
        return keys, position_rows(mask)[:, -queries:]
