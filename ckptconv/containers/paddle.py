"""Reads what paddle.save writes: a bare pickle of protocol 2 to 5, a dict of names and numpy arrays.

Its forms: python/paddle/framework/io.py of Paddle 2.6 (`_build_saved_state_dict`, `_pickle_save`, `_pack_loaded_dict`,
`_unpack_saved_dict`). Beside the arrays lies `StructuredToParameterName@@`, the parameters' names in the program. In
what isn't a plain state dict, tensors are (name, array), made by `tuple`, or an array, made by `eval('data', …)`.
Protocols 2 and 3 cut arrays of over 2^30 bytes into slices. uint16 is bfloat16, as Paddle itself takes it
(python/paddle/base/data_feeder.py, `_PADDLE_DTYPE_2_NUMPY_DTYPE`).

How numpy spells an array: numpy/_core/src/multiarray/methods.c, `array_reduce`, `array_setstate`, and descriptor.c,
`arraydescr_reduce`. Arrays are taken for what they say; their bytes stay in the file until they are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ckptconv.containers.checkpoint import PADDLE_NAMES, Checkpoint, StateDict, Storage, Tensor
from ckptconv.containers.files import Source
from ckptconv.containers.inert import Call, Dict, Global, List, Node, Pair, pairs_of, walk
from ckptconv.containers.latin1 import spelt_bytes, spelt_storage
from ckptconv.containers.pickles import BadView, Pickle, read_pickle
from ckptconv.containers.pickles.machine import Rebuild
from ckptconv.containers.pickles.skim import Skimmed, skim
from ckptconv.containers.reading import Reading
from ckptconv.containers.rebuild import sizes
from ckptconv.containers.safetensors import row_major
from ckptconv.containers.statedicts import split, third_party_note
from ckptconv.dtypes import BY_NAME, DType
from ckptconv.errors import Damaged, NotACheckpoint, Unsafe, Unsupported
from ckptconv.text import printable

_SLICES = "UnpackBigParamInfor@@"
_MODULES = ("numpy.core", "numpy._core")
_RECONSTRUCT = frozenset(f"{module}.multiarray._reconstruct" for module in _MODULES)
_FROM_BUFFER = frozenset(f"{module}.numeric._frombuffer" for module in _MODULES)
_ARRAYS = _RECONSTRUCT | _FROM_BUFFER
_SCALAR = frozenset(f"{module}.multiarray.scalar" for module in _MODULES)
_SCALAR_LIMIT = 16  # bytes
_NUMBER = Global("numpy.core.multiarray", "scalar", True, True)
_TUPLE = frozenset({"builtins.tuple", "__builtin__.tuple"})
_BYTES = frozenset({"builtins.bytes", "__builtin__.bytes"})
_EVAL = frozenset({"builtins.eval", "__builtin__.eval"})
_ORDERS = ("<", ">", "|", "=")
_CODES = {"f2": "F16", "f4": "F32", "f8": "F64", "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64", "b1": "BOOL"}
_CODES |= {"u1": "U8", "u2": "BF16", "u4": "U32", "u8": "U64", "c8": "C64", "c16": "C128"}
# python/paddle/optimizer/*.py: the accumulators' names
_ACCUMULATOR = re.compile(
    r".+_(moment[12]?(_max)?|velocity|beta[12]_pow_acc|inf_norm|momentum|mean_square|mean_grad|_?avg_squared_(grad|update)"
    r"|fp32_master)_\d+(_.*)?"
)
_OPTIMIZER = frozenset({"LR_Scheduler", "master_weights"})


class _Unlike(Exception):
    """An array of a kind that isn't read; the text goes on after "the tensor x is "."""


def open_paddle(source: Source, reading: Reading) -> Checkpoint:
    """The checkpoint in a Paddle file. Raises NotACheckpoint for another pickle, Damaged, Unsafe or Unsupported."""
    skimmed = skim(source)
    pickle = _unpickle(source, skimmed, reading)
    if pairs_of(pickle.root) is None:
        raise NotACheckpoint(f"{source.where} is a pickle of something other than a dict: not Paddle's", source.path)
    _Arrays(source, skimmed.letters).find(pickle.root)
    root, names = Dict(), Dict()
    for pair in _join_slices(source, pairs_of(pickle.root) or []):
        (names if pair[0] == PADDLE_NAMES else root).pairs.append(pair)
    if len(names.pairs) > 1:  # a key twice is an error everywhere
        root.pairs += names.pairs
    entries, other = split(root, source.path, reading)
    models = {name: tensors for name, tensors in entries.items() if not _is_optimizer(name, tensors, other)}
    if not models and (entries or _OPTIMIZER & other.keys()):
        told = "it is the state of a Paddle optimizer, not a model: give the .pdparams file with the weights"
        raise Unsupported(f"{source.where} is not supported: {told}", source.path)
    if not models and not any(type(node) is Tensor for node in walk(root)):
        raise NotACheckpoint(f"{source.where} is a pickle without arrays under names: not Paddle's", source.path)
    states = {name: value for name, value in root.pairs if name in entries.keys() - models.keys()}
    known = tuple(name for name in pickle.globals if name.full not in _EVAL)
    return Checkpoint(
        path=source.path,
        container="paddle",
        files=(source.path,),
        entries=models,
        other={**other, **states, **dict(names.pairs)},
        globals=tuple(name.full for name in pickle.globals),
        notes=third_party_note(known) + _uint16_note(models.values()),
        stamps={source.path: source.stamp},
    )


def _unpickle(source: Source, skimmed: Skimmed, reading: Reading) -> Pickle:
    evaluated: list[Node] = []

    def persist(pid: Node) -> Storage:
        start, count, is_text = pid  # by `skim`; no other can be there
        return spelt_storage(source, start, count) if is_text else Storage(source.path, start, count)

    def evaluate(args: tuple[Node, ...]) -> Node:
        given = args[1].pairs if len(args) == 2 and type(args[1]) is Dict else []
        if args[:1] != ("data",) or len(given) != 1 or given[0][0] != "data" or not _is_array(given[0][1]):
            raise _evaluates(source)
        evaluated.append(given[0][1])
        return given[0][1]

    def scalar(args: tuple[Node, ...]) -> Node:
        """A number, whose bytes are needed to show it."""
        if len(args) == 2 and type(args[1]) is Storage and args[1].nbytes <= _SCALAR_LIMIT:
            return Call(_NUMBER, (args[0], _small(source, args[1])), "reduce")
        return None

    rebuild: dict[str, Rebuild] = {**dict.fromkeys(_EVAL, evaluate), **dict.fromkeys(_SCALAR, scalar)}
    pickle = read_pickle(skimmed.pickle, source.where, persist, rebuild, reading=reading)
    reading.memory -= pickle.memory
    named = any(name.full in _EVAL for name in pickle.globals)
    if named and (not evaluated or any(type(node) is Global and node.full in _EVAL for node in walk(pickle.root))):
        raise _evaluates(source)
    if skimmed.end != source.size:
        raise Damaged(f"{source.where} is damaged: bytes follow the end of its pickle", source.path)
    return pickle


def _evaluates(source: Source) -> Unsafe:
    told = "its pickle names builtins.eval, for something else than Paddle's eval('data', {'data': array})"
    return Unsafe(f"{source.where} is refused as unsafe: {told}", source.path)


def _small(source: Source, storage: Storage) -> bytes:
    return spelt_bytes(source, storage) if storage.latin1 is not None else source.read(storage.start, storage.nbytes)


# ---- arrays


def _is_array(node: Node) -> bool:
    return type(node) is Call and node.how == "reduce" and node.target.full in _ARRAYS


def _array_in(node: Node) -> Call | None:
    """The array that a value is, by itself or under its name; None for other values."""
    if type(node) is Call and node.target.full in _TUPLE and node.how == "reduce" and len(node.args) == 1:
        node = node.args[0]
    if type(node) is tuple and len(node) == 2 and type(node[0]) is str:
        node = node[1]
    return node if _is_array(node) else None


@dataclass(frozen=True)
class _Arrays:
    """Makes tensors of arrays. letters: where texts of one letter lie, which may be arrays' bytes (`Skimmed`)."""

    source: Source
    letters: Mapping[bytes, tuple[int, int]]

    def find(self, root: Node) -> None:
        """Puts a Tensor in the place of every array that lies in a dict, at whatever depth. Raises Damaged or
        Unsupported, naming the key."""
        known: dict[int, Tensor] = {}
        for node in walk(root):
            pairs = node.pairs if type(node) is Dict or type(node) is Call else []
            for number, (key, value) in enumerate(pairs):
                array = _array_in(value)
                if array is not None:
                    if id(array) not in known:
                        known[id(array)] = self._tensor(key, array)
                    pairs[number] = (key, known[id(array)])

    def _tensor(self, key: Node, array: Call) -> Tensor:
        where, name = self.source.where, _name(key)
        try:
            return self._from_buffer(array) if array.target.full in _FROM_BUFFER else self._reconstructed(array)
        except BadView as problem:
            raise Damaged(f"{where} is damaged: the tensor {name} {problem}", self.source.path) from None
        except _Unlike as problem:
            raise Unsupported(f"{where} is not supported: the tensor {name} is {problem}", self.source.path) from None

    def _reconstructed(self, array: Call) -> Tensor:
        """_reconstruct(ndarray, (0,), b'b') with the state (version, shape, dtype, in Fortran's order, bytes)"""
        kind, state = array.args[0] if array.args else None, array.state
        if (
            type(kind) is not Global
            or kind.full != "numpy.ndarray"
            or len(array.args) != 3
            or array.pairs
            or array.items
        ):
            raise BadView("is no array that numpy writes")
        if type(state) is not tuple or len(state) != 5 or state[0] != 1 or type(state[3]) is not bool:
            raise BadView("has a state that no array has")
        return self._view(state[4], state[2], state[1], state[3])

    def _from_buffer(self, array: Call) -> Tensor:
        """_frombuffer(bytes, dtype, shape, order), in protocol 5"""
        if len(array.args) != 4 or array.args[3] not in ("C", "F") or array.built or array.pairs or array.items:
            raise BadView("is no array that numpy writes")
        data, dtype, shape, order = array.args
        return self._view(data, dtype, shape, order == "F")

    def _view(self, data: Node, of: Node, size: Node, fortran: bool) -> Tensor:
        dtype, swap = _dtype(of)
        shape, storage = sizes(size), self._storage(data)
        needed = prod(shape) * dtype.itemsize
        if needed != storage.nbytes:
            raise BadView(f"of type {dtype} and shape {shape} takes {needed} bytes, and has {storage.nbytes}")
        strides = tuple(reversed(row_major(shape[::-1]))) if fortran else row_major(shape)
        return Tensor(dtype, shape, strides, 0, storage._replace(swap=True) if swap else storage)

    def _storage(self, data: Node) -> Storage:
        if type(data) is Storage:
            return data
        if type(data) is bytes and data in self.letters:
            return spelt_storage(self.source, *self.letters[data])
        if type(data) is Call and data.target.full in _BYTES and not data.args:
            return Storage(self.source.path, 0, 0)
        raise BadView("has no bytes")


def _dtype(node: Node) -> tuple[DType, bool]:
    """dtype('f4', False, True) with the state (3, '<', subarray, names, fields, …), and whether it is big-endian."""
    code = node.args[0] if type(node) is Call and node.target.full == "numpy.dtype" and node.args else None
    if type(code) is not str:
        raise BadView("has no type")
    state = node.state if node.built else (3, "<", None, None, None)
    if type(state) is not tuple or len(state) < 5 or type(state[1]) is not str or state[1] not in _ORDERS:
        raise BadView("has a type in no known byte order")
    if code not in _CODES or any(part is not None for part in state[2:5]):
        raise _Unlike(f"of numpy's type {printable(code, 40)}, which no weights have")
    return BY_NAME[_CODES[code]], state[1] == ">" and BY_NAME[_CODES[code]].itemsize > 1


# ---- what lies around them


def _join_slices(source: Source, pairs: list[Pair]) -> list[Pair]:
    """The top level with the arrays that were cut into slices in one piece again (`_pack_loaded_dict`)."""
    told = [value for key, value in pairs if key == _SLICES]
    if not told:
        return pairs
    arrays = {key: value for key, value in pairs if type(key) is str and type(value) is Tensor}
    joined: dict[str, Sequence[Pair]] = {_SLICES: []}  # what stands in the place of a key
    for key, value in pairs_of(told[0]) or []:
        try:
            names, tensor = _joined(value, arrays)
        except BadView as problem:
            raise Damaged(f"{source.where} is damaged: the tensor {_name(key)} {problem}", source.path) from None
        joined |= dict.fromkeys(names, ())
        joined[names[0]] = [(key, tensor)]
        for name in names:
            del arrays[name]
    return [
        pair for key, value in pairs for pair in (joined[key] if type(key) is str and key in joined else [(key, value)])
    ]


def _joined(told: Node, arrays: Mapping[str, Tensor]) -> tuple[list[str], Tensor]:
    """The slices' names, and all of them together, in the shape that they had."""
    said = {key: value for key, value in pairs_of(told) or [] if type(key) is str}
    names, shape = (
        list(each.items) if type(each) is List else each for each in map(said.get, ("slices", "OriginShape"))
    )
    if type(names) is not list or not names or any(type(name) is not str or name not in arrays for name in names):
        raise BadView("was cut into slices that aren't all there")
    parts = [arrays[name] for name in names]
    first = parts[0]
    alike = all((part.dtype, part.storage.swap) == (first.dtype, first.storage.swap) for part in parts)
    if not alike or len(set(names)) != len(names) or any(len(part.shape) != 1 for part in parts):
        raise BadView("was cut into slices in a way that Paddle doesn't")
    storage = Storage(
        path=first.storage.path,
        start=first.storage.start,
        nbytes=sum(part.nbytes for part in parts),
        swap=first.storage.swap,
        parts=tuple(piece for part in parts for piece in part.storage.parts or (part.storage,)),
    )
    whole = sizes(tuple(shape) if type(shape) is list else shape)
    if prod(whole) * first.dtype.itemsize != storage.nbytes:
        raise BadView(f"of type {first.dtype} and shape {whole} was cut into slices of {storage.nbytes} bytes together")
    return names, Tensor(first.dtype, whole, row_major(whole), 0, storage)


def _name(key: Node) -> str:
    return printable(str(key)) if type(key) in (str, int) else "without a name"


def _is_optimizer(name: str, tensors: StateDict, other: Mapping[str, Node]) -> bool:
    """Whether an entry is an optimizer's state: accumulators of parameters, and what else is only there."""
    beside = any((f"{name}.{each}" if name else each) in other for each in _OPTIMIZER)
    return name in _OPTIMIZER or beside or all(map(_ACCUMULATOR.fullmatch, tensors))


def _uint16_note(entries: Iterable[StateDict]) -> tuple[str, ...]:
    count = sum(tensor.dtype.name == "BF16" for tensors in entries for tensor in tensors.values())
    return (
        (f"{count} tensors are stored as uint16, which is how Paddle stores bfloat16: read as that",) if count else ()
    )
