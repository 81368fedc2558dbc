"""The bytes of one target tensor, made of its parts as the plan says: nothing is read before, nothing is kept."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from ckptconv.containers.checkpoint import StateDict, Tensor
from ckptconv.containers.read import Reader
from ckptconv.conversion.cast import Overflow, add, cast, filled
from ckptconv.plan import Fill, Rows, Step


def stream(step: Step, state_dict: StateDict, reader: Reader, overflow: Overflow) -> Iterator[Any]:
    """The target tensor's contiguous little-endian bytes, part by part, in pieces of a few MiB at most.

    state_dict: the source's tensors, under the keys that the plan calls them. overflow: counts finite values that a
    cast makes infinite.
    """
    for part in step.parts:
        if isinstance(part, Fill):
            yield from filled(part.value, part.rows * prod(step.shape[1:]), step.dtype)
            continue
        view = rows_of(state_dict[part.key], part)
        raw, dtype = reader.chunks(view), view.dtype
        if part.plus is not None:
            added = rows_of(state_dict[part.plus.key], part.plus)
            raw, dtype = add(raw, dtype, b"".join(reader.chunks(added)), added.dtype)
        yield from raw if dtype == step.dtype else cast(raw, dtype, step.dtype, overflow)


def rows_of(tensor: Tensor, part: Rows) -> Tensor:
    """The rows of the tensor that the part takes, transposed where it says so, as a view; no bytes are read."""
    if tensor.shape and not part.whole:
        tensor = tensor._replace(
            shape=(part.stop - part.start, *tensor.shape[1:]),
            offset=tensor.offset + part.start * tensor.strides[0],
        )
    if part.transposed:
        tensor = tensor._replace(shape=tensor.shape[::-1], strides=tensor.strides[::-1])
    return tensor
