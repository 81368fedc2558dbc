"""Models that transformers has written, files of every layout, and what is asked of reports."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers
from click.testing import CliRunner

from ckptconv import Audit
from ckptconv.cli import main
from ckptconv.hf import DeltaLMConfig, DeltaLMForConditionalGeneration

SMALL = {"vocab_size": 45, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "max_position_embeddings": 34, "type_vocab_size": 1, "pad_token_id": 1,
         "bos_token_id": 0, "eos_token_id": 2}  # fmt: skip
# File → its layout.
SAMPLES = {
    "fairseq-0.8.0_roberta_mlm_fused.pt": "xlmr/fairseq-0.8",
    "fairseq-0.9.0_roberta_mlm.pt": "xlmr/fairseq-0.9",
    "fairseq-0.10.2_roberta_mlm.pt": "xlmr/fairseq-0.10",
    "fairseq-0.12.2_roberta_mlm_BTzeros.pt": "xlmr/fairseq",
    "fairseq-e3fafbdf_2021-09_mlm.pt": "xlmr/fairseq",
    "xlmr_xl_tiny.pt": "xlmr/fairseq",
    "infoxlm_tiny.pt": "xlmr/fairseq-infoxlm",
    "xlm_align_tiny.pt": "xlmr/fairseq-xlm_align",
    "hf_xlmr_mlm_transformers-2.3.0_205style_legacy.bin": "xlmr/hf",
    "hf_xlmr_mlm_transformers-4.30.2.bin": "xlmr/hf",
    "hf_xlmr_mlm_transformers-5.23.safetensors": "xlmr/hf",
    "deltalm_pretrained_weights_tiny.pt": "deltalm/pretrained",
    "deltalm_finetuned_share_all.pt": "deltalm/fairseq",
    "deltalm_finetuned_untied.pt": "deltalm/fairseq",
    "deltalm_finetuned_v0122.pt": "deltalm/fairseq",
    "hf_deltalm_fengshen_transformers-4.30.2.bin": "deltalm/hf",
    "xlm_original.tiny.pth": "xlm/original",
    "hf_xlm_mlm_transformers-5.23.safetensors": "xlm/hf",
}


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """saved(class name, **config fields) → a directory that transformers has written."""
    root = tmp_path_factory.mktemp("saved")

    @cache
    def make(name: str, **fields: Any) -> Path:
        folder = root / f"{name}{len(list(root.iterdir()))}"
        kind = getattr(transformers, name)
        kind(kind.config_class(**{**SMALL, **fields})).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def deltalm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeltaLM directory of the samples' sizes."""
    folder = tmp_path_factory.mktemp("deltalm")
    config = DeltaLMConfig(
        vocab_size=44, d_model=32, encoder_layers=4, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=32,
    )  # fmt: skip
    DeltaLMForConditionalGeneration(config).save_pretrained(folder)
    return folder


def keys(listed: Any) -> set[str]:
    return {each.key for each in listed}


def expected(listed: Any) -> set[bool]:
    return {each.expected for each in listed}


def follow(report: Audit, output: Path) -> None:
    """Does what the report advises: runs the convert command that it names."""
    command = shlex.split(report.advice[report.advice.index("ckptconv convert") :])
    assert command[:2] == ["ckptconv", "convert"]
    assert command[3] == "DIR"
    result = CliRunner().invoke(main, [command[1], command[2], str(output), *command[4:]])
    assert result.exit_code == 0, result.output
