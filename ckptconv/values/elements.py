"""A tensor as those see it who look at its values: runs of its elements, which may be read in several threads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from ckptconv.containers.checkpoint import Tensor
from ckptconv.containers.read import Reader, Run
from ckptconv.dtypes import DType

RUN = 1 << 22  # elements: enough that handing a run to another thread costs nothing beside reading it


class Elements(NamedTuple):
    """A dtype, and the contiguous little-endian bytes in runs of `RUN` elements, or one run of all of them."""

    dtype: DType
    runs: Sequence[Run]


def elements_of(tensor: Tensor, reader: Reader) -> Elements:
    """The tensor's elements, where they lie."""
    return Elements(tensor.dtype, reader.runs(tensor, RUN * tensor.dtype.itemsize))


def side_by_side(a: Elements, b: Elements) -> list[tuple[Run, Run]]:
    """Runs of the same elements of two tensors of one shape."""
    if len(a.runs) == len(b.runs):
        return list(zip(a.runs, b.runs, strict=True))
    return [(_joined(a.runs), _joined(b.runs))]


def _joined(runs: Sequence[Run]) -> Run:
    return Run(sum(run.nbytes for run in runs), lambda: chain.from_iterable(run.chunks() for run in runs))
