"""The real fairseq with our plugin, for tests that compare against it (needs the `fairseq` extra).

models, cfg, task = load(path)              a checkpoint (or its directory), loaded strictly by fairseq itself
model = build(vocab=44, encoder_layers=2)   a model with random weights, without any file
states = forward(model, src, prev)          encoder states, decoder states, logits
best = generate(model, sources, beam=5)     fairseq's own search
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fairseq import checkpoint_utils, utils
from fairseq.data import Dictionary, data_utils
from fairseq.models import build_model
from fairseq.sequence_generator import SequenceGenerator

PLUGIN = Path(__file__).resolve().parent.parent / "ckptconv" / "fairseq_plugin"
PAD, EOS = 1, 2


@dataclass(frozen=True)
class Hypothesis:
    """One translation: ids with the final `</s>`, and scores as fairseq-generate prints them (base 2)."""

    tokens: list[int]
    score: float
    token_scores: list[float]


def use_plugin() -> None:
    """Registers our DeltaLM, as `--user-dir` does; harmless when repeated."""
    utils.import_user_module(argparse.Namespace(user_dir=str(PLUGIN)))


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps fairseq's progress messages out of a test's output; warnings stay."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


def load(path: str | Path, **overrides: Any) -> tuple[list[Any], Any, Any]:
    """(models, cfg, task) of the checkpoint at `path`, a file, or a directory with model.pt or checkpoint_best.pt.

    The dictionaries are the directory's dict.*.txt (the first in the alphabet is the source's, unless `source_lang`
    and `target_lang` say otherwise). `overrides` replace fields of the model's and the task's config. Nothing is
    read from the pretrained checkpoint that training started from. Loaded with strict=True, in eval mode.
    """
    use_plugin()
    path = Path(path)
    if path.is_dir():
        path = next(path / name for name in ("model.pt", "checkpoint_best.pt") if (path / name).exists())
    languages = [file.name.split(".")[1] for file in sorted(path.parent.glob("dict.*.txt"))]
    given = {
        "data": str(path.parent),
        "source_lang": languages[0],
        "target_lang": languages[-1],
        "pretrained_deltalm_checkpoint": "",
        **overrides,
    }
    # fairseq calls torch.load with weights_only, and its own checkpoints hold an argparse.Namespace.
    with quiet(), torch.serialization.safe_globals([argparse.Namespace]):
        models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], given, strict=True)
    return [model.eval() for model in models], cfg, task


def dictionary(size: int) -> Dictionary:
    """A dictionary of `size` symbols, the four special ones included."""
    made = Dictionary()
    for number in range(size - len(made)):
        made.add_symbol(f"w{number}")
    return made


def build(vocab: int | tuple[int, int] = 44, arch: str = "deltalm_tiny", seed: int = 0, **flags: Any) -> Any:
    """A DeltaLM with random weights in eval mode, for any dims and flags (`share_all_embeddings=True`, …).

    vocab: symbols of both dictionaries (then one object), or (source, target).
    """
    use_plugin()
    if isinstance(vocab, int):
        source = target = dictionary(vocab)
    else:
        source, target = map(dictionary, vocab)
    args = argparse.Namespace(arch=arch, **{"max_source_positions": 32, "max_target_positions": 32, **flags})
    torch.manual_seed(seed)
    with quiet():
        model = build_model(args, SimpleNamespace(source_dictionary=source, target_dictionary=target))
    return model.eval()


def pad(sources: Sequence[Sequence[int]], left: bool = False) -> torch.Tensor:
    """One batch of the sentences' ids, padded on the right, or on the left as fairseq pads sources."""
    rows = [torch.tensor(source, dtype=torch.long) for source in sources]
    return data_utils.collate_tokens(rows, PAD, left_pad=left)


@torch.no_grad()
def forward(model: Any, src: torch.Tensor, prev: torch.Tensor) -> dict[str, torch.Tensor]:
    """States and logits, batch first, under the names of deltalm-numbers/forward.safetensors.

    src, prev: ids [batch, length]. `encoder_states.0` and `decoder_states.0` are what enters the first layer.
    """
    encoded = model.encoder(src, src_lengths=src.ne(PAD).sum(1), return_all_hiddens=True)
    features, extra = model.decoder(prev, encoder_out=encoded, features_only=True)
    states = {f"encoder_states.{i}": s.transpose(0, 1) for i, s in enumerate(encoded["encoder_states"])}
    states |= {f"decoder_states.{i}": s.transpose(0, 1) for i, s in enumerate(extra["inner_states"])}
    return {
        **states,
        "encoder_out": encoded["encoder_out"][0].transpose(0, 1),
        "decoder_features": features,
        "logits": model.decoder.output_layer(features),
    }


def generate(
    model: Any, sources: Sequence[Sequence[int]], beam: int = 1, batch_size: int = 25, **options: Any
) -> list[list[Hypothesis]]:
    """For each source (ids with the final `</s>`) its hypotheses, best first; beam 1 is greedy.

    options: further arguments of fairseq's SequenceGenerator, whose defaults are fairseq-generate's.
    """
    search = SequenceGenerator([model], model.decoder.dictionary, beam_size=beam, **{"max_len_b": 200, **options})
    found: list[list[Hypothesis]] = []
    for start in range(0, len(sources), batch_size):
        src = pad(sources[start : start + batch_size], left=True)
        net_input = {"src_tokens": src, "src_lengths": src.ne(PAD).sum(1)}
        for hypotheses in search.generate([model], {"net_input": net_input}):
            found.append([_hypothesis(one) for one in hypotheses])
    return found


def _hypothesis(found: dict[str, Any]) -> Hypothesis:
    bits = (found["positional_scores"] / math.log(2)).tolist()
    return Hypothesis(found["tokens"].tolist(), float(found["score"]) / math.log(2), bits)
