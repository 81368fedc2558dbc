"""Checkpoint containers: readers and writers. Sees no table; loads neither torch nor, before it is needed, numpy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptconv.containers.atomic import Stage, staged
    from ckptconv.containers.checkpoint import Checkpoint, StateDict, Storage, Tensor
    from ckptconv.containers.inert import stored_bytes, tensors_in
    from ckptconv.containers.items import Item
    from ckptconv.containers.open import open_checkpoint
    from ckptconv.containers.read import Reader, check_growth
    from ckptconv.containers.write import write_paddle, write_safetensors, write_sharded_safetensors, write_torch

__all__ = [
    "Checkpoint",
    "Item",
    "Reader",
    "Stage",
    "StateDict",
    "Storage",
    "Tensor",
    "check_growth",
    "open_checkpoint",
    "staged",
    "stored_bytes",
    "tensors_in",
    "write_paddle",
    "write_safetensors",
    "write_sharded_safetensors",
    "write_torch",
]

_NAMES = {
    "atomic": ("Stage", "staged"),
    "checkpoint": ("Checkpoint", "StateDict", "Storage", "Tensor"),
    "inert": ("stored_bytes", "tensors_in"),
    "items": ("Item",),
    "open": ("open_checkpoint",),
    "read": ("Reader", "check_growth"),
    "write": ("write_paddle", "write_safetensors", "write_sharded_safetensors", "write_torch"),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imported when first used: reading needs no writer."""
    if name in _HOMES:
        return getattr(import_module(f"ckptconv.containers.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ckptconv.containers' has no attribute {name!r}")
