"""Checkpoint containers: readers and writers. Sees no table; loads neither torch nor, before it is needed, numpy."""

from ckptconv.containers.atomic import Stage, staged
from ckptconv.containers.checkpoint import Checkpoint, StateDict, Storage, Tensor
from ckptconv.containers.inert import stored_bytes, tensors_in
from ckptconv.containers.items import Item
from ckptconv.containers.open import open_checkpoint
from ckptconv.containers.plain import plain
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
    "plain",
    "staged",
    "stored_bytes",
    "tensors_in",
    "write_paddle",
    "write_safetensors",
    "write_sharded_safetensors",
    "write_torch",
]
