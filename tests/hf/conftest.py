"""Models and sentences for the tests of ckptconv.hf: fairseq's files under transformers' names, and its pipeline."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from transformers import logging

from ckptconv.hf import DeltaLMConfig, DeltaLMForConditionalGeneration

ROOT = Path(__file__).resolve().parents[2]
FUSED = {f"{kind}_proj_{part}" for kind in ("in", "out") for part in ("weight", "bias")}
STALE = FUSED | {f"fc{number}_{part}" for number in (1, 2) for part in ("weight", "bias")}


def hf_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """fairseq's state dict under our names, without its version buffers and 0.12.2's stale encoder tensors."""
    renamed = {
        "lm_head.weight" if key == "decoder.output_projection.weight" else f"model.{key}": value
        for key, value in state.items()
        if key.rpartition(".")[2] not in STALE | {"version"}
    }
    return renamed | {"model.shared.weight": state["encoder.embed_tokens.weight"]}


def config_from_shapes(state: dict[str, Tensor], heads: int, **fields: Any) -> DeltaLMConfig:
    """The config of a fairseq state dict; what is one tensor is found by equal values."""
    source, target, out = (
        state[key] for key in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight",
                               "decoder.output_projection.weight")
    )  # fmt: skip
    layers = {side: len({key.split(".")[2] for key in state if key.startswith(f"{side}.layers.")})
              for side in ("encoder", "decoder")}  # fmt: skip
    return DeltaLMConfig(
        vocab_size=len(source),
        decoder_vocab_size=len(target) if len(target) != len(source) else None,
        d_model=source.shape[1],
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_ffn_dim=len(state["encoder.layers.0.fc1.weight"]),
        decoder_ffn_dim=len(state["decoder.layers.0.fc1.weight"]),
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        max_position_embeddings=len(state["encoder.embed_positions.weight"]) - 2,
        decoder_max_position_embeddings=len(state["decoder.embed_positions.weight"]) - 2,
        layernorm_embedding="encoder.layernorm_embedding.weight" in state,
        encoder_normalize_before="encoder.layer_norm.weight" in state,
        decoder_normalize_before="decoder.layer_norm.weight" in state,
        share_encoder_decoder_embeddings=torch.equal(source, target),
        tie_word_embeddings=torch.equal(target, out),
        **fields,
    )


@pytest.fixture
def no_warnings(recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture) -> Any:
    """transformers says nothing while our model is made, saved, loaded, trained or used."""
    logging.enable_propagation()
    logging.warning_once.cache_clear()
    yield
    logging.disable_propagation()
    records = caplog.get_records("setup") + caplog.get_records("call")
    ours = [record.getMessage() for record in records if record.levelname in ("WARNING", "ERROR")]
    assert not ours
    assert not [str(one.message) for one in recwarn if "ckptconv" in one.filename or "transformers" in one.filename]


@pytest.fixture(scope="session")
def golden() -> Path:
    """Tiny checkpoints that the real software wrote, with logits."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def numbers_dir() -> Path:
    """The trained model of examples/deltalm-numbers."""
    return ROOT / "examples" / "deltalm-numbers"


@pytest.fixture(scope="session")
def from_fairseq() -> Callable[..., DeltaLMForConditionalGeneration]:
    """make(state, heads=4, **config fields) → our model, in eval mode, with fairseq's weights, loaded strictly."""

    def make(state: dict[str, Tensor], heads: int = 4, **fields: Any) -> DeltaLMForConditionalGeneration:
        model = DeltaLMForConditionalGeneration(config_from_shapes(state, heads, **fields))
        model.load_state_dict(hf_state(state), strict=True)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def numbers_state(numbers_dir: Path) -> dict[str, Tensor]:
    """The trained model's state dict, fairseq's names."""
    return torch.load(numbers_dir / "finetuned" / "checkpoint_best.pt", weights_only=False)["model"]  # type: ignore[no-any-return]


@pytest.fixture
def numbers(
    from_fairseq: Callable[..., DeltaLMForConditionalGeneration], numbers_state: dict[str, Tensor]
) -> DeltaLMForConditionalGeneration:
    """The trained model, fresh for every test."""
    return from_fairseq(numbers_state)


@pytest.fixture
def tiny() -> Callable[..., DeltaLMForConditionalGeneration]:
    """make(**config fields) → a small model with random weights (all norms and biases too), in eval mode."""

    def make(**fields: Any) -> DeltaLMForConditionalGeneration:
        sizes = {"vocab_size": 30, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 24,
                 "decoder_ffn_dim": 20, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
                 "max_position_embeddings": 20}  # fmt: skip
        torch.manual_seed(0)
        model = DeltaLMForConditionalGeneration(DeltaLMConfig(**{**sizes, **fields}))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.3)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def encode(numbers_dir: Path) -> Callable[[str], list[int]]:
    """Text → ids as fairseq makes them: sentencepiece, dict.txt, </s>."""
    pieces = SentencePieceProcessor(model_file=str(numbers_dir / "finetuned" / "spm.model"))
    lines = (numbers_dir / "finetuned" / "dict.en.txt").read_text(encoding="utf-8").splitlines()
    ids = {line.rsplit(" ", 1)[0]: number for number, line in enumerate(lines, start=4)}

    def to_ids(text: str) -> list[int]:
        return [ids.get(piece, 3) for piece in pieces.encode(text, out_type=str)] + [2]

    return to_ids


@pytest.fixture(scope="session")
def decode(numbers_dir: Path) -> Callable[[Tensor], str]:
    """Ids → text; the special symbols are left out."""
    lines = (numbers_dir / "finetuned" / "dict.en.txt").read_text(encoding="utf-8").splitlines()
    pieces = [line.rsplit(" ", 1)[0] for line in lines]

    def to_text(ids: Tensor) -> str:
        return "".join(pieces[i - 4] for i in ids.tolist() if i >= 4).replace("▁", " ").strip()

    return to_text


@pytest.fixture(scope="session")
def pad_batch() -> Callable[..., Tensor]:
    """Lists of ids → one padded batch; left=True pads as fairseq pads sources."""

    def pad(rows: list[list[int]], left: bool = False, value: int = 1) -> Tensor:
        longest = max(map(len, rows))
        fill = [[value] * (longest - len(row)) for row in rows]
        return torch.tensor([gap + row if left else row + gap for row, gap in zip(rows, fill, strict=True)])

    return pad


@pytest.fixture(scope="session")
def generated(numbers_dir: Path) -> Callable[[str], list[dict[str, str]]]:
    """The rows of generate_greedy.tsv or generate_beam5.tsv, by name."""

    def rows(name: str) -> list[dict[str, str]]:
        with open(numbers_dir / f"generate_{name}.tsv", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t"))

    return rows
