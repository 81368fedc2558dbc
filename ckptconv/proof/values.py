"""Parameters read where they lie, and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod

from ckptconv.containers.checkpoint import StateDict, Tensor
from ckptconv.containers.read import Reader
from ckptconv.dtypes import BY_NAME, FLOATS, DType
from ckptconv.progress import counted
from ckptconv.tables.expand import Slot
from ckptconv.values.compare import Comparison, compare, comparisons, numbers
from ckptconv.values.elements import elements_of

_PIECE = 1 << 20


def parameter(slot: Slot, tensors: StateDict) -> Tensor:
    """The parameter alone, as a view of the tensor that it lies in: a part of a fused one, transposed back."""
    tensor = tensors[slot.key]
    if slot.cell.transposed:
        tensor = tensor._replace(shape=tensor.shape[::-1], strides=tensor.strides[::-1])
    return rows(tensor, slot.cell.part * slot.shape[0], slot.shape[0]) if slot.cell.parts > 1 else tensor


def rows(tensor: Tensor, start: int, count: int) -> Tensor:
    """Rows [start, start + count) of its first axis, as a view."""
    if not tensor.shape:
        return tensor
    return tensor._replace(shape=(count, *tensor.shape[1:]), offset=tensor.offset + start * tensor.strides[0])


@dataclass
class Values:
    """Compares tensors of a source and an output; a pair that comes again (tied keys) isn't read again.

    progress(bytes of the output that were compared) is called now and then.
    """

    reader: Reader
    progress: Callable[[int], None] = lambda count: None
    _known: dict[object, tuple[str, str]] = field(default_factory=dict)

    def judge(self, source: Tensor, target: Tensor, added: Tensor | None = None) -> tuple[str, str]:
        """(status, how it differs) of two tensors of one shape. added: a row that was added to every row of `source`,
        with the sum rounded once."""
        identity = source, target, added
        if identity not in self._known:
            self._known[identity] = self._judge(source, target, added)
        return self._known[identity]

    def _judge(self, source: Tensor, target: Tensor, added: Tensor | None) -> tuple[str, str]:
        if added is not None:
            theirs = counted(self.reader.chunks(target), self.progress)
            wide = BY_NAME["F64" if "F64" in (source.dtype.name, added.dtype.name) else "F32"]
            sums = compare(self._sums(source, added, wide), wide, theirs, target.dtype)
            return _verdict(sums, target, "folded", target.dtype == wide)
        pair = elements_of(source, self.reader), elements_of(target, self.reader)
        (found,) = comparisons([pair])
        self.progress(target.nbytes)
        same = source.dtype == target.dtype
        return _verdict(found, target, "equal" if same else "cast", same)

    def _sums(self, tensor: Tensor, added: Tensor, wide: DType) -> Iterator[bytes]:
        """The tensor with a row added to each of its rows, in the dtype `wide`, some rows at a time."""
        row = numbers(self.reader.read(added), added.dtype, wide.name)
        width = prod(tensor.shape[1:]) * tensor.dtype.itemsize
        step = max(1, _PIECE // width) * width
        for start in range(0, tensor.nbytes, step):
            data = b"".join(self.reader.chunks(tensor, start, min(start + step, tensor.nbytes)))
            yield (numbers(data, tensor.dtype, wide.name).reshape(-1, row.size) + row).tobytes()

    def filled(self, tensor: Tensor, value: float) -> bool:
        """Whether all of its elements are this number."""
        if tensor.dtype not in FLOATS:
            return False
        pieces = (numbers(data, tensor.dtype, "F64") for data in counted(self.reader.chunks(tensor), self.progress))
        return all(bool((piece == value).all()) for piece in pieces)

    def equal(self, a: Tensor, b: Tensor) -> bool:
        """Whether two tensors have the same dtype, shape and bytes."""
        return self.reader.equal(a, b)


def _verdict(found: Comparison, target: Tensor, status: str, exactly: bool) -> tuple[str, str]:
    """exactly: the bytes must be equal; else they may be once they are rounded to the target's dtype."""
    if found.status == "equal" or (not exactly and found.rounded_to == target.dtype.name):
        return status, ""
    if not found.changed:
        return "differ", "its bytes differ" + (", though no number does" if found.changed == 0 else "")
    odd = found.nan_mismatches + found.inf_mismatches
    some = f"{found.changed:,} of {target.numel:,} values differ" if exactly else "its values differ, also once rounded"
    far = "" if found.max_abs is None else f", by up to {found.max_abs:.3g}"
    return "differ", some + far + (f", {odd:,} of them NaN or infinite on one side" if odd else "")
