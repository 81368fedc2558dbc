"""The configs that come with a checkpoint: in its top-level entries, and in the config.json beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple

from ckptconv.containers.checkpoint import Checkpoint
from ckptconv.containers.plain import plain
from ckptconv.smallfiles import read_json

# Entries that say how a model was trained: fairseq's cfg and args, XLM's params, Lightning's hyper_parameters …
_CONFIGS = ("cfg", "args", "config", "params", "hparams", "hyper_parameters")
_DEEPEST = 100
_SHOWN = 20_000  # values of one config; fairseq's have 500
_LONGEST = 2000  # letters of a field's path: what nests long names would be long for every field in it


class Setting(NamedTuple):
    """One field of a config. document: the top-level entry, or the file beside the weights, that it stands in.

    field: its path, with dots. value: None, bool, int, float, str, or a list of them.
    """

    document: str
    field: str
    value: Any


def config_beside(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The `config.json` in the folder of the weights; {} where there is none.

    Raises Damaged where it can't be read as a JSON object.
    """
    return read_json(checkpoint.path.parent / "config.json") or {}


def settings(checkpoint: Checkpoint, document: Mapping[str, Any]) -> Iterator[Setting]:
    """Every field of the config.json and of the entries that are configs."""
    documents = {
        name: plain(checkpoint.other[name], _SHOWN) for name in _CONFIGS if checkpoint.other.get(name) is not None
    }
    for name, value in {"config.json": document, **documents}.items():
        yield from (Setting(name, field, leaf) for field, leaf in _leaves("", value))


def _leaves(field: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """A nested value as (path, leaf); a list without anything nested is a leaf, and so is what is empty."""
    if depth > _DEEPEST:
        yield field, "<…>"
    elif isinstance(value, (list, tuple)) and not any(isinstance(each, (dict, list, tuple)) for each in value):
        yield field, [_leaf(each) for each in value]
    elif isinstance(value, (dict, list, tuple)) and value:
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(f"{field}.{name}"[-_LONGEST:] if field else str(name)[:_LONGEST], inner, depth + 1)
    elif not isinstance(value, dict):
        yield field, _leaf(value)
    elif field:
        yield field, {}


def _leaf(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return value if not isinstance(value, float) or isfinite(value) else str(value)
