"""Configuration of DeltaLM for transformers.

The three ``*_deltalm.py`` files are copied into every exported directory (``trust_remote_code``), so they import
nothing but transformers, torch and each other.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from transformers import PretrainedConfig

_AT_LEAST_ONE = (
    "vocab_size", "d_model", "encoder_attention_heads", "decoder_attention_heads", "max_position_embeddings",
)  # fmt: skip


class DeltaLMConfig(PretrainedConfig):  # type: ignore[misc]  # transformers is not typed
    """Sizes and switches of a DeltaLM; the defaults are deltalm-base (unilm, ``deltalm/models/deltalm.py``).

    Names are those of BART and Marian where they have one:

    - ``vocab_size``: rows of the encoder's embedding; ``decoder_vocab_size``: rows of the decoder's embedding and of
      ``lm_head`` where the two sides have dictionaries of their own, None where they have the same one.
    - ``max_position_embeddings``: longest source in tokens, two less than the rows of ``embed_positions`` (fairseq
      keeps rows 0 and 1 for padding); ``decoder_max_position_embeddings``: the same for the target, None if equal.
    - ``share_encoder_decoder_embeddings``: one embedding for both sides. ``tie_word_embeddings``: ``lm_head`` is the
      decoder's embedding. Together fairseq's ``share_all_embeddings``; only the second,
      ``share_decoder_input_output_embed``; neither, three tensors.
    - ``layernorm_embedding``: layer norm after the embeddings (base has it, large has not).
    - ``encoder_normalize_before``, ``decoder_normalize_before``: pre-norm layers and a final layer norm.
    - ``scale_embedding``: embeddings times sqrt(d_model), the opposite of fairseq's ``no_scale_embedding``.

    Raises ValueError if the sizes contradict each other.
    """

    model_type = "deltalm"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
        "initializer_range": "init_std",
    }

    def __init__(
        self,
        vocab_size: int = 250001,
        decoder_vocab_size: int | None = None,
        d_model: int = 768,
        encoder_layers: int = 12,
        decoder_layers: int = 6,
        encoder_ffn_dim: int = 3072,
        decoder_ffn_dim: int = 3072,
        encoder_attention_heads: int = 12,
        decoder_attention_heads: int = 12,
        max_position_embeddings: int = 512,
        decoder_max_position_embeddings: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        activation_function: str = "gelu",
        scale_embedding: bool = False,
        layernorm_embedding: bool = True,
        encoder_normalize_before: bool = False,
        decoder_normalize_before: bool = False,
        share_encoder_decoder_embeddings: bool = True,
        tie_word_embeddings: bool = True,
        encoder_layerdrop: float = 0.0,
        decoder_layerdrop: float = 0.0,
        init_std: float = 0.02,
        use_cache: bool = True,
        pad_token_id: int = 1,
        bos_token_id: int = 0,
        eos_token_id: int = 2,
        decoder_start_token_id: int = 2,
        is_encoder_decoder: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.decoder_vocab_size = decoder_vocab_size
        self.d_model = d_model
        self.encoder_layers = encoder_layers
        self.decoder_layers = decoder_layers
        self.encoder_ffn_dim = encoder_ffn_dim
        self.decoder_ffn_dim = decoder_ffn_dim
        self.encoder_attention_heads = encoder_attention_heads
        self.decoder_attention_heads = decoder_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.decoder_max_position_embeddings = decoder_max_position_embeddings
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.activation_function = activation_function
        self.scale_embedding = scale_embedding
        self.layernorm_embedding = layernorm_embedding
        self.encoder_normalize_before = encoder_normalize_before
        self.decoder_normalize_before = decoder_normalize_before
        self.share_encoder_decoder_embeddings = share_encoder_decoder_embeddings
        self.encoder_layerdrop = encoder_layerdrop
        self.decoder_layerdrop = decoder_layerdrop
        self.init_std = init_std
        self.use_cache = use_cache
        self._check_sizes()
        if share_encoder_decoder_embeddings:
            self.decoder_vocab_size = None
        super().__init__(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            decoder_start_token_id=decoder_start_token_id,
            is_encoder_decoder=is_encoder_decoder,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )

    @property
    def target_vocab_size(self) -> int:
        """Rows of the decoder's embedding and of lm_head."""
        return self.vocab_size if self.decoder_vocab_size is None else self.decoder_vocab_size

    @property
    def target_positions(self) -> int:
        """Longest target in tokens."""
        longest = self.decoder_max_position_embeddings
        return self.max_position_embeddings if longest is None else longest

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> DeltaLMConfig:
        """The config as one side sees it: ``generate`` takes the width of the logits and the cache's layers from here.

        The target's vocabulary unless the encoder is asked for; ``num_hidden_layers`` and ``num_attention_heads`` are
        the decoder's if only the decoder is asked for.
        """
        if encoder or (not decoder and self.target_vocab_size == self.vocab_size):
            return self
        side = copy.copy(self)
        side.vocab_size = self.target_vocab_size
        if decoder:
            side.num_hidden_layers = self.decoder_layers
            side.num_attention_heads = self.decoder_attention_heads
        return side

    def _check_sizes(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"DeltaLMConfig: {name} must be at least 1, got {getattr(self, name)}.")
        for heads in ("encoder_attention_heads", "decoder_attention_heads"):
            if self.d_model % getattr(self, heads):
                raise ValueError(
                    f"DeltaLMConfig: d_model={self.d_model} is not a multiple of {heads}={getattr(self, heads)}."
                )
        if self.share_encoder_decoder_embeddings and self.target_vocab_size != self.vocab_size:
            raise ValueError(
                f"DeltaLMConfig: vocab_size={self.vocab_size} and decoder_vocab_size={self.decoder_vocab_size} differ, "
                "so the two sides cannot share one embedding; set share_encoder_decoder_embeddings=False."
            )
