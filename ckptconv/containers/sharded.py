"""Reads sharded checkpoints: an index (`model.safetensors.index.json`, `pytorch_model.bin.index.json`) names the
shard of every key; the shards lie beside it (huggingface_hub/serialization/_base.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ckptconv.containers.checkpoint import Checkpoint, Tensor
from ckptconv.containers.files import Source
from ckptconv.containers.reading import KEYS_LIMIT
from ckptconv.containers.safetensors import TIED
from ckptconv.containers.strictjson import BadJson, parse
from ckptconv.errors import CkptconvError, Damaged, NotACheckpoint, Unsafe
from ckptconv.text import printable

_INDEX_LIMIT = 32 << 20
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_SHARDS_LIMIT = 2000


def open_sharded(source: Source, open_shard: Callable[[Path], Checkpoint]) -> Checkpoint:
    """The checkpoint behind an index. `open_shard` opens one shard by path.

    Raises NotACheckpoint if the JSON is no index, Unsafe if a shard isn't a plain file name beside it, Damaged if index
    and shards disagree about the keys.
    """
    weight_map = _weight_map(source)
    names = list(dict.fromkeys(weight_map.values()))
    if len(names) > _SHARDS_LIMIT:
        raise Unsafe(f"{source.where} is refused as unsafe: it has {len(names)} shards", source.path)
    _check_names(source, names)
    shards = {name: open_shard(source.path.parent / name) for name in names}
    tensors = _collect(source, weight_map, shards)
    torch = not names[0].endswith(".safetensors")
    return Checkpoint(
        path=source.path,
        container="sharded torch" if torch else "sharded safetensors",
        files=(source.path, *(path for shard in shards.values() for path in shard.files)),
        entries={"": tensors},
        other={key: node for shard in shards.values() for key, node in shard.other.items()},
        metadata=_metadata(shards),
        globals=tuple(dict.fromkeys(name for shard in shards.values() for name in shard.globals)),
        notes=tuple(dict.fromkeys(note for shard in shards.values() for note in shard.notes)),
        stamps={source.path: source.stamp}
        | {path: at for shard in shards.values() for path, at in shard.stamps.items()},
        records=shards[names[-1]].records,
    )


def _weight_map(source: Source) -> dict[str, str]:
    if source.size > _INDEX_LIMIT:
        raise Unsafe(f"{source.where} is refused as unsafe: an index of {source.size:,} bytes", source.path)
    try:
        index: Any = parse(source.read(0, source.size), 3 * KEYS_LIMIT)
    except BadJson as problem:
        raise _damaged(source, f"the index {printable(str(problem))}") from None
    told = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(told, dict) or not told:
        raise NotACheckpoint(
            f"{source.where} is JSON, but not the index of a checkpoint: it has no weight_map", source.path
        )
    if not all(isinstance(name, str) for name in told.values()):
        raise _damaged(source, "its weight_map names something other than files")
    return told


def _check_names(source: Source, names: list[str]) -> None:
    for name in names:
        plain = name and not name.startswith(".") and not any(bad in name for bad in "/\\\0:") and name.isprintable()
        if not plain or not name.endswith(_SUFFIXES):
            shown = printable(name)
            raise Unsafe(f"{source.where} is refused as unsafe: its shard '{shown}' is no plain file name", source.path)
    if len({Path(name).suffix for name in names}) > 1 or (
        source.path.name.endswith(".index.json")
        and Path(source.path.name[: -len(".index.json")]).suffix != Path(names[0]).suffix
    ):
        raise Unsafe(f"{source.where} is refused as unsafe: its shards aren't of the index's own kind", source.path)


def _collect(source: Source, weight_map: dict[str, str], shards: Mapping[str, Checkpoint]) -> dict[str, Tensor]:
    """Every key's tensor, in the order of the index, after comparing index and shards both ways."""
    problems: list[str] = []
    held = {name: dict(_only_entry(source, name, shard)) for name, shard in shards.items()}
    for key, name in weight_map.items():
        if key not in held[name]:
            problems.append(f"{printable(name)} lacks {printable(key)}")
    for name, shard in held.items():
        left_out = shards[name].metadata.get(TIED, "") if TIED in shards[name].metadata else ""
        for key in shard:
            if weight_map.get(key) != name and not (left_out and key not in weight_map):
                problems.append(f"{printable(name)} has {printable(key)}, which the index doesn't place there")
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise _damaged(source, f"its shards disagree with it: {'; '.join(problems[:5])}{more}")
    tied = {key: tensor for shard in held.values() for key, tensor in shard.items() if key not in weight_map}
    return {key: held[name][key] for key, name in weight_map.items()} | tied


def _only_entry(source: Source, name: str, shard: Checkpoint) -> Mapping[str, Tensor]:
    if set(shard.entries) != {""}:
        raise _damaged(source, f"its shard {printable(name)} is no state dict")
    return shard.entries[""]


def _metadata(shards: Mapping[str, Checkpoint]) -> dict[str, str]:
    """The shards' metadata, without our notes on tied keys: those are resolved."""
    merged = {key: text for shard in shards.values() for key, text in shard.metadata.items()}
    merged.pop(TIED, None)
    return merged


def _damaged(source: Source, what: str) -> CkptconvError:
    return Damaged(f"{source.where} is damaged: {what}", source.path)
