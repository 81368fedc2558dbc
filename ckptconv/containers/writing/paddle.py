"""Writes what paddle.load reads: a pickle of protocol 4, a dict of names and numpy arrays.

The form: python/paddle/framework/io.py of Paddle 2.6 (`_build_saved_state_dict`, `_pickle_save`). The arrays as numpy
spells them (numpy/_core/src/multiarray/methods.c, `array_reduce`), under the module name of numpy 1, which numpy 2
knows as well; so `pickle.load` reads it with either. bfloat16, which numpy lacks, is uint16, as in Paddle's own files.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from ckptconv.containers.checkpoint import PADDLE_NAMES
from ckptconv.containers.writing.items import Item, split_tied
from ckptconv.containers.writing.output import Create, Output
from ckptconv.dtypes import DType
from ckptconv.errors import Unsupported
from ckptconv.parallel import ahead
from ckptconv.text import printable

_CODES = {"F16": "f2", "F32": "f4", "F64": "f8", "I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8", "BOOL": "b1"}
_CODES |= {"U8": "u1", "U32": "u4", "U64": "u8", "C64": "c8", "C128": "c16", "BF16": "u2"}


def write_paddle(
    path: Path, items: Sequence[Item], names: Mapping[str, str] | None = None, create: Create = Output
) -> None:
    """Writes the items as one .pdparams file, in their order, the same bytes for the same items.

    names: the parameter's name in the program for each key, for `StructuredToParameterName@@`; None: there is none. A
    tied item is the same array as its owner. Raises Unsupported for a dtype or key that such a file can't hold;
    CannotWrite; Damaged if an item yields more or fewer bytes than its shape says; ValueError for items that contradict
    each other.
    """
    _check(path, items)
    stored, tied = split_tied(items)
    owners = {item.key: item for item in stored}
    shared = set(tied.values())
    pickle = _Pickle()
    pieces: list[bytes | Item] = [b"\x80\x04}("]
    for item in items:
        owner = owners[tied.get(item.key, item.key)]
        array = f"array {owner.key}"
        pieces.append(_text(item.key))
        if pickle.knows(array):
            pieces.append(pickle.fetch(array))
        else:
            pieces += [pickle.before(owner), owner, b"tb"]
            pieces += [pickle.put(array)] if owner.key in shared else []
    if names is not None:
        pieces += [_text(PADDLE_NAMES), b"}(", *(_text(text) for pair in names.items() for text in pair), b"u"]
    pieces.append(b"u.")
    with create(path, sum(piece.nbytes if isinstance(piece, Item) else len(piece) for piece in pieces)) as output:
        output.write_all(ahead(chain.from_iterable(map(_bytes, pieces))))


def _bytes(piece: Item | bytes) -> Iterable[bytes | memoryview]:
    return piece.pieces() if isinstance(piece, Item) else (piece,)


def _check(path: Path, items: Iterable[Item]) -> None:
    for item in items:
        where, name = printable(os.fspath(path)), printable(item.key)
        if item.dtype.name not in _CODES:
            reason = "Paddle takes uint16 for bfloat16" if item.dtype.name == "U16" else "numpy has no such type"
            told = f"its type is {item.dtype} ({item.dtype.torch}), and {reason}: choose another one with --dtype"
            raise Unsupported(f"{where} can't hold the tensor {name}: {told}", path)
        if "@@" in item.key:
            raise Unsupported(f"{where} can't hold the tensor {name}: Paddle has another meaning for such keys", path)


class _Pickle:
    """Instructions for arrays; what recurs is put into the memo once and fetched from there."""

    def __init__(self) -> None:
        self._memo: dict[str, int] = {}

    def knows(self, name: str) -> bool:
        """Whether it is in the memo."""
        return name in self._memo

    def put(self, name: str) -> bytes:
        """Puts what is on the stack into the memo."""
        self._memo[name] = len(self._memo)
        return b"r" + struct.pack("<I", self._memo[name])

    def fetch(self, name: str) -> bytes:
        """Pushes it again."""
        return b"j" + struct.pack("<I", self._memo[name])

    def before(self, item: Item) -> bytes:
        """An array up to its bytes: _reconstruct(ndarray, (0,), b'b'), then the state (1, shape, dtype, False, …"""
        function = self._global("numpy.core.multiarray", "_reconstruct")
        made = function + self._global("numpy", "ndarray") + b"K\0\x85C\1b\x87R"
        shape = b"(" + b"".join(map(_int, item.shape)) + b"t"
        wide = item.nbytes >= 1 << 32
        opening = b"\x8e" + struct.pack("<Q", item.nbytes) if wide else b"B" + struct.pack("<I", item.nbytes)
        return made + b"(K\1" + shape + self._dtype(item.dtype) + b"\x89" + opening

    def _dtype(self, dtype: DType) -> bytes:
        """dtype('f4', False, True) with the state (3, '<', None, None, None, -1, -1, 0)"""
        code = _CODES[dtype.name]
        order = "|" if dtype.itemsize == 1 else "<"
        state = b"(K\3" + _text(order) + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\0tb"
        return self._once(f"dtype {code}", self._global("numpy", "dtype") + _text(code) + b"\x89\x88\x87R" + state)

    def _global(self, module: str, name: str) -> bytes:
        return self._once(f"{module}.{name}", _text(module) + _text(name) + b"\x93")

    def _once(self, name: str, instructions: bytes) -> bytes:
        return self.fetch(name) if self.knows(name) else instructions + self.put(name)


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _int(value: int) -> bytes:
    if value < 256:
        return b"K" + bytes((value,))
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes((len(data),)) + data
