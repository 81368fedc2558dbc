"""The configs that come with a checkpoint: in its top-level entries, and in the config.json beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple

from ckptconv.containers.checkpoint import Checkpoint
from ckptconv.containers.files import Source
from ckptconv.containers.plain import plain
from ckptconv.errors import Damaged, NotACheckpoint
from ckptconv.smallfiles import check_values
from ckptconv.text import printable

_JSON_LIMIT, _VALUES_LIMIT = 16_000_000, 200_000  # bytes, values
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
    path = checkpoint.path.parent / "config.json"
    if not path.is_file():
        return {}
    try:
        with Source(path) as source:
            if source.size > _JSON_LIMIT:
                raise ValueError(f"it has more than {_JSON_LIMIT:,} bytes")
            data = source.read(0, source.size)
        check_values(data, _VALUES_LIMIT)
        document = json.loads(data)
        if not isinstance(document, dict):
            raise ValueError("it is no object, `{…}`")
        return document
    except (NotACheckpoint, ValueError, RecursionError) as problem:
        raise Damaged(f"config.json can't be read as JSON: {printable(str(problem))}", path) from None


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
