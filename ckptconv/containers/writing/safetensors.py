"""Writes safetensors, in one file or in shards, streaming.

The file is byte for byte what the safetensors library (0.8) writes for the same tensors and metadata, except that the
metadata are sorted: the library's order is random. Tensors are ordered by type as in the library's `Dtype`, widest
first, then by key. A tied item isn't stored; the metadata entry "ckptconv.tied" says whose tensor it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ckptconv.containers.safetensors import HEADER_LIMIT, TIED
from ckptconv.containers.writing.items import Item, check_for_safetensors, split_tied
from ckptconv.containers.writing.output import Create, Output, write_file
from ckptconv.errors import Unsupported
from ckptconv.parallel import ahead
from ckptconv.text import printable

_TYPES = "U64 I64 F64 C64 F32 U32 I32 BF16 F16 U16 I16 F8_E5M2FNUZ F8_E4M3FNUZ F8_E8M0 F8_E4M3 F8_E5M2 I8 U8 BOOL"
_ORDER = {name: place for place, name in enumerate(_TYPES.split())}


def write_safetensors(path: Path, items: Sequence[Item], metadata: Mapping[str, str], create: Create = Output) -> None:
    """Writes the items into one file. `metadata` becomes `__metadata__`, with `format: pt`, which transformers needs.

    Raises Unsupported before anything is written if safetensors can't hold a dtype or key; CannotWrite; Damaged if an
    item yields more or fewer bytes than its shape says.
    """
    stored, tied = split_tied(items)
    check_for_safetensors(items, path)
    _write(path, stored, tied, metadata, create)


def write_sharded_safetensors(
    folder: Path, items: Sequence[Item], metadata: Mapping[str, str], limit: int, create: Create = Output
) -> list[str]:
    """Writes `model.safetensors`, or shards of at most `limit` bytes of tensors and `model.safetensors.index.json`.

    The shards are cut as huggingface_hub does it (serialization/_base.py, split_state_dict_into_shards_factory): in
    the given order, a tensor larger than the limit alone. Returns the files' names, the index last. Raises as
    `write_safetensors` does.
    """
    stored, tied = split_tied(items)
    check_for_safetensors(items, folder)
    shards = _cut(stored, limit)
    if len(shards) == 1:
        _write(folder / "model.safetensors", stored, tied, metadata, create)
        return ["model.safetensors"]
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        keys = {item.key for item in shard}
        _write(folder / name, shard, {key: target for key, target in tied.items() if target in keys}, metadata, create)
    weight_map = {item.key: name for name, shard in zip(names, shards, strict=True) for item in shard}
    index = {"metadata": {"total_size": sum(item.nbytes for item in stored)}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    write_file(folder / "model.safetensors.index.json", text, create)
    return [*names, "model.safetensors.index.json"]


def _cut(items: Sequence[Item], limit: int) -> list[list[Item]]:
    shards: list[list[Item]] = []
    current: list[Item] = []
    size = 0
    for item in items:
        if item.nbytes > limit:
            shards.append([item])
            continue
        if size + item.nbytes > limit:
            shards.append(current)
            current, size = [], 0
        current.append(item)
        size += item.nbytes
    return [*shards, current] if current or not shards else shards


def _write(
    path: Path, stored: Sequence[Item], tied: Mapping[str, str], metadata: Mapping[str, str], create: Create
) -> None:
    ordered = sorted(stored, key=lambda item: (_ORDER[item.dtype.name], item.key))
    header = _header(ordered, tied, metadata)
    if len(header) > HEADER_LIMIT:
        where = printable(str(path))
        raise Unsupported(f"{where} can't hold {len(ordered):,} tensors: its header would be too long", path)
    with create(path, 8 + len(header) + sum(item.nbytes for item in ordered)) as output:
        output.write(len(header).to_bytes(8, "little") + header)
        output.write_all(ahead(piece for item in ordered for piece in item.pieces()))


def _header(ordered: Sequence[Item], tied: Mapping[str, str], metadata: Mapping[str, str]) -> bytes:
    told = {key: text for key, text in metadata.items() if key != TIED} | {"format": "pt"}
    if tied:
        told[TIED] = _json(dict(sorted(tied.items())))
    header: dict[str, object] = {"__metadata__": dict(sorted(told.items()))}
    at = 0
    for item in ordered:
        header[item.key] = {"dtype": item.dtype.name, "shape": item.shape, "data_offsets": (at, at + item.nbytes)}
        at += item.nbytes
    text = _json(header).encode("utf-8", "replace")  # only metadata can hold what UTF-8 cannot
    return text + b" " * (-len(text) % 8)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
