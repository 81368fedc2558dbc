"""The two sides of a comparison: tensors under common keys, whatever their files call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod

from ckptconv.containers.checkpoint import Checkpoint, StateDict, Tensor
from ckptconv.containers.read import Reader, Run
from ckptconv.conversion.cast import Overflow
from ckptconv.conversion.stream import stream
from ckptconv.dtypes import DType
from ckptconv.plan import Step
from ckptconv.tables.fit import Fit


@dataclass(frozen=True)
class View:
    """A tensor as one side has it, under a common key.

    keys: of the file, several where it is made of several. stored: False where the file has no such key and another of
    its tensors stands for it. made: why, where nothing of the file is in it (a constant, zeros); part_of: the option of
    the table that it is made up for, with others.
    """

    keys: tuple[str, ...]
    dtype: DType
    shape: tuple[int, ...]
    source: Tensor | Step
    stored: bool = True
    made: str = ""
    part_of: str = ""

    @property
    def nbytes(self) -> int:
        """Its bytes, written out."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def identity(self) -> object:
        """Equal for views of one side that are the same tensor."""
        return self.source if isinstance(self.source, Tensor) else (self.source.parts, self.shape)


@dataclass(frozen=True)
class Side:
    """One of the two checkpoints.

    name: `A` or `B`. entry: the top-level entry of its state dict. found: its layout, if it has one. tensors: its state
    dict, under the keys that `views` are made of. absent: common keys that it lacks → those that stand for them.
    reasons: common keys that only it may have → why.
    """

    name: str
    checkpoint: Checkpoint
    entry: str
    found: Fit | None
    tensors: StateDict
    views: Mapping[str, View]
    absent: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def runs(self, view: View, reader: Reader, elements: int) -> list[Run]:
        """The bytes of one of its views, contiguous and little-endian, in runs of so many elements where they lie in
        the file like that, else in one."""
        if isinstance(view.source, Tensor):
            return reader.runs(view.source, elements * view.dtype.itemsize)
        return [Run(view.nbytes, partial(stream, view.source, self.tensors, reader, Overflow()))]


@dataclass(frozen=True)
class Explained:
    """A key that one side alone has, and why that is no difference. side: `A` or `B`."""

    key: str
    side: str
    reason: str


@dataclass(frozen=True)
class Together:
    """Both sides with common keys; what neither has under one: views that are `left`, and keys that are explained."""

    a: Side
    b: Side
    left: tuple[tuple[str, View], ...] = ()
    explained: tuple[Explained, ...] = ()
    notes: tuple[str, ...] = ()


def views_of(tensors: StateDict, original: Mapping[str, str]) -> dict[str, View]:
    """A view for each tensor as it is. original: key → key in the file."""
    return {key: View((original[key],), tensor.dtype, tensor.shape, tensor) for key, tensor in tensors.items()}
