"""Checkpoint containers: the readers; the writers are in `containers.writing`, since who only looks needs none.

Sees no table; loads neither torch nor, before it is needed, numpy.
"""

from ckptconv.containers.checkpoint import Checkpoint, StateDict, Storage, Tensor
from ckptconv.containers.inert import stored_bytes, tensors_in
from ckptconv.containers.open import open_checkpoint
from ckptconv.containers.read import Reader, check_growth

__all__ = [
    "Checkpoint",
    "Reader",
    "StateDict",
    "Storage",
    "Tensor",
    "check_growth",
    "open_checkpoint",
    "stored_bytes",
    "tensors_in",
]
