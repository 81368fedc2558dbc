"""DeltaLM for transformers: importing this package registers the Auto classes.

``save_pretrained`` then also writes the source files and an ``auto_map``, so that a saved directory loads with
``trust_remote_code=True`` where ckptconv is not installed.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from .configuration_deltalm import DeltaLMConfig
from .modeling_deltalm import DeltaLMForConditionalGeneration, DeltaLMModel, DeltaLMPreTrainedModel

__all__ = ["DeltaLMConfig", "DeltaLMForConditionalGeneration", "DeltaLMModel", "DeltaLMPreTrainedModel"]

AutoConfig.register(DeltaLMConfig.model_type, DeltaLMConfig, exist_ok=True)
AutoModel.register(DeltaLMConfig, DeltaLMModel, exist_ok=True)
AutoModelForSeq2SeqLM.register(DeltaLMConfig, DeltaLMForConditionalGeneration, exist_ok=True)

DeltaLMConfig.register_for_auto_class()
DeltaLMModel.register_for_auto_class("AutoModel")
DeltaLMForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")
