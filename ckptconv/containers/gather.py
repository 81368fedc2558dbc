"""Strided views → contiguous bytes, in bounded memory and without a loop over elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from math import prod
from typing import Any, NamedTuple

BOX = 10 << 20  # bytes of a view gathered at a time, by each of two threads for each of two files
_READ = 4 << 20  # bytes of the file read at a time
_WHOLE = 48 << 20  # bytes of a storage that are read at once where many pieces of it are needed
_GAP = 16 << 10  # bytes that are cheaper to read than to skip with another system call

Read = Callable[[int, int], bytes]
Array = Any


class Box(NamedTuple):
    """Part of a view that is contiguous in its logical order: index of its first element, sizes, place in the view."""

    offset: int
    shape: tuple[int, ...]
    first: int


def boxes(shape: tuple[int, ...], strides: tuple[int, ...], offset: int, limit: int, skip: int = 0) -> Iterator[Box]:
    """Cuts a non-empty view into boxes of at most `limit` elements, in logical order.

    The boxes before the one that holds element number `skip` are left out.
    """
    axis = 0  # the axis that is cut: what lies behind it fits into a box
    while axis < len(shape) and prod(shape[axis + 1 :]) > limit:
        axis += 1
    inner = prod(shape[axis + 1 :])
    length = shape[axis] if shape else 1
    step = max(1, limit // inner)
    for row in range(skip // (inner * length), prod(shape[:axis])):
        start = offset
        rest = row
        for size, stride in zip(reversed(shape[:axis]), reversed(strides[:axis]), strict=True):
            rest, index = divmod(rest, size)
            start += index * stride
        for begin in range(0, length, step):
            count = min(step, length - begin)
            first = (row * length + begin) * inner
            if first + count * inner > skip:
                cut = (count, *shape[axis + 1 :]) if shape else ()
                yield Box(start + begin * (strides[axis] if shape else 0), cut, first)


def gather(read: Read, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, itemsize: int) -> Array:
    """The elements of one box as a contiguous numpy array of `itemsize`-byte items, in logical order.

    read(start, count): bytes of the storage. Reads at most 4 MiB at a time, and hardly more than the box needs.
    """
    import numpy as np

    item = np.dtype({1: "u1", 2: "u2", 4: "u4", 8: "u8"}.get(itemsize, f"V{itemsize}"))
    made = np.empty(shape, item)
    # axes of size 1 and expanded axes (stride 0) cost no reading; the others, closest together first
    axes = sorted((axis for axis in range(len(shape)) if shape[axis] > 1 and strides[axis]), key=strides.__getitem__)
    if _reads(axes, shape, strides, itemsize) * _GAP > (reach := _reach(shape, strides) * itemsize) <= _WHOLE:
        steps = tuple(stride * itemsize for stride in strides)
        made[...] = np.ndarray(shape, item, read(offset * itemsize, reach), 0, steps)
        return made
    inner, cut, step, span = _dense(axes, shape, strides, itemsize)
    loops = [axis for axis in axes if axis not in inner and axis != cut]
    pieces = range(0, shape[cut], step) if cut is not None else (0,)
    for begin in pieces:
        place = [slice(None)] * len(shape)
        extent, start = span, offset
        if cut is not None:
            place[cut] = slice(begin, min(begin + step, shape[cut]))
            extent += (place[cut].stop - begin - 1) * strides[cut]
            start += begin * strides[cut]
        sizes = tuple(1 if axis in loops else len(range(shape[axis])[place[axis]]) for axis in range(len(shape)))
        steps = tuple(stride * itemsize for stride in strides)
        for index in product(*(range(shape[axis]) for axis in loops)):
            first = start
            for axis, at in zip(loops, index, strict=True):
                first += at * strides[axis]
                place[axis] = slice(at, at + 1)
            made[tuple(place)] = np.ndarray(sizes, item, read(first * itemsize, extent * itemsize), 0, steps)
    return made


def too_scattered(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    """Whether `gather` would need far more readings than the box's reach in the storage explains: only a view that
    overlaps itself by odd strides does."""
    axes = sorted((axis for axis in range(len(shape)) if shape[axis] > 1 and strides[axis]), key=strides.__getitem__)
    reach = _reach(shape, strides) * itemsize
    return reach > _WHOLE and _reads(axes, shape, strides, itemsize) > 1000 + 16 * reach // _GAP


def _reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to the last one of a box."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _reads(axes: list[int], shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> int:
    """How many pieces `gather` reads, but for the cut of one axis into several."""
    inner, cut, _, _ = _dense(axes, shape, strides, itemsize)
    return prod(shape[axis] for axis in axes if axis not in inner and axis != cut)


def _dense(
    axes: list[int], shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int
) -> tuple[set[int], int | None, int, int]:
    """How to read: (axes taken in one piece, axis taken in several or None, how many of its indices at a time, elements
    from the first to the last of the axes in one piece). The axes left over are looped over."""
    inner: set[int] = set()
    span = 1
    for axis in axes:
        if (strides[axis] - span) * itemsize > _GAP:
            break
        whole = span + (shape[axis] - 1) * strides[axis]
        if whole * itemsize > _READ:
            return inner, axis, max(1, (_READ // itemsize - span) // strides[axis] + 1), span
        inner.add(axis)
        span = whole
    return inner, None, 1, span


def swapped(data: Array, component: int) -> Array:
    """The array with the bytes of every number in it turned round. component: bytes of a number (half a complex)."""
    import numpy as np

    return data.reshape(-1).view(np.dtype("u1")).view(np.dtype(f"u{component}")).byteswap()
