"""Checkpoint containers: what opens them. `containers.read` reads tensors, `containers.writing` writes files: who only
looks needs neither.

Sees no table; loads neither torch nor, before it is needed, numpy.
"""

from ckptconv.containers.checkpoint import Checkpoint, StateDict, Storage, Tensor
from ckptconv.containers.inert import stored_bytes, tensors_in
from ckptconv.containers.open import open_checkpoint

__all__ = [
    "Checkpoint",
    "StateDict",
    "Storage",
    "Tensor",
    "open_checkpoint",
    "stored_bytes",
    "tensors_in",
]
