"""Tensors that contradict their storage, or stand for far more than the file holds."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

from tests.attacks.archives import FLOATS, legacy, torch_zip
from tests.attacks.case import Case, holding
from tests.attacks.opcodes import (
    BINPERSID,
    EMPTY_LIST,
    FALSE,
    NONE,
    ORDERED,
    TRUE,
    blob,
    call,
    group,
    integer,
    mapping,
    name,
    pickled,
    storage,
    tensor,
    text,
)

V2 = name("torch._utils", "_rebuild_tensor_v2")
MOST = (1 << 63) - 1
# (size, stride, offset) of four floats that don't exist.
VIEWS: tuple[tuple[tuple[int, ...], tuple[int, ...], int], ...] = (
    *(((5,), (1,), 0), ((4,), (1,), 1), ((4,), (2,), 0), ((2, 3), (3, 1), 0), ((1,), (1,), 4), ((), (), 4)),
    *(((-1,), (1,), 0), ((4,), (-1,), 3), ((4,), (1,), -1), ((2,), (1, 1), 0), ((2, 2), (1,), 0), ((), (1,), 0)),
    *(((MOST,), (1,), 0), ((MOST, MOST), (1, 1), 0), ((2,), (MOST,), 0), ((1 << 64,), (1,), 0), ((4,), (1,), 1 << 64)),
    *(((1 << 32, 1 << 32), (0, 1), 0), ((MOST,), (0,), 0), ((1 << 40, 1 << 40), (0, 0), 0), ((2,), (1 << 62,), 0)),
    *(((1,) * 65, (1,) * 65, 0), ((1,) * 5000, (1,) * 5000, 0), ((2,) * 64, (1,) * 64, 0), ((1,), (1,), MOST)),
    *(((4,), (1,), -MOST), ((-MOST - 1,), (1,), 0), ((1 << 120,), (1 << 120,), 1 << 120)),
)
# Arguments of _rebuild_tensor_v2 of another type.
TYPES = {
    "size-text": (storage(), integer(0), text("4"), group(integer(1)), FALSE, ORDERED),
    "size-list": (storage(), integer(0), EMPTY_LIST, group(integer(1)), FALSE, ORDERED),
    "size-none": (storage(), integer(0), NONE, group(integer(1)), FALSE, ORDERED),
    "size-bool": (storage(), integer(0), group(TRUE), group(integer(1)), FALSE, ORDERED),
    "size-float": (storage(), integer(0), group(b"G" + struct.pack(">d", 4)), group(integer(1)), FALSE, ORDERED),
    "size-nested": (storage(), integer(0), group(group(integer(4))), group(integer(1)), FALSE, ORDERED),
    "stride-none": (storage(), integer(0), group(integer(4)), group(NONE), FALSE, ORDERED),
    "offset-none": (storage(), NONE, group(integer(4)), group(integer(1)), FALSE, ORDERED),
    "offset-bool": (storage(), TRUE, group(integer(1)), group(integer(1)), FALSE, ORDERED),
    "offset-text": (storage(), text("0"), group(integer(4)), group(integer(1)), FALSE, ORDERED),
    "storage-none": (NONE, integer(0), group(integer(4)), group(integer(1)), FALSE, ORDERED),
    "storage-bytes": (blob(FLOATS), integer(0), group(integer(4)), group(integer(1)), FALSE, ORDERED),
    "storage-name": (name("torch", "FloatStorage"), integer(0), group(integer(4)), group(integer(1)), FALSE, ORDERED),
    "arguments-missing": (storage(), integer(0)),
    "arguments-none": (),
    "arguments-many": (storage(), integer(0), group(integer(4)), group(integer(1)), FALSE, ORDERED, *[NONE] * 20),
}


def pid(*parts: bytes) -> bytes:
    return group(*parts) + BINPERSID


FLOAT = name("torch", "FloatStorage")
# Persistent ids that torch never writes.
STORAGES = {
    "absent": storage("7"),
    "outside": storage("../data.pkl"),
    "absolute": storage("/etc/passwd"),
    "empty-key": storage(""),
    "pickle-as-storage": storage("../data.pkl", 1),
    "too-many": storage("0", 5),
    "negative": storage("0", -1),
    "giant": storage("0", MOST),
    "beyond-64-bits": storage("0", 1 << 70),
    "wider-type": storage("0", 4, "DoubleStorage"),
    "unknown-type": pid(text("storage"), name("torch", "float32"), text("0"), text("cpu"), integer(4)),
    "class-as-type": pid(text("storage"), name("collections", "OrderedDict"), text("0"), text("cpu"), integer(4)),
    "text-as-type": pid(text("storage"), text("FloatStorage"), text("0"), text("cpu"), integer(4)),
    "number-as-key": pid(text("storage"), FLOAT, integer(0), text("cpu"), integer(4)),
    "number-as-place": pid(text("storage"), FLOAT, text("0"), integer(0), integer(4)),
    "bool-as-count": pid(text("storage"), FLOAT, text("0"), text("cpu"), TRUE),
    "text-as-count": pid(text("storage"), FLOAT, text("0"), text("cpu"), text("4")),
    "short": pid(text("storage")),
    "long": pid(*[text("storage")] * 9),
    "other-word": pid(text("tensor"), FLOAT, text("0"), text("cpu"), integer(4)),
    "no-tuple": text("0") + BINPERSID,
    "view-outside": pid(
        *(text("storage"), FLOAT, text("0"), text("cpu"), integer(4)), group(text("v"), integer(3), integer(4))
    ),
    "view-odd": pid(text("storage"), FLOAT, text("0"), text("cpu"), integer(4), text("v")),
}


def state(value: bytes) -> bytes:
    return pickled(mapping(("a.weight", tensor()), ("b.weight", value)))


def _both(what: str, wrong: str, value: bytes, kinds: frozenset[str] = frozenset()) -> Iterator[Case]:
    zipped = Case(f"tensor-lies/{what}-zip", wrong, "refused", holding(torch_zip(state(value))), kinds=kinds)
    old = Case(f"tensor-lies/{what}-legacy", wrong, "refused", holding(legacy(state(value))), kinds=kinds)
    yield from (replace(case, forms=False) for case in (zipped, old))


def _lies() -> Iterator[Case]:
    for number, (size, stride, offset) in enumerate(VIEWS):
        wrong = f"a view {size!s:.40} {stride!s:.40} {offset} of four floats"
        yield from _both(f"view-{number:02}", wrong, tensor(size, stride, offset), frozenset({"damaged"}))
    for what, arguments in TYPES.items():
        yield from _both(what, f"_rebuild_tensor_v2 with odd arguments ({what})", call(V2, *arguments))
    for what, odd in STORAGES.items():
        if what != "view-outside":  # in a zip nobody reads it, and torch ignores it
            yield from _both(f"storage-{what}", f"an odd storage ({what})", tensor((1,), of=odd))
    old = legacy(state(tensor((1,), of=STORAGES["view-outside"])))
    yield Case("tensor-lies/storage-view-outside", "a part of a storage beyond its end", "refused", holding(old))
    twice = mapping(("a", tensor()), ("a", tensor((2,))))
    yield from _both("key-twice", "one key twice", NONE + b"0" + twice)
    yield Case("tensor-lies/key-twice-top", "one key twice", "refused", holding(torch_zip(pickled(twice))))
    number = b"}(" + text("1") + tensor() + integer(1) + tensor() + text("2") + tensor() + b"u"
    yield Case(
        "tensor-lies/key-number", "the keys 1 and '1'", "refused", holding(torch_zip(pickled(number))), forms=False
    )
    two = state(tensor((1,), of=storage("0", 4, "IntStorage")))
    yield Case("tensor-lies/two-types", "one storage with two types", "refused", holding(torch_zip(two)), forms=False)
    yield Case(
        "tensor-lies/two-types-legacy", "one storage with two types", "refused", holding(legacy(two)), forms=False
    )
    two = legacy(state(tensor((1,), of=storage("0", 2))))
    yield Case("tensor-lies/two-sizes", "one storage with two sizes", "refused", holding(two), forms=False)


def _unsupported() -> Iterator[Case]:
    sizes = group(integer(4)), group(integer(1))
    kinds = {
        "sparse": call(name("torch._utils", "_rebuild_sparse_tensor"), name("torch", "sparse_coo"), NONE),
        "csr": call(name("torch._utils", "_rebuild_sparse_csr_tensor"), name("torch", "sparse_csr"), NONE),
        "quantised": call(name("torch._utils", "_rebuild_qtensor"), storage("0", 4, "QInt8Storage"), integer(0)),
        "quantised-plain": call(V2, storage("0", 4, "QInt8Storage"), integer(0), *sizes, FALSE, ORDERED),
        "nested": call(name("torch._utils", "_rebuild_nested_tensor"), NONE),
        "meta": call(name("torch._utils", "_rebuild_meta_tensor_no_storage"), name("torch", "float32"), *sizes, FALSE),
        "meta-storage": call(V2, storage("0", 4, location="meta"), integer(0), *sizes, FALSE, ORDERED),
        "conjugate": call(V2, storage(), integer(0), *sizes, FALSE, ORDERED, mapping(("conj", TRUE))),
        "wrapper": call(name("torch._utils", "_rebuild_wrapper_subclass"), NONE),
    }
    for what, value in kinds.items():
        data = torch_zip(state(value))
        wrong = f"a {what} tensor"
        case = Case(
            f"tensor-lies/unsupported-{what}", wrong, "refused", holding(data), kinds=frozenset({"unsupported"})
        )
        if what.startswith("quantised"):  # whose storage is that of the floats beside it
            case = replace(case, kinds=frozenset({"unsupported", "damaged"}))
        yield replace(case, told="b.weight", forms=False)


def _expanded() -> Iterator[Case]:
    """A few bytes that stand for a great many."""
    for what, size, stride in (
        ("one-axis", (1 << 40,), (0,)),
        ("two-axes", (1 << 20, 1 << 20), (0, 0)),
        ("rows", (1 << 30, 4), (0, 1)),
        ("many-axes", (2,) * 36, (0,) * 36),
        ("nearly-all", ((1 << 61) - 1,), (0,)),
    ):
        for kind, file in (("zip", torch_zip), ("legacy", legacy)):
            data = file(state(tensor(size, stride)))
            wrong = f"a tensor of {size} in 16 bytes"
            must = holding(data)
            case = Case(f"tensor-lies/expanded-{what}-{kind}", wrong, "looked at", must, kinds=frozenset({"unsafe"}))
            yield replace(case, forms=kind == "zip")
    many = pickled(mapping(*((f"k{number}", tensor((20_000_000 + number,), (0,))) for number in range(10))))
    yield Case(
        "tensor-lies/expanded-together", "ten tensors of 80 MB in 16 bytes", "looked at", holding(torch_zip(many))
    )


CASES = (*_lies(), *_unsupported(), *_expanded())
