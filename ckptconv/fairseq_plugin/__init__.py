"""DeltaLM for fairseq: `fairseq-train --user-dir …/ckptconv/fairseq_plugin --arch deltalm_base …`.

This folder stands alone: it imports fairseq and torch, and nothing else of ckptconv.
"""

from .model import DeltaLMDecoder, DeltaLMDecoderLayer, DeltaLMModel
from .pretrained import PretrainedError, load_pretrained

__all__ = ["DeltaLMDecoder", "DeltaLMDecoderLayer", "DeltaLMModel", "PretrainedError", "load_pretrained"]
