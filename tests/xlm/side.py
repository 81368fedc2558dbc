"""XLM's own files and what its own code computed from them (tests/golden), and transformers' classes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import XLMConfig, XLMWithLMHeadModel

from ckptconv import Options, convert

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TINY = GOLDEN / "xlm_original.tiny.pth"
SPECIAL = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{number}>" for number in range(10))]
KINDS = ["one language", "language embeddings", "languages without embeddings", "untied", "relu", "sinusoidal",
         "three layers, eight heads"]  # fmt: skip
PAD = 2


@cache
def references() -> dict[str, dict[str, Any]]:
    """What tests/xlm/make_golden.py wrote, by kind of model."""
    return torch.load(GOLDEN / "ref_logits_xlm_kinds.pt", weights_only=True)


def checkpoint(kind: str) -> dict[str, Any]:
    """A copy of the kind's checkpoint that may be changed."""
    content = references()[kind]["checkpoint"]
    return {name: dict(value) for name, value in content.items()}


def saved(content: dict[str, Any], path: Path) -> Path:
    torch.save(content, path)
    return path


def run(source: Path, output: Path, to: str, **options: Any) -> Path:
    convert(source, output, Options(to=to, **options))
    return output


def original(folder: Path) -> dict[str, Any]:
    """A file of ours, read as XLM reads it."""
    return torch.load(folder / "model.pt", weights_only=True)


def loaded(folder: Path, kind: Any = XLMWithLMHeadModel) -> Any:
    """A model that `from_pretrained` has nothing to say about."""
    model, told = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


@torch.no_grad()
def logits(model: Any, x: Tensor, lengths: Tensor, langs: Tensor | None = None) -> Tensor:
    return model(input_ids=x, attention_mask=within(x, lengths).long(), langs=langs).logits


def within(x: Tensor, lengths: Tensor) -> Tensor:
    """Where no padding is."""
    return torch.arange(x.shape[1])[None] < lengths[:, None]


def made(kind: Any = XLMWithLMHeadModel, **fields: Any) -> Any:
    """A model of transformers with random weights, biases and norms included."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "emb_dim": 8, "n_layers": 2, "n_heads": 2}
    model = kind(XLMConfig(**{**sizes, **fields})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model
