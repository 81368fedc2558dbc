"""DeltaLM (Ma et al. 2021): fairseq's transformer with a second feed-forward block in every decoder layer.

Behaviour and names as in unilm's deltalm/deltalm/models/deltalm.py, so that its fine-tuned checkpoints load.
"""
# fairseq has no types:
# mypy: disable-error-code="misc, no-any-return, untyped-decorator"

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from fairseq.distributed import fsdp_wrap
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerConfig, TransformerDecoderBase, TransformerModel
from fairseq.modules import LayerNorm
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor, nn

from .pretrained import load_pretrained


class DeltaLMDecoderLayer(TransformerDecoderLayerBase):
    """Self-attention, feed-forward (fc3, fc4), cross-attention, feed-forward (fc1, fc2)."""

    def __init__(self, cfg: TransformerConfig, no_encoder_attn: bool = False) -> None:
        if cfg.cross_self_attention:
            raise ValueError("--cross-self-attention is not supported by deltalm; leave it out")
        super().__init__(cfg, no_encoder_attn)
        noise = (self.quant_noise, self.quant_noise_block_size)
        self.fc3 = self.build_fc1(self.embed_dim, cfg.decoder.ffn_embed_dim, *noise)
        self.fc4 = self.build_fc2(cfg.decoder.ffn_embed_dim, self.embed_dim, *noise)
        self.ffn_layer_norm = LayerNorm(self.embed_dim, export=cfg.export)
        # Last again, as in unilm: optimizer states are saved in the order of the parameters.
        self.final_layer_norm = self._modules.pop("final_layer_norm")

    def forward(
        self,
        x: Tensor,
        encoder_out: Tensor | None = None,
        encoder_padding_mask: Tensor | None = None,
        incremental_state: dict[str, dict[str, Tensor | None]] | None = None,
        self_attn_mask: Tensor | None = None,
        self_attn_padding_mask: Tensor | None = None,
        need_attn: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, None]:
        """States [target length, batch, width] in and out, with the cross-attention's weights if asked for."""
        residual, x = x, self._before(self.self_attn_layer_norm, x)
        x, attention = self.self_attn(
            query=x,
            key=x,
            value=x,
            key_padding_mask=self_attn_padding_mask,
            incremental_state=incremental_state,
            need_weights=False,
            attn_mask=self_attn_mask,
        )
        x = self._after(self.self_attn_layer_norm, x, residual)
        x = self._feed_forward(x, self.fc3, self.fc4, self.ffn_layer_norm)
        if self.encoder_attn is not None and encoder_out is not None:
            residual, x = x, self._before(self.encoder_attn_layer_norm, x)
            x, attention = self.encoder_attn(
                query=x,
                key=encoder_out,
                value=encoder_out,
                key_padding_mask=encoder_padding_mask,
                incremental_state=incremental_state,
                static_kv=True,
                need_weights=need_attn or need_head_weights or (not self.training and self.need_attn),
                need_head_weights=need_head_weights,
            )
            x = self._after(self.encoder_attn_layer_norm, x, residual)
        return self._feed_forward(x, self.fc1, self.fc2, self.final_layer_norm), attention, None

    def _feed_forward(self, x: Tensor, into: nn.Module, out_of: nn.Module, norm: nn.Module) -> Tensor:
        hidden = self.activation_dropout_module(self.activation_fn(into(self._before(norm, x))))
        return self._after(norm, out_of(hidden), x)

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x) if self.normalize_before else x

    def _after(self, norm: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
        x = self.residual_connection(self.dropout_module(x), residual)
        return x if self.normalize_before else norm(x)


class DeltaLMDecoder(TransformerDecoderBase):
    """fairseq's decoder, with DeltaLM's layers."""

    def build_decoder_layer(self, cfg: TransformerConfig, no_encoder_attn: bool = False) -> nn.Module:
        """One layer, wrapped for activation checkpointing and FSDP where the config asks for it."""
        layer: nn.Module = DeltaLMDecoderLayer(cfg, no_encoder_attn)
        if not cfg.checkpoint_activations:
            return fsdp_wrap(layer, min_num_params=cfg.min_params_to_wrap)
        layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
        return fsdp_wrap(layer, min_num_params=0)


@register_model("deltalm")
class DeltaLMModel(TransformerModel):
    """fairseq's transformer with DeltaLM's decoder; its encoder is an ordinary one."""

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """fairseq's transformer options, and where to start from."""
        super().add_args(parser)
        parser.add_argument(
            "--pretrained-deltalm-checkpoint",
            metavar="FILE",
            help="start from this pretrained DeltaLM ({'weights': …}); symbols or positions that it has on top are cut",
        )

    @classmethod
    def build_model(cls, args: Namespace, task: Any) -> DeltaLMModel:
        """The model for these options; pretrained.PretrainedError if the file to start from doesn't fit it."""
        model = super().build_model(args, task)
        path = getattr(args, "pretrained_deltalm_checkpoint", None)
        if path:
            load_pretrained(model, path)
        return model

    @classmethod
    def build_decoder(cls, args: Namespace, tgt_dict: Any, embed_tokens: nn.Module) -> DeltaLMDecoder:
        """DeltaLM's decoder, as TransformerModel calls for it."""
        cfg = TransformerConfig.from_namespace(args)
        return DeltaLMDecoder(cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention)


def _set_defaults(
    args: Namespace, width: int, ffn: int, heads: int, encoder_layers: int, decoder_layers: int, embedding_norm: bool
) -> None:
    # unilm's functions overwrite whatever was given; here an option that was given wins. Checkpoints written by
    # unilm hold the overwritten values, so they load as they were trained either way.
    sizes = {"embed_dim": width, "ffn_embed_dim": ffn, "attention_heads": heads}
    side = {**sizes, "normalize_before": False, "learned_pos": True}
    defaults = {
        **{f"encoder_{name}": value for name, value in side.items()},
        **{f"decoder_{name}": value for name, value in side.items()},
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        "activation_fn": "gelu",
        "no_scale_embedding": True,
        "layernorm_embedding": embedding_norm,
        "max_positions": 512,
    }
    for name, value in defaults.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)


@register_model_architecture("deltalm", "deltalm_base")
def deltalm_base(args: Namespace) -> None:
    """12 + 6 layers of width 768."""
    _set_defaults(args, width=768, ffn=3072, heads=12, encoder_layers=12, decoder_layers=6, embedding_norm=True)


@register_model_architecture("deltalm", "deltalm_large")
def deltalm_large(args: Namespace) -> None:
    """24 + 12 layers of width 1024, without the norm after the embeddings."""
    _set_defaults(args, width=1024, ffn=4096, heads=16, encoder_layers=24, decoder_layers=12, embedding_norm=False)


@register_model_architecture("deltalm", "deltalm_tiny")
def deltalm_tiny(args: Namespace) -> None:
    """4 + 2 layers of width 64, for tests and for examples/deltalm-numbers."""
    _set_defaults(args, width=64, ffn=128, heads=4, encoder_layers=4, decoder_layers=2, embedding_norm=True)
