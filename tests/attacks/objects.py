"""What lies beside the weights: configs of every make, numbers of numpy, collections; all legal, none of it run."""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Iterator

from tests.attacks.archives import FLOATS, Record, entry, legacy, safetensors, torch_zip
from tests.attacks.case import UNSUPPORTED, Case, holding
from tests.attacks.opcodes import (
    BUILD,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    FALSE,
    MARK,
    NEWOBJ,
    NONE,
    ORDERED,
    TRUE,
    blob,
    call,
    get,
    group,
    integer,
    mapping,
    name,
    pickled,
    put,
    sequence,
    storage,
    tensor,
    text,
)

V2 = name("torch._utils", "_rebuild_tensor_v2")
SIZES = group(integer(2)), group(integer(1))
ANY_NODE = name("omegaconf.nodes", "AnyNode")


def made(target: bytes, state: bytes) -> bytes:
    """An object with a state."""
    return target + EMPTY_TUPLE + NEWOBJ + state + BUILD


def number(code: str, data: bytes, order: str = "<", built: bool = True) -> bytes:
    """A number of numpy's."""
    state = group(integer(3), text(order), NONE, NONE, NONE, integer(-1), integer(-1), integer(0)) + BUILD
    kind = call(name("numpy", "dtype"), text(code), FALSE, TRUE) + (state if built else b"")
    return call(name("numpy.core.multiarray", "scalar"), kind, blob(data))


def namespace(*pairs: tuple[str, bytes]) -> bytes:
    """An argparse.Namespace as protocol 1 writes it."""
    made_by = name("copy_reg", "_reconstructor"), name("argparse", "Namespace"), name("__builtin__", "object")
    return call(*made_by, NONE) + mapping(*pairs) + BUILD


NUMBERS = {
    "f4": number("f4", struct.pack("<f", 0.5)),
    "f8-big": number("f8", struct.pack(">d", 0.5), ">"),
    "nan": number("f8", struct.pack("<d", float("nan"))),
    "i8": number("i8", bytes(8)),
    "b1": number("b1", b"\1", "|", built=False),
    "short": number("f8", b"\0"),
    "unknown": number("M8", bytes(8)),
    "no-type": call(name("numpy", "float32")),
    "odd": call(name("numpy.core.multiarray", "scalar"), text("f4"), blob(bytes(4))),
    "bare": call(name("numpy.core.multiarray", "scalar")),
}
VALUES = {
    "enum": call(name("fairseq.dataclass.constants", "DDP_BACKEND_CHOICES"), text("c10d")),
    "int": call(name("builtins", "int"), integer(3)),
    "complex": call(name("builtins", "complex"), integer(1), integer(2)),
    "set": call(name("builtins", "set"), sequence(integer(1), text("a"))),
    "set-opcode": b"\x8f" + MARK + integer(1) + text("a") + b"\x90",
    "frozenset": MARK + integer(1) + b"\x91",
    "size": call(name("torch", "Size"), group(integer(2), integer(3))),
    "device": call(name("torch", "device"), text("cuda")),
    "bytes": blob(b"\0\1"),
    "class": name("mine.models", "Model"),
    "storage": storage(),
    "tensor": tensor(),
    "dict": EMPTY_DICT,
    "list": EMPTY_LIST,
    "tuple": group(integer(1), group(EMPTY_DICT, NONE)),
    "counter": call(name("collections", "Counter"), mapping(("a", integer(2)))),
    "ordered-pairs": call(
        name("collections", "OrderedDict"), sequence(sequence(text("a"), integer(1)), group(text("b"), NONE), NONE)
    ),
    "ordered-text": call(name("collections", "OrderedDict"), text("ab")),
    "default": call(name("collections", "defaultdict"), name("builtins", "int")) + text("a") + integer(1) + b"s",
    "keys": EMPTY_DICT
    + MARK
    + integer(1 << 100)
    + NONE
    + FALSE
    + NONE
    + group()
    + NONE
    + b"G"
    + bytes(8)
    + NONE
    + b"u",
    "cycle": EMPTY_LIST + put(77) + get(77) + b"a",
    "deep": 300 * EMPTY_LIST + 299 * b"a",
    "long": text(20_000 * "long "),
    "two-states": made(name("types", "SimpleNamespace"), group(mapping(("a", NONE)), mapping(("b", TRUE)))),
}


def _configs() -> Iterator[tuple[str, str, bytes]]:
    """(what, entry that is taken for a config by its name, value)"""
    yield "namespace", "args", namespace(("arch", text("xlmr")), ("x", namespace()))
    nodes = {"arch": made(ANY_NODE, mapping(("_val", text("xlmr")))), "empty": made(ANY_NODE, EMPTY_DICT)}
    config = made(name("omegaconf.dictconfig", "DictConfig"), mapping(("_content", mapping(*nodes.items()))))
    listed = made(name("omegaconf.listconfig", "ListConfig"), mapping(("_content", sequence(integer(1), NONE))))
    yield "omegaconf", "cfg", mapping(("model", config), ("list", listed))
    deep = 205 * (ANY_NODE + EMPTY_TUPLE + NEWOBJ + EMPTY_DICT + text("_val")) + NONE + 205 * (b"s" + BUILD)
    yield "omegaconf-deep", "cfg", mapping(("x", deep))
    shared = sequence(made(ANY_NODE, mapping(("_val", integer(1)))) + put(5), get(5))
    yield "omegaconf-shared", "cfg", mapping(("x", shared))
    yield "numbers", "hparams", mapping(*NUMBERS.items())
    yield "values", "params", mapping(*VALUES.items())
    for what, value in VALUES.items():
        yield f"value-{what}", "config", mapping(("x", value), ("y", sequence(value)))


def _of_type(function: bytes, *arguments: bytes) -> bytes:
    """A subclass of Tensor."""
    kind = name("mine.tensors", "Weight")
    return call(name("torch._tensor", "_rebuild_from_type_v2"), function, kind, group(*arguments), EMPTY_DICT)


def _tensors() -> Iterator[tuple[str, bytes, frozenset[str]]]:
    """Tensors as torch pickles them in rarer cases. (what, value, kinds of error)"""
    plain, read = (storage(), integer(1), *SIZES, FALSE, ORDERED), frozenset[str]()
    yield "subclass", _of_type(V2, *plain), read
    yield "subclass-parameter", _of_type(name("torch._utils", "_rebuild_parameter"), tensor((2,)), TRUE, ORDERED), read
    v3 = name("torch._utils", "_rebuild_tensor_v3")
    yield "subclass-v3", _of_type(v3, *plain, name("torch", "float32")), read
    yield "subclass-other", _of_type(name("mine.tensors", "Weight"), *plain), UNSUPPORTED
    yield "subclass-short", call(name("torch._tensor", "_rebuild_from_type_v2"), V2), UNSUPPORTED
    size = call(name("torch", "Size"), group(integer(2)))
    yield "size", call(V2, storage(), integer(1), size, group(integer(1)), FALSE, ORDERED), read
    quantised = call(V2, storage("1", 4, "QInt8Storage"), integer(0), *SIZES, FALSE, ORDERED)
    yield "quantised", quantised, UNSUPPORTED
    no_storage = call(v3, NONE, integer(1), *SIZES, FALSE, ORDERED, name("torch", "float32"))
    yield "no-storage", no_storage, frozenset({"damaged"})


def _of_instructions(count: int, body: bytes) -> bytes:
    """A pickle of so many instructions."""
    pairs, one = divmod(count - sum(1 for _ in pickletools.genops(pickled(body))), 2)
    return pickled((MARK + NONE + b"1" + (pairs - 1) * b"N0" if one else pairs * b"N0") + body)


def _written_by() -> Iterator[tuple[str, tuple[tuple[str, bytes], ...]]]:
    """What tells who wrote a checkpoint: (who, entries beside the model's)"""
    history = ("optimizer_history", EMPTY_LIST)
    yield "fairseq-args", (history, ("args", namespace(("arch", text("xlmr_base")))))
    yield "fairseq-omegaconf", (history, ("cfg", made(name("omegaconf.dictconfig", "DictConfig"), EMPTY_DICT)))
    yield "fairseq-cfg", (history, ("args", NONE), ("cfg", mapping(("model", EMPTY_DICT))))
    words = (f"dico_{each}" for each in ("id2word", "word2id", "counts"))
    yield "xlm", (("params", EMPTY_DICT), *((each, EMPTY_DICT) for each in words))
    yield "lightning", (("pytorch-lightning_version", text("2.1.0")), ("hyper_parameters", EMPTY_DICT))


def _cases() -> Iterator[Case]:
    yield from _beside()
    yield from _others()


def _beside() -> Iterator[Case]:
    model = ("model", mapping(("a.weight", tensor()), ("b.weight", tensor((2,)))))
    for what, place, config in _configs():
        body = pickled(mapping(model, (place, config)), 4)
        for kind, data in (("zip", torch_zip(body)), ("legacy", legacy(body))):
            yield Case(f"legal/config-{what}-{kind}", f"a config ({what})", "read", holding(data), forms=False)
    for who, entries in _written_by():
        body = pickled(mapping(model, *entries))
        for kind, data in (("zip", torch_zip(body)), ("legacy", legacy(body))):
            yield Case(f"legal/written-by-{who}-{kind}", f"written by {who}", "read", holding(data), forms=False)


def _others() -> Iterator[Case]:
    newer = torch_zip(more=[Record("archive/.format_version", b"1")])
    yield Case("legal/written-by-torch", "a zip with a format version", "read", holding(newer), forms=False)
    tied = safetensors(
        {"__metadata__": {"ckptconv.tied": '{"b.weight": "a.weight"}'}, "a.weight": entry(0, 16)}, FLOATS
    )
    name_of = "x.safetensors"
    yield Case("legal/tied", "a tensor of two names", "read", holding(tied, name_of), name_of, forms=False)
    for what, value, kinds in _tensors():
        data = torch_zip(pickled(mapping(("a.weight", tensor()), ("b.weight", value))), {"0": FLOATS, "1": FLOATS})
        group_of = "tensor-lies" if kinds else "legal"
        must = "refused" if kinds else "read"
        yield Case(f"{group_of}/tensor-{what}", f"a tensor ({what})", must, holding(data), kinds=kinds, forms=False)
    exact = torch_zip(_of_instructions(1 << 16, mapping(("w", tensor()))), deflated=True)
    yield Case("legal/instructions", "a pickle of 65,536 instructions", "read", holding(exact), forms=False)


CASES = tuple(_cases())
