"""The writers, under one roof."""

from ckptconv.containers.atomic import Stage, staged
from ckptconv.containers.items import Item
from ckptconv.containers.write_paddle import write_paddle
from ckptconv.containers.write_safetensors import write_safetensors, write_sharded_safetensors
from ckptconv.containers.write_torch import write_torch

__all__ = [
    "Item",
    "Stage",
    "staged",
    "write_paddle",
    "write_safetensors",
    "write_sharded_safetensors",
    "write_torch",
]
