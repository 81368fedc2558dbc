"""A checkpoint's tensors as torch's, read by ckptconv's own reader; and whether they fit into memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ckptconv.containers.checkpoint import StateDict, Tensor
from ckptconv.containers.read import Reader, check_growth
from ckptconv.dtypes import FLOATS
from ckptconv.errors import Unsupported
from ckptconv.forward.model import Subject

_MEMINFO = Path("/proc/meminfo")


def read(subject: Subject, names: Mapping[str, str]) -> dict[str, Any]:
    """torch tensors by name, in the dtype that the file holds. names: name → key in the file.

    Keys that are one view of one storage become one tensor. Raises Unsupported where they don't fit into memory, and
    Damaged or Unsafe as the reader does.
    """
    stored = subject.checkpoint.entries[subject.found.entry]
    check_growth(subject.checkpoint, [stored[key] for key in names.values()])
    require_memory(dict.fromkeys(stored[key] for key in names.values()))
    made: dict[Tensor, Any] = {}
    with Reader(subject.checkpoint) as reader:
        for key in names.values():
            if stored[key] not in made:
                made[stored[key]] = _torch(stored[key], reader)
    return {name: made[stored[key]] for name, key in names.items()}


def kept(subject: Subject, prefix: str = "") -> dict[str, str]:
    """Name → key in the file, for the keys that begin with `prefix`, without it and without what the layout drops."""
    fit = subject.found
    dropped = {fit.spelled.original[key] for key in fit.drops}
    keys = [key for key in subject.checkpoint.entries[fit.entry] if key.startswith(prefix) and key not in dropped]
    return {key.removeprefix(prefix): key for key in keys}


def main_dtype(tensors: StateDict) -> str:
    """The float dtype of most bytes, as safetensors calls it; `F32` where there is none."""
    sizes: dict[str, int] = {}
    for tensor in dict.fromkeys(tensors.values()):
        if tensor.dtype in FLOATS:
            sizes[tensor.dtype.name] = sizes.get(tensor.dtype.name, 0) + tensor.nbytes
    return max(sizes, key=lambda name: sizes[name], default="F32")


def require_memory(tensors: Iterable[Tensor]) -> None:
    """Raises Unsupported where the model in float32 and the tensors that it is made of take more than is available."""
    both = list(tensors)
    needed = sum(4 * tensor.numel + tensor.nbytes for tensor in both)
    available = available_memory()
    if available is not None and needed > available:
        raise Unsupported(
            f"it needs about {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are available; run it on a "
            "machine with more"
        )


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system doesn't say."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _torch(tensor: Tensor, reader: Reader) -> Any:
    import torch

    dtype = getattr(torch, tensor.dtype.torch)
    if not tensor.numel:
        return torch.empty(tensor.shape, dtype=dtype)
    data = bytearray(tensor.nbytes)
    at = 0
    for piece in reader.chunks(tensor):
        data[at : at + len(piece)] = piece
        at += len(piece)
    return torch.frombuffer(data, dtype=dtype).reshape(tensor.shape)
