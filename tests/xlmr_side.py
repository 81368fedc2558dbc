"""The real fairseq with RobertaModel, for tests that compare XLM-R against it (needs the `fairseq` extra).

model = load(path, data)              a checkpoint, loaded strictly by fairseq's own loader
hub = open_directory(folder)          a directory, as XLMRModel.from_pretrained opens it
model = from_state(state, args)       a state dict of any generation, upgraded and loaded strictly by fairseq
model = build(encoder_layers=3)       a model with random weights, without any file
outputs(model, ids)                   states of every layer, and logits
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.models.roberta import RobertaModel, XLMRModel
from fairseq.models.roberta.hub_interface import RobertaHubInterface
from torch import Tensor

from ckptconv.vocabulary.dictionary import Dictionary
from tests.fairseq_side import dictionary, quiet
from tests.xlmr.hf_side import shake
from tests.xlmr.samples import SIZES


@contextmanager
def trusted() -> Iterator[None]:
    """Lets fairseq read files that hold classes of their time (Namespace, meters, omegaconf); for our own files."""
    name = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]


def load(path: Path, data: Path) -> Any:
    """The model of a checkpoint, by fairseq's own loader, strictly, with its heads, in eval mode.

    data: the folder with dict.txt, whose words, four special ones and `<mask>` are the vocabulary.
    """
    with quiet():
        (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)], {"data": str(data)}, strict=True)
    return model.eval()


def open_directory(folder: Path) -> RobertaHubInterface:
    """A directory with model.pt, dict.txt and sentencepiece.bpe.model, as fairseq's users open it."""
    with quiet():
        return XLMRModel.from_pretrained(str(folder)).eval()


def from_state(state: Mapping[str, Tensor], args: argparse.Namespace) -> Any:
    """A RobertaModel of these args with this state dict, which fairseq upgrades and loads strictly; in eval mode."""
    vocab = next(len(value) for key, value in state.items() if key.endswith("embed_tokens.weight"))
    model = _bare(vocab, args)
    with quiet():
        model.load_state_dict(dict(state), strict=True)
    return model.eval()


def build(vocab: int = 45, seed: int = 0, heads: Mapping[str, int] | None = None, **flags: Any) -> Any:
    """A RobertaModel with random weights (biases and norms too, so that none hides by being 0 or 1), in eval mode.

    heads: name → classes of its classification heads.
    """
    torch.manual_seed(seed)
    model = _bare(vocab, argparse.Namespace(**{**SIZES, **flags}))
    for name, classes in (heads or {}).items():
        model.register_classification_head(name, classes)
    shake(model)
    return model.eval()


def _bare(vocab: int, args: argparse.Namespace) -> Any:
    with quiet():
        return RobertaModel.build_model(args, SimpleNamespace(source_dictionary=dictionary(vocab)))


def save(model: Any, path: Path) -> Path:
    """The model in a file as fairseq 0.12 writes it, as far as reading needs it."""
    torch.save({"args": None, "cfg": {"model": model.args}, "model": model.state_dict()}, path)
    return path


def save_directory(model: Any, folder: Path, words: Dictionary, spm: bytes) -> Path:
    """The model with its words, as the public archives come. words: with `<mask>`, which dict.txt doesn't list."""
    folder.mkdir()
    save(model, folder / "model.pt")
    (folder / "dict.txt").write_text(words.without_appended(("<mask>",)).text(), encoding="utf-8")
    (folder / "sentencepiece.bpe.model").write_bytes(spm)
    return folder


def write_dictionary(folder: Path, vocab: int) -> Path:
    """A dict.txt for a vocabulary of this size, the four special words and `<mask>` included."""
    folder.mkdir(exist_ok=True)
    (folder / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(vocab - 5)))
    return folder


@torch.no_grad()
def outputs(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """`states.0` (what enters the first layer) to `states.N` (after a last norm, if there is one), and `logits`.

    ids: [batch, length], padded with 1 on any side.
    """
    logits, extra = model(ids, return_all_hiddens=True)
    features, _ = model(ids, features_only=True)
    states = [state.transpose(0, 1) for state in extra["inner_states"][:-1]] + [features]
    return {**{f"states.{number}": state for number, state in enumerate(states)}, "logits": logits}


@torch.no_grad()
def classify(model: Any, ids: Tensor, head: str) -> Tensor:
    """The head's logits [batch, classes]. ids: padded on the right, since the head reads what stands first."""
    logits, _ = model(ids, classification_head_name=head)
    return logits  # type: ignore[no-any-return]
