"""Loads a DeltaLM that was only pretrained (`{"weights": …}`) into a fairseq model."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

# What the pretrained file has no counterpart for: fairseq's own marker, and the projection onto the vocabulary.
CREATED = re.compile(r"(?:encoder|decoder)\.version|decoder\.output_projection\.weight")
# The only tensors whose rows may differ in number: symbols of the dictionary, positions.
RESIZED = re.compile(r"(?:encoder|decoder)\.embed_(?:tokens|positions)\.weight")
# fairseq's name → the pretrained name; the first that fits counts, a key that none fits is the same in both.
# The decoder's first feed-forward block (before the cross-attention) is fc3/fc4, the second is fc1/fc2.
RENAMED = (
    (re.compile(r"encoder\.layernorm_embedding\."), "src_embedding.emb_layer_norm."),
    (re.compile(r"decoder\.layernorm_embedding\."), "tgt_embedding.emb_layer_norm."),
    (re.compile(r"encoder\.(embed_\w+)\."), r"src_embedding.\1."),
    (re.compile(r"decoder\.(embed_\w+)\."), r"tgt_embedding.\1."),
    (re.compile(r"encoder\.layers\.(\d+)\.(fc[12])\."), r"encoder.layers.\1.ffn.\2."),
    (re.compile(r"decoder\.layers\.(\d+)\.fc3\."), r"decoder.layers.\1.ffn_1.fc1."),
    (re.compile(r"decoder\.layers\.(\d+)\.fc4\."), r"decoder.layers.\1.ffn_1.fc2."),
    (re.compile(r"decoder\.layers\.(\d+)\.(fc[12])\."), r"decoder.layers.\1.ffn_2.\2."),
)


class PretrainedError(ValueError):
    """The file given as --pretrained-deltalm-checkpoint can't be read, or doesn't fit the model."""


def pretrained_key(key: str) -> str:
    """The pretrained file's name for fairseq's `key` (unilm deltalm.py, upgrade_state_dict_for_deltalm, reversed)."""
    for pattern, replacement in RENAMED:
        renamed, found = pattern.subn(replacement, key, count=1)
        if found:
            return renamed
    return key


def read_weights(path: str) -> dict[str, Tensor]:
    """The tensors under `weights` in the file at `path`; PretrainedError if there are none."""
    if not os.path.isfile(path):
        raise PretrainedError(
            f"--pretrained-deltalm-checkpoint {path}: there is no such file; "
            "give '' (or leave the option out) to start from random weights, or when loading a fine-tuned model"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for a damaged file has no common base
        reason = str(error).partition("\n")[0]
        raise PretrainedError(f"{path} is not a checkpoint of tensors that torch can read safely: {reason}") from error
    if isinstance(state, dict) and "weights" not in state and "model" in state:
        raise PretrainedError(
            f"{path} holds a fine-tuned model (entry 'model'), not a pretrained one (entry 'weights'); "
            "go on from it with --finetune-from-model or --restore-file instead"
        )
    weights = state.get("weights") if isinstance(state, dict) else None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise PretrainedError(f"{path} has no entry 'weights' that maps names to tensors; is it a DeltaLM checkpoint?")
    return dict(weights)


def load_pretrained(model: nn.Module, path: str) -> None:
    """Copies the pretrained weights at `path` into `model`, a DeltaLMModel.

    Symbols and positions beyond the model's are cut off; where the model has more, those rows keep their random
    start, and a warning names them. Anything else that doesn't fit is a PretrainedError that lists all of it.
    With --share-all-embeddings the decoder's symbols win, as in unilm, and a warning tells if they differ.
    """
    weights = read_weights(path)
    targets = {key: value for key, value in model.state_dict().items() if not CREATED.fullmatch(key)}
    sources = {key: pretrained_key(key) for key in targets}
    _check(path, targets, sources, weights)
    _warn_if_shared_but_different(path, targets, sources, weights)
    with torch.no_grad():
        for key, target in targets.items():
            source = weights[sources[key]]
            rows = min(len(target), len(source))
            target[:rows].copy_(source[:rows])
            if rows < len(target):
                logger.warning(
                    "%s: rows %d to %d of %d are not in %s, which has %d; they keep their random start",
                    key, rows, len(target) - 1, len(target), path, len(source),
                )  # fmt: skip
    logger.info("loaded %d pretrained tensors from %s", len(targets), path)


def _check(path: str, targets: Mapping[str, Tensor], sources: Mapping[str, str], weights: Mapping[str, Tensor]) -> None:
    wanted = set(sources.values())
    shapes = [
        f"{sources[key]} is {_shape(weights[sources[key]])}, {key} is {_shape(target)}"
        for key, target in targets.items()
        if sources[key] in weights and not _fits(key, target, weights[sources[key]])
    ]
    problems = [
        *_listed("missing from the file", (key for key in sources.values() if key not in weights)),
        *_listed("in the file, but not in this model", (key for key in weights if key not in wanted)),
        *_listed("of another shape", shapes),
    ]
    if problems:
        raise PretrainedError(
            f"{path} does not fit this model (check --arch, layers, widths and norms): {'; '.join(problems)}"
        )


def _fits(key: str, target: Tensor, source: Tensor) -> bool:
    if RESIZED.fullmatch(key):
        return target.dim() == source.dim() and tuple(target.shape[1:]) == tuple(source.shape[1:])
    return tuple(target.shape) == tuple(source.shape)


def _listed(what: str, items: Iterable[str]) -> list[str]:
    listed = list(items)
    return [f"{len(listed)} {what}: {', '.join(listed)}"] if listed else []


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _warn_if_shared_but_different(
    path: str, targets: Mapping[str, Tensor], sources: Mapping[str, str], weights: Mapping[str, Tensor]
) -> None:
    encoder, decoder = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"
    shared = targets[encoder].data_ptr() == targets[decoder].data_ptr()
    if shared and not torch.equal(weights[sources[encoder]], weights[sources[decoder]]):
        logger.warning(
            "%s: source and target embeddings differ, but the model shares them; the target's are used", path
        )
