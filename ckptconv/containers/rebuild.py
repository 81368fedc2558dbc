"""torch's inert calls → Tensor, with every view checked against its storage in Python's exact integers.

What the functions take: torch/_utils.py and torch/_tensor.py (`_reduce_ex_internal`).
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from ckptconv.containers.checkpoint import Tensor
from ckptconv.containers.inert import Call, Dict, Global, List, Node, StorageRef, pairs_of
from ckptconv.containers.pickles import BadView
from ckptconv.containers.pickles.machine import Rebuild
from ckptconv.dtypes import BY_NAME, BY_SCRIPT_STORAGE, BY_STORAGE, BY_TORCH, DType
from ckptconv.text import printable

_MOST = (1 << 63) - 1
_UNTYPED = frozenset({"UntypedStorage", "_UntypedStorage"})
_QUANTISED = {"QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4, "QUInt4x2Storage": 1, "QUInt2x4Storage": 1}
_WHY_NOT = {
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_qtensor": "quantised",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "on the meta device: it has a shape and no values",
    "_rebuild_wrapper_subclass": "a tensor subclass without a storage of its own",
    "_rebuild_xla_tensor": "stored as a numpy array",
    "_rebuild_device_tensor_from_numpy": "stored as a numpy array",
}


class StorageId(NamedTuple):
    """A checked persistent id. numel: elements of `itemsize` bytes. view: (key, offset, numel) inside the storage."""

    kind: Global
    key: str
    location: str
    numel: int
    dtype: DType | None
    itemsize: int
    view: tuple[str, int, int] | None

    @property
    def nbytes(self) -> int:
        """Bytes of the storage."""
        return self.numel * self.itemsize


def storage_id(pid: Node) -> StorageId:
    """Checks the tuple ('storage', class, key, location, numel[, view]) of torch/serialization.py `persistent_id`.

    Raises BadView if it is anything else.
    """
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or type(pid[1]) is not Global:
        raise BadView("names a storage in a way that torch doesn't")
    kind, key, location, numel = pid[1:5]
    if type(key) is not str or type(location) is not str or type(numel) is not int or not 0 <= numel <= _MOST:
        raise BadView("names a storage in a way that torch doesn't")
    dtype, itemsize = _elements(kind)
    return StorageId(kind, key, location, numel, dtype, itemsize, _view_of(pid[5] if len(pid) == 6 else None))


def _elements(kind: Global) -> tuple[DType | None, int]:
    """The element type behind torch's storage class (None: quantised), and its bytes."""
    if kind.module in ("torch", "torch.cuda", "torch.storage"):
        if kind.name in _UNTYPED:
            return BY_NAME["U8"], 1
        if kind.name in BY_STORAGE:
            return BY_STORAGE[kind.name], BY_STORAGE[kind.name].itemsize
        if kind.name in BY_SCRIPT_STORAGE:
            return BY_SCRIPT_STORAGE[kind.name], BY_SCRIPT_STORAGE[kind.name].itemsize
        if kind.name in _QUANTISED:
            return None, _QUANTISED[kind.name]
    raise BadView(f"lies in a {printable(kind.full)}, which is no storage")


def _view_of(view: Node) -> tuple[str, int, int] | None:
    """Storages that are a part of another one, as torch before 0.4 saved them: (key, offset, numel)."""
    if view is None:
        return None
    if type(view) is tuple and len(view) == 3 and type(view[0]) is str and all(_natural(part) for part in view[1:]):
        return view
    raise BadView("names a part of a storage in a way that torch doesn't")


def _natural(value: Node) -> bool:
    return type(value) is int and 0 <= value <= _MOST


# ---- calls → tensors; None leaves the call as it is


def _v1(args: tuple[Node, ...]) -> Node:
    """_rebuild_tensor(storage, offset, size, stride)"""
    return _typed(args) if len(args) == 4 else None


def _v2(args: tuple[Node, ...]) -> Node:
    """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])"""
    plain = len(args) == 6 or (len(args) == 7 and not _lazy_bits(args[6:]))
    return _typed(args) if plain else None


def _v3(args: tuple[Node, ...]) -> Node:
    """_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])"""
    if len(args) not in (7, 8) or _lazy_bits(args[7:]):
        return None
    dtype = args[6]
    known = BY_TORCH.get(dtype.name) if type(dtype) is Global and dtype.module == "torch" else None
    return None if known is None else _tensor(args, known)


def _parameter(args: tuple[Node, ...]) -> Node:
    """_rebuild_parameter(data, requires_grad, hooks[, state]) and Parameter(data, …)"""
    return args[0] if args and type(args[0]) is Tensor else None


def _from_type(args: tuple[Node, ...]) -> Node:
    """_rebuild_from_type_v2(function, type, args, state): a subclass of Tensor, stored as its plain tensor."""
    if len(args) != 4 or type(args[0]) is not Global or type(args[2]) is not tuple:
        return None
    plain = {"torch._utils._rebuild_tensor_v2": _v2, "torch._utils._rebuild_tensor_v3": _v3}
    function = plain.get(args[0].full) or {"torch._utils._rebuild_parameter": _parameter}.get(args[0].full)
    return function(args[2]) if function else None


def _tagged(args: tuple[Node, ...]) -> Node:
    """build_intlist(list), …, restore_type_tag(value, type): TorchScript's lists and dicts, by torch/jit/_pickle.py"""
    return args[0] if args and type(args[0]) in (List, Dict) else None


def _typed(args: tuple[Node, ...]) -> Tensor | None:
    dtype = args[0].dtype if type(args[0]) is StorageRef else None
    return None if dtype is None else _tensor(args, dtype)


def _lazy_bits(metadata: tuple[Node, ...]) -> bool:
    """Whether torch is told to conjugate or negate the values when it reads them."""
    return any(value is not False for given in metadata for _, value in pairs_of(given) or [])


def _tensor(args: tuple[Node, ...], dtype: DType) -> Tensor | None:
    """The view (storage, offset, size, stride, …); None on the meta device. Raises BadView if it can't be."""
    storage, offset, size, stride = args[:4]
    if type(storage) is not StorageRef:
        raise BadView("has no storage")
    if storage.place is None:
        return None
    shape, strides = sizes(size), sizes(stride)
    if not _natural(offset) or len(shape) != len(strides):
        raise BadView(f"has {len(shape)} sizes, {len(strides)} strides and offset {offset!r:.40}")
    if prod(shape) * dtype.itemsize > _MOST:
        raise BadView(f"has the shape {shape}, too large for any machine")
    if 0 not in shape:
        last = offset + sum([(count - 1) * step for count, step in zip(shape, strides, strict=True)])
        needed = (last + 1) * dtype.itemsize
        if needed > storage.place.nbytes:
            key, have = printable(storage.key), storage.place.nbytes
            raise BadView(f"of shape {shape} reaches to byte {needed} of storage {key}, which has {have}")
    return Tensor(dtype, shape, strides, offset, storage.place)


def sizes(node: Node) -> tuple[int, ...]:
    """A shape, or strides. Raises BadView if it is none."""
    if type(node) is Call and node.target.full == "torch.Size" and len(node.args) == 1:
        node = node.args[0]
    if type(node) is not tuple or len(node) > 64:
        raise BadView("has sizes or strides that are no tuple of at most 64 integers")
    for value in node:
        if type(value) is not int or not 0 <= value <= _MOST:
            raise BadView("has sizes or strides that are no integers from 0 on")
    return node


REBUILD: dict[str, Rebuild] = {
    "torch._utils._rebuild_tensor": _v1,
    "torch._utils._rebuild_tensor_v2": _v2,
    "torch._utils._rebuild_tensor_v3": _v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.nn.parameter.Buffer": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.tensor._rebuild_from_type_v2": _from_type,
    "torch._tensor._rebuild_from_type": _from_type,
    "torch.jit._pickle.build_intlist": _tagged,
    "torch.jit._pickle.build_doublelist": _tagged,
    "torch.jit._pickle.build_boollist": _tagged,
    "torch.jit._pickle.build_tensorlist": _tagged,
    "torch.jit._pickle.restore_type_tag": _tagged,
}


def why_no_tensor(node: Node) -> str | None:
    """What kind of tensor an inert call stands for, where it is one that can't be converted; None for other nodes."""
    if not _stands_for_tensor(node):
        return None
    inner = next((part for part in node.args if _stands_for_tensor(part)), None)
    while node.target.full in REBUILD and inner is not None:  # a Parameter around it
        node = inner
        inner = next((part for part in node.args if _stands_for_tensor(part)), None)
    if node.target.name in _WHY_NOT:
        return _WHY_NOT[node.target.name]
    storage = node.args[0] if node.args else None
    if type(storage) is StorageRef and storage.place is None:
        return _WHY_NOT["_rebuild_meta_tensor_no_storage"]
    if type(storage) is StorageRef and storage.dtype is None:
        return "quantised"
    if any(_lazy_bits((part,)) for part in node.args[6:]):
        return "a lazily conjugated or negated view (call resolve_conj() and resolve_neg() before saving)"
    return "of a type that ckptconv has no name for"


def _stands_for_tensor(node: Node) -> bool:
    return type(node) is Call and node.target.module in ("torch._utils", "torch._tensor", "torch.tensor")
