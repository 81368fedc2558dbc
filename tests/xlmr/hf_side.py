"""transformers' XLM-R: models, padded batches, what they compute and how that is compared (both environments).

model = build(XLMRobertaForMaskedLM, vocab_size=60)   a model with random weights
model = load(folder)                                  a directory, in which nothing may be missing or unexpected
tune(model)                                           a few real steps of training
outputs(model, ids)                                   states of every layer, and logits
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, XLMRobertaForMaskedLM

import ckptconv

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
PAD = 1
SMALL = {"vocab_size": 45, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "max_position_embeddings": 34, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
         "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}  # fmt: skip


def run(source: Path, output: Path, to: str, **options: Any) -> Path:
    """Converts, and returns the output."""
    ckptconv.convert(source, output, ckptconv.Options(to=to, **options))
    return output


def build(kind: type = XLMRobertaForMaskedLM, seed: int = 0, **fields: Any) -> Any:
    """A model with random weights (biases, norms and token types too, so that none hides by being 0 or 1)."""
    torch.manual_seed(seed)
    model = kind(kind.config_class(**{**SMALL, **fields}))
    shake(model)
    return model.eval()


@torch.no_grad()
def shake(model: torch.nn.Module) -> None:
    """Moves every parameter by a random amount."""
    for weight in model.parameters():
        weight.add_(torch.randn_like(weight) * 0.2)


def load(folder: Path, kind: Any = AutoModelForMaskedLM) -> Any:
    """The model of a directory, in fp32 and eval mode; nothing may be missing, unexpected or of another shape."""
    model, info = kind.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not any(info.values()), info
    return model.eval()


def tune(model: Any, steps: int = 5) -> Any:
    """Trains all of the model with AdamW and dropout: on its own input, or where it has a classification head, on
    random classes (numbers, for a head with one output). Every parameter that the task reaches moves."""
    torch.manual_seed(0)
    ids = padded_batches(model.config.vocab_size)[0]
    masked = isinstance(getattr(model, "lm_head", None), torch.nn.Module)
    classes = model.config.num_labels
    goal = torch.randn(len(ids)) if classes == 1 else torch.arange(len(ids)) % classes
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(steps):
        model(input_ids=ids, attention_mask=ids.ne(PAD).long(), labels=ids if masked else goal).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def padded(rows: list[list[int]], left: bool = False) -> Tensor:
    """One batch of these ids, padded on the right or on the left."""
    longest = max(map(len, rows))
    gaps = [[PAD] * (longest - len(row)) for row in rows]
    return torch.tensor([gap + row if left else row + gap for row, gap in zip(rows, gaps, strict=True)])


def padded_batches(vocab: int, longest: int = 12) -> tuple[Tensor, Tensor]:
    """Random sentences of several lengths, `<s>` and `</s>` around them: padded on the right, and on the left."""
    rng = random.Random(vocab)
    rows = [[0, *(rng.randrange(3, vocab) for _ in range(size - 2)), 2] for size in (longest, 2, longest // 2, 3)]
    return padded(rows), padded(rows, left=True)


@torch.no_grad()
def outputs(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """`states.0` (what enters the first layer) to `states.N`, and `logits` of its head. ids: [batch, length]."""
    found = model(input_ids=ids, attention_mask=ids.ne(PAD).long(), output_hidden_states=True)
    states = {f"states.{number}": state for number, state in enumerate(found.hidden_states)}
    return {**states, "logits": found.logits} if "logits" in found else states


def states(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs without the head's."""
    return {name: value for name, value in found.items() if name != "logits"}


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], ids: Tensor) -> None:
    """Equal within 1e-5 wherever there is a token: fairseq zeroes what stands on padding, transformers doesn't."""
    assert list(found) == list(expected)
    there = ids.ne(PAD)
    for name, value in expected.items():
        message = partial("{}: {}".format, name)
        torch.testing.assert_close(found[name][there], value[there], atol=1e-5, rtol=0, msg=message)
