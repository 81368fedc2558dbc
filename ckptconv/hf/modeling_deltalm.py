"""DeltaLM for transformers 4.57 and 5: loading, saving, ties, loss and generation around ``layers_deltalm.py``."""

# torch and transformers are not typed for mypy here:
# mypy: disable-error-code="misc, no-any-return, untyped-decorator"

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_deltalm import DeltaLMConfig
from .layers_deltalm import DeltaLMDecoder, DeltaLMEncoder

IGNORED_LABEL = -100


def shift_right(labels: Tensor, first: int, padding: int) -> Tensor:
    """Decoder input for the labels [batch, length]: ``first``, then all but the last label; -100 becomes padding."""
    shifted = pad(labels[:, :-1], (1, 0), value=first)
    return shifted.masked_fill(shifted == IGNORED_LABEL, padding)


class DeltaLMPreTrainedModel(PreTrainedModel):
    """What both models share: which tensors are one, and how the embeddings grow."""

    config_class = DeltaLMConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _can_compile_fullgraph = True
    _no_split_modules: ClassVar[list[str]] = ["DeltaLMEncoderLayer", "DeltaLMDecoderLayer"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    # the public port of DeltaLM stores a zero bias; AutoModel opens files that have an lm_head
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"final_logits_bias$", r"^lm_head\.weight$"]

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        """Each tensor that is another one, by name; transformers 4.57 reads the keys only."""
        return {}

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """transformers 5: the ties; unlike there, tie_word_embeddings=False does not untie the encoder's embedding."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels=True)
        return dict(self._tied_weights_keys)

    def _tie_weights(self) -> None:
        """transformers 4.57: the same ties."""
        for target, source in self._tied_weights_keys.items():
            module = self.get_submodule(target.rpartition(".")[0])
            module.weight = self.get_parameter(source)
            if isinstance(module, nn.Linear):  # 4.57 has just given it the size of the encoder's embedding
                module.out_features = len(module.weight)

    def _resize_token_embeddings(
        self, new_num_tokens: int | None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Resize the encoder's embedding, and the decoder's side with it if both have the same dictionary."""
        shared = self._get_resized_embeddings(self.base_model.shared, new_num_tokens, pad_to_multiple_of, mean_resizing)
        self.base_model.set_input_embeddings(shared)
        self.config.vocab_size = shared.num_embeddings
        if self.config.decoder_vocab_size is None:
            self._resize_target(shared.num_embeddings, mean_resizing)
        return shared

    def resize_decoder_token_embeddings(self, new_num_tokens: int, mean_resizing: bool = True) -> nn.Embedding:
        """Resize the decoder's embedding and lm_head where the target has a dictionary of its own, else ValueError."""
        if self.config.decoder_vocab_size is None:
            raise ValueError("Source and target have the same dictionary (decoder_vocab_size is None): "
                             "use resize_token_embeddings.")  # fmt: skip
        self.config.decoder_vocab_size = new_num_tokens
        self._resize_target(new_num_tokens, mean_resizing)
        self.tie_weights()
        return self.base_model.decoder.embed_tokens

    def _resize_target(self, rows: int, mean_resizing: bool) -> None:
        decoder, head = self.base_model.decoder, self.get_output_embeddings()
        if not self.config.share_encoder_decoder_embeddings:
            decoder.embed_tokens = self._get_resized_embeddings(decoder.embed_tokens, rows, None, mean_resizing)
        if head is None:
            return
        if self.config.tie_word_embeddings:
            head.out_features = rows
        else:
            self.set_output_embeddings(self._get_resized_lm_head(head, rows, mean_resizing=mean_resizing))


class DeltaLMModel(DeltaLMPreTrainedModel):
    """Encoder and decoder without the projection to the vocabulary."""

    def __init__(self, config: DeltaLMConfig) -> None:
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        self.encoder = DeltaLMEncoder(config)
        self.decoder = DeltaLMDecoder(config)
        self.post_init()

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        ties = {"encoder.embed_tokens.weight": "shared.weight"}
        if self.config.share_encoder_decoder_embeddings:
            ties["decoder.embed_tokens.weight"] = "shared.weight"
        return ties

    def get_input_embeddings(self) -> nn.Embedding:
        """The encoder's embedding."""
        return self.shared

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the encoder's embedding, and the decoder's if they are one."""
        self.shared = self.encoder.embed_tokens = value
        if self.config.share_encoder_decoder_embeddings:
            self.decoder.embed_tokens = value

    def get_encoder(self, *args: Any, **kwargs: Any) -> DeltaLMEncoder:
        """The encoder, for generate."""
        return self.encoder

    def get_decoder(self) -> DeltaLMDecoder:
        """The decoder, for generate."""
        return self.decoder

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        decoder_position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Seq2SeqModelOutput:
        """States of the decoder, [batch, target length, d_model].

        ``attention_mask`` [batch, source length] is 1 at tokens, by default where ``input_ids`` is not padding.
        ``decoder_attention_mask`` covers the cached tokens and the new ones; by default the new ones that are not
        padding, and everything cached. ``decoder_position_ids`` [batch, target length] count from 0, by default the
        tokens in the mask.
        """
        wants = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        if encoder_outputs is None:
            encoded = self.encoder(input_ids, attention_mask, inputs_embeds, **wants)
        else:
            encoded = (
                encoder_outputs if isinstance(encoder_outputs, BaseModelOutput) else BaseModelOutput(*encoder_outputs)
            )
        context = encoded.last_hidden_state
        if attention_mask is None:
            attention_mask = self.encoder.real_tokens(input_ids, context)
        decoded = self.decoder(
            decoder_input_ids, decoder_attention_mask, decoder_position_ids, context, attention_mask.bool(),
            past_key_values, decoder_inputs_embeds, use_cache, **wants, cache_position=kwargs.get("cache_position"),
        )  # fmt: skip
        return Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=context,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )


class DeltaLMForConditionalGeneration(DeltaLMPreTrainedModel, GenerationMixin):
    """DeltaLM with the projection to the vocabulary, for translation and the like."""

    def __init__(self, config: DeltaLMConfig) -> None:
        super().__init__(config)
        self.model = DeltaLMModel(config)
        self.lm_head = nn.Linear(config.d_model, config.target_vocab_size, bias=False)
        self.post_init()

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        if not self.config.tie_word_embeddings:
            return {}
        shared = self.config.share_encoder_decoder_embeddings
        return {"lm_head.weight": "model.shared.weight" if shared else "model.decoder.embed_tokens.weight"}

    def get_output_embeddings(self) -> nn.Linear:
        """The projection to the vocabulary."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the projection to the vocabulary."""
        self.lm_head = new_embeddings

    def get_encoder(self, *args: Any, **kwargs: Any) -> DeltaLMEncoder:
        """The encoder, for generate."""
        return self.model.encoder

    def get_decoder(self) -> DeltaLMDecoder:
        """The decoder, for generate."""
        return self.model.decoder

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        decoder_position_ids: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Logits [batch, target length, target vocabulary]; see DeltaLMModel.forward for the inputs.

        With ``labels`` [batch, target length] (-100: ignored) also the cross-entropy, averaged over the labels that
        count (over ``num_items_in_batch`` where Trainer accumulates gradients); the decoder's input defaults to them.
        """
        if labels is not None:
            use_cache = bool(use_cache)
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        states = self.model(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, past_key_values,
            inputs_embeds, decoder_inputs_embeds, use_cache, output_attentions, output_hidden_states,
            decoder_position_ids, return_dict=True, **kwargs,
        )  # fmt: skip
        logits = self.lm_head(states.last_hidden_state)
        loss = None
        if labels is not None:
            reduction = "mean" if num_items_in_batch is None else "sum"
            loss = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction=reduction)
            loss = loss if num_items_in_batch is None else loss / num_items_in_batch
        return Seq2SeqLMOutput(
            loss=loss, logits=logits, **{k: v for k, v in states.items() if k != "last_hidden_state"}
        )

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """The decoder's input for these labels; DataCollatorForSeq2Seq asks for it."""
        return shift_right(labels, self.config.decoder_start_token_id, self.config.pad_token_id)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, decoder_attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Mask and positions from all tokens so far, which forward does not see once there is a cache."""
        if decoder_attention_mask is None:
            decoder_attention_mask = (input_ids != self.config.pad_token_id).long()
        kwargs["decoder_position_ids"] = (decoder_attention_mask.cumsum(1) - 1).clamp(min=0)
        return super().prepare_inputs_for_generation(input_ids, decoder_attention_mask=decoder_attention_mask, **kwargs)
