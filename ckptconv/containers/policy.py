"""Which names a pickle may mention.

Nothing is ever imported or called, so a name can do no harm here. But a file that names `os.system` was made to do
harm elsewhere, and a name whose meaning we don't know is one whose values we may misread: both are refused by name.
"""

from __future__ import annotations

import sys

from ckptconv.dtypes import BY_SCRIPT_STORAGE, BY_STORAGE, BY_TORCH

_MORE = (
    "torch numpy __builtin__ __builtins__ copy_reg cPickle commands exceptions nt posix popen2 Queue UserDict UserList "
    "distutils imp pip setuptools pkg_resources site asyncore asynchat smtpd"
)
_OURS_TO_KNOW = frozenset(sys.stdlib_module_names) | frozenset(_MORE.split())


def _names(module: str, names: str) -> set[str]:
    return {f"{module}.{name}" for name in names.split()}


_BUILTINS = (
    "set frozenset dict list tuple int long float complex bool str unicode bytes bytearray object slice range xrange"
)
_ARRAYS = "_reconstruct scalar _frombuffer"
_NUMBERS = "bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128"
_REBUILD = (
    "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter _rebuild_parameter_with_state "
    "_rebuild_sparse_tensor _rebuild_sparse_csr_tensor _rebuild_nested_tensor _rebuild_qtensor "
    "_rebuild_meta_tensor_no_storage _rebuild_wrapper_subclass _rebuild_xla_tensor "
    "_rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor"
)
_TORCH = (
    "Size device Tensor UntypedStorage _UntypedStorage strided sparse_coo sparse_csr sparse_csc sparse_bsr sparse_bsc "
    "jagged per_tensor_affine per_channel_affine per_tensor_symmetric per_channel_symmetric "
    "per_channel_affine_float_qparams qint8 quint8 qint32 quint4x2 quint2x4 "
    "QInt8Storage QUInt8Storage QInt32Storage QUInt4x2Storage QUInt2x4Storage"
)

_SILENT = frozenset().union(
    _names("builtins", _BUILTINS),
    _names("__builtin__", _BUILTINS),
    _names("collections", "OrderedDict defaultdict Counter deque"),
    _names("copyreg", "_reconstructor __newobj__"),
    _names("copy_reg", "_reconstructor __newobj__"),
    _names("_codecs", "encode"),
    _names("argparse", "Namespace"),
    _names("types", "SimpleNamespace"),
    _names("datetime", "datetime date time timedelta timezone"),
    _names("decimal", "Decimal"),
    _names("fractions", "Fraction"),
    _names("uuid", "UUID"),
    _names("pathlib", "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"),
    _names("pathlib._local", "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"),
    _names("numpy", f"dtype ndarray {_NUMBERS}"),
    *(_names(f"numpy.{core}.{module}", _ARRAYS) for core in ("core", "_core") for module in ("multiarray", "numeric")),
    _names("numpy.random", "RandomState"),
    _names("numpy.random.mtrand", "RandomState"),
    _names("numpy.random._mt19937", "MT19937"),
    _names("numpy.random._pickle", "__randomstate_ctor __bit_generator_ctor __generator_ctor"),
    _names("torch", _TORCH),
    {f"torch.{name}" for name in BY_TORCH},
    {f"torch.{name}" for name in BY_STORAGE},
    {f"torch.cuda.{name}" for name in BY_STORAGE},
    {f"torch.{name}" for name in BY_SCRIPT_STORAGE},
    _names("torch.jit._pickle", "build_intlist build_doublelist build_boollist build_tensorlist restore_type_tag"),
    _names("torch.storage", "UntypedStorage _UntypedStorage TypedStorage _TypedStorage _LegacyStorage"),
    _names("torch._utils", _REBUILD),
    *(_names(f"torch.{module}", "_rebuild_from_type _rebuild_from_type_v2") for module in ("_tensor", "tensor")),
    _names("torch.nn.parameter", "Parameter Buffer"),
    _names("torch.serialization", "_get_layout"),
    _names("torch.torch_version", "TorchVersion"),
)
_SCRIPTED = "__torch__."  # classes in TorchScript archives: their code lies there, and no Python package has them
_SILENT_PACKAGES = (
    _SCRIPTED,
    "fairseq.meters.",
    "fairseq.logging.meters.",
    "fairseq.dataclass.",
    "fairseq.data.dictionary.",
    "omegaconf.",
)


class Refused(Exception):
    """A name that a checkpoint has no business with; the text goes on after "the pickle names os.system, "."""


def is_silent(module: str, name: str) -> bool:
    """Whether the name is known to be harmless; False for a class of some other package, which is worth a note.

    Raises Refused for anything of the standard library, torch or numpy that isn't on the list, and for names that
    aren't plain identifiers.
    """
    if not _plain(module, name):
        raise Refused("which is no plain module and name")
    full = f"{module}.{name}"
    if full in _SILENT:
        return True
    if full.startswith(_SILENT_PACKAGES) or (module == "typing" and name[0].isupper()):
        return True
    if module.partition(".")[0] in _OURS_TO_KNOW:
        raise Refused("which no checkpoint needs")
    return False


def may_be_called(module: str, name: str) -> bool:
    """Whether `name(…)` is known, or reads as making an instance of a class (enums, Path, …): a class's name begins
    with a capital. A function of another package could return anything, so what it stands for can't be told."""
    full = f"{module}.{name}"
    return full in _SILENT or full.startswith(_SCRIPTED) or name.lstrip("_")[:1].isupper()


def _plain(module: str, name: str) -> bool:
    parts = [*module.split("."), name]
    return len(module) + len(name) <= 1000 and all(part.isascii() and part.isidentifier() for part in parts)
