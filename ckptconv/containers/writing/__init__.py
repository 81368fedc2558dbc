"""The writers of checkpoints, under one roof: containers, and outputs that appear whole or not at all."""

from ckptconv.containers.writing.atomic import Stage, staged
from ckptconv.containers.writing.items import Item
from ckptconv.containers.writing.paddle import write_paddle
from ckptconv.containers.writing.safetensors import write_safetensors, write_sharded_safetensors
from ckptconv.containers.writing.torch import write_torch

__all__ = [
    "Item",
    "Stage",
    "staged",
    "write_paddle",
    "write_safetensors",
    "write_sharded_safetensors",
    "write_torch",
]
