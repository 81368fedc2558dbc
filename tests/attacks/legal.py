"""Files that are legal and odd: each is read, and its values are those that torch or safetensors reads."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.attacks.archives import FLOATS, ONE, Record, entry, index, legacy, safetensors, torch_zip, zipped
from tests.attacks.case import Case, files, holding
from tests.attacks.opcodes import (
    BUILD,
    FALSE,
    NONE,
    ORDERED,
    TRUE,
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
BYTES = bytes(range(256)) * 4
BIG = 0xFFFFFFFF
VIEWS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "scalar": ((), (), 3),
    "scalar-of-one": ((1,), (1,), 3),
    "empty": ((0,), (1,), 0),
    "empty-offset": ((0, 5), (5, 1), 99),
    "empty-stride": ((3, 0), (7, 9), 0),
    "expanded": ((3, 4), (0, 1), 0),
    "expanded-scalar": ((2, 2), (0, 0), 2),
    "transposed": ((2, 2), (1, 2), 0),
    "overlapping": ((3, 2), (1, 1), 0),
    "every-other": ((2,), (2,), 1),
    "offset": ((2,), (1,), 2),
    "ones": ((1, 1, 4, 1), (77, 5, 1, 999), 0),
    "deep": ((1,) * 60 + (4,), (1,) * 61, 0),
    "stride-of-one-element": ((1,), (1 << 40,), 0),
}


def old(pickle: bytes) -> bytes:
    """With the last part that persistent ids have in legacy files."""
    return pickle.replace(integer(4) + b"tQ", integer(4) + NONE + b"tQ")


def state(*more: tuple[str, bytes]) -> bytes:
    return pickled(mapping(("a.weight", tensor()), *more))


def _read(what: str, wrong: str, data: bytes, truth: str = "torch", forms: bool = True) -> Case:
    name = "x.safetensors" if truth == "safetensors" else "x.pt"
    return Case(f"legal/{what}", wrong, "read", holding(data, name), name, truth=truth, forms=forms)


def _views() -> Iterator[Case]:
    for what, (size, stride, offset) in VIEWS.items():
        body = state(("b.weight", tensor(size, stride, offset)))
        yield _read(f"view-{what}-zip", f"a view {size} {stride} {offset}", torch_zip(body))
        yield _read(f"view-{what}-legacy", f"a view {size} {stride} {offset}", legacy(old(body)), forms=False)


def _values() -> Iterator[Case]:
    sizes = group(integer(2)), group(integer(1))
    typed = call(
        name("torch._utils", "_rebuild_tensor_v3"),
        storage("1", 16, "UntypedStorage"),
        integer(0),
        *sizes,
        FALSE,
        ORDERED,
        name("torch", "int64"),
    )
    parameter = call(name("torch._utils", "_rebuild_parameter"), tensor((2,)), TRUE, ORDERED)
    values = {
        "parameter": parameter,
        "parameter-state": call(
            name("torch._utils", "_rebuild_parameter_with_state"), tensor((2,)), TRUE, ORDERED, mapping(("x", NONE))
        ),
        "untyped": typed,
        "cuda": tensor((2,), of=storage("0", 4, location="cpu")),
        "requires-grad": call(V2, storage(), integer(1), *sizes, TRUE, ORDERED),
        "metadata": call(V2, storage(), integer(1), *sizes, FALSE, ORDERED, mapping()),
        "half": call(V2, storage("1", 8, "HalfStorage"), integer(1), *sizes, FALSE, ORDERED),
        "bfloat16": call(V2, storage("1", 8, "BFloat16Storage"), integer(1), *sizes, FALSE, ORDERED),
        "byte": call(V2, storage("1", 16, "ByteStorage"), integer(5), *sizes, FALSE, ORDERED),
        "long": call(V2, storage("1", 2, "LongStorage"), integer(0), *sizes, FALSE, ORDERED),
        "double": call(V2, storage("1", 2, "DoubleStorage"), integer(0), *sizes, FALSE, ORDERED),
    }
    for what, value in values.items():
        yield _read(
            f"value-{what}",
            f"a tensor of a rarer kind ({what})",
            torch_zip(state(("b.weight", value)), {"0": FLOATS, "1": FLOATS}),
        )
    ordered = ORDERED + b"(" + text("a") + tensor() + text("b") + tensor((2,)) + b"u"
    with_metadata = ordered + mapping(("_metadata", call(name("collections", "OrderedDict")))) + BUILD
    yield _read("ordered", "an OrderedDict", torch_zip(pickled(ordered)))
    yield _read("ordered-metadata", "an OrderedDict with metadata", torch_zip(pickled(with_metadata)))
    for protocol in (2, 3, 4, 5):
        body = pickled(mapping(("a", tensor()), ("b", tensor((2,), (2,)))), protocol)
        yield _read(f"protocol-{protocol}", f"pickle protocol {protocol}", torch_zip(body), forms=False)


def _zips() -> Iterator[Case]:
    body = state(("b.weight", tensor((2, 2), (1, 2))))
    pickle, data = Record("archive/data.pkl", body), Record("archive/data/0", FLOATS)
    version = Record("archive/version", b"3\n")
    wide = struct.pack("<2H2Q", 1, 16, 16, 16)
    told = {"size": BIG, "packed": BIG}
    zips = {
        "no-byteorder": zipped([pickle, data, version]),
        "storage-first": zipped([data, pickle, version]),
        "spare-storage": zipped([pickle, data, Record("archive/data/77", b"unused"), version]),
        "comment": zipped([pickle, data, version], comment=b"a comment"),
        "empty-storage": zipped([pickle, data, Record("archive/data/1", b""), version]),
        "zip64": zipped([pickle, Record("archive/data/0", FLOATS, False, told, told, b"", wide, wide), version]),
        "extra": zipped([pickle, Record("archive/data/0", FLOATS, local_extra=b"FB\x04\0ZZZZ"), version]),
        "long-storage": zipped([pickle, Record("archive/data/0", FLOATS + BYTES), version]),
    }
    for what, made in zips.items():
        # torch 2.13 refuses a record that is longer than its storage; older versions read it
        yield _read(f"zip-{what}", f"a rarer kind of zip ({what})", made, "" if what == "long-storage" else "torch")
    yield _read("zip-deflated", "compressed records", torch_zip(body, deflated=True), truth="")
    yield _read("zip-root", "another name of the folder", torch_zip(body, root="my model é/"))
    yield _read(
        "zip-no-checksums",
        "no checksums",
        zipped([Record(r.name, r.data, local={"crc": 0}, central={"crc": 0}) for r in (pickle, data, version)]),
    )
    view = call(
        V2,
        group(
            text("storage"),
            name("torch", "FloatStorage"),
            text("0"),
            text("cpu"),
            integer(4),
            group(text("v"), integer(1), integer(2)),
        )
        + b"Q",
        integer(0),
        group(integer(2)),
        group(integer(1)),
        FALSE,
        ORDERED,
    )
    yield _read(
        "legacy-view", "a part of a storage, as torch 0.3 saved it", legacy(state(("b.weight", view))), truth=""
    )
    two = pickled(mapping(("a", tensor()), ("b", tensor(of=storage("1")))))
    yield _read("legacy-two", "two storages", legacy(old(two), ((4, FLOATS), (4, FLOATS[::-1]))))


def _safetensors() -> Iterator[Case]:
    a, b = entry(0, 8), entry(8, 16)
    headers: dict[str, bytes] = {
        "order": safetensors({"b": b, "a": a}, FLOATS),
        "blanks": safetensors(b'  {"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}   '[2:], FLOATS),
        "metadata-empty": safetensors({"__metadata__": {}, "a": a, "b": b}, FLOATS),
        "metadata": safetensors({"__metadata__": {"format": "pt", "": ""}, "a": a, "b": b}, FLOATS),
        "scalar": safetensors({"a": entry(0, 4, []), "b": entry(4, 16)}, FLOATS),
        "empty-first": safetensors({"a": entry(0, 0, [0]), "b": entry(0, 16)}, FLOATS),
        "empty-last": safetensors({"a": entry(0, 16), "b": entry(16, 16, [5, 0, 2])}, FLOATS),
        "empty-only": safetensors({"a": entry(0, 0, [0, 3])}),
        "unaligned": safetensors({"a": entry(0, 1, [1], "U8"), "b": entry(1, 13)}, FLOATS[:13]),
        "escaped-key": safetensors(b'{"\\u0061\\u00e9":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', FLOATS),
        "unicode-key": safetensors('{"é ☃":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'.encode(), FLOATS),
        "many-axes": safetensors({"a": entry(0, 16, [1] * 60 + [4])}, FLOATS),
        "bool": safetensors({"a": entry(0, 4, [4], "BOOL")}, b"\0\1\0\1"),
        "half": safetensors({"a": entry(0, 16, [8], "F16"), "b": entry(16, 32, [8], "BF16")}, FLOATS * 2),
        "integers": safetensors({"a": entry(0, 8, [1], "I64"), "b": entry(8, 16, [4], "I16")}, FLOATS),
    }
    for what, data in headers.items():
        yield _read(f"safetensors-{what}", f"a rarer kind of header ({what})", data, "safetensors")
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    shards = {first: ONE, second: safetensors({"v": entry(0, 16)}, FLOATS)}
    source = "model.safetensors.index.json"
    told = index({"v": second, "w": first}, extra={"a": [1, None]})
    yield Case(
        "legal/index", "an index in another order, with more in it", "read", files({source: told, **shards}), source
    )


def _folders() -> Iterator[Case]:
    shard = "model-00001-of-00001.safetensors"
    weights = {"model.safetensors.index.json": index({"w": shard}), shard: ONE}
    folders = {
        "one": {"model.safetensors": ONE, "notes.txt": b"notes"},
        "index": weights,
        "several": {**weights, "pytorch_model.bin": torch_zip(), "x.pt": torch_zip(), "optimizer.pt": b""},
        "many": {"model.safetensors": ONE, **{f"x{number}.pt": b"" for number in range(9)}},
        "config": {"model.safetensors": ONE, "config.json": b'{"a": {"b": {}}, "c": [{"d": 1e999}], "e": {}}'},
        "paddlenlp": {"model.safetensors": ONE, "config.json": b'{"paddlenlp_version": "2.6.1"}'},
    }
    for what, contents in folders.items():
        yield Case(f"legal/folder-{what}", f"a folder ({what})", "read", files(contents), ".", forms=False)


CASES = (*_views(), *_values(), *_zips(), *_safetensors(), *_folders())
