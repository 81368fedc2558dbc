"""safetensors files whose header lies, or isn't one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.attacks.archives import FLOATS, entry, safetensors, torch_zip
from tests.attacks.case import Case, holding

MOST = (1 << 64) - 1
A = entry(0, 16)
E8 = entry(0, 8)


def lone(**fields: Any) -> bytes:
    """One tensor of four floats; its fields lie."""
    return safetensors({"a": {**A, **fields}}, FLOATS)


def without(field: str) -> bytes:
    return safetensors({"a": {key: value for key, value in A.items() if key != field}}, FLOATS)


FILES: dict[str, bytes | Callable[[], bytes]] = {
    "length-giant": safetensors({"a": A}, FLOATS, MOST),
    "length-limit": safetensors({"a": A}, FLOATS, 100_000_001),
    "length-100MB": safetensors({"a": A}, FLOATS, 100_000_000),
    "length-negative": safetensors({"a": A}, FLOATS, 1 << 63),
    "length-short": safetensors({"a": A}, FLOATS, 20),
    "length-long": safetensors({"a": A}, FLOATS, 70),
    "length-zero": safetensors({"a": A}, FLOATS, 0),
    "length-one": safetensors({"a": A}, FLOATS, 1),
    "length-data": safetensors(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}' + FLOATS, b""),
    "empty": b"",
    "seven-bytes": b"\x10\0\0\0\0\0\0",
    "eight-bytes": b"\x10\0\0\0\0\0\0\0",
    "brace-only": safetensors(b"{"),
    "list": safetensors(b"[]"),
    "number": safetensors(b"1"),
    "null": safetensors(b"null"),
    "text": safetensors(b'"a"'),
    "two-values": safetensors(b"{}{}"),
    "trailing-comma": safetensors(b'{"a":1,}'),
    "comment": safetensors(b"{/**/}"),
    "single-quotes": safetensors(b"{'a':1}"),
    "utf-16": safetensors('{"a":1}'.encode("utf-16")),
    "utf-8-bad": safetensors(b'{"\xff\xfe":1}'),
    "utf-8-overlong": safetensors(b'{"\xc0\x80":1}'),
    "utf-8-surrogate": safetensors(b'{"\xed\xa0\x80":1}'),
    "bom": safetensors(b"\xef\xbb\xbf{}"),
    "key-twice": safetensors(
        b'{"a":' + json.dumps(E8).encode() + b',"a":' + json.dumps(entry(8, 16)).encode() + b"}", FLOATS
    ),
    "key-twice-escaped": safetensors(
        b'{"a":' + json.dumps(E8).encode() + b',"\\u0061":' + json.dumps(entry(8, 16)).encode() + b"}", FLOATS
    ),
    "field-twice": safetensors(b'{"a":{"dtype":"F32","dtype":"I32","shape":[4],"data_offsets":[0,16]}}', FLOATS),
    "offsets-twice": safetensors(
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16],"data_offsets":[0,16]}}', FLOATS
    ),
    "metadata-twice": safetensors(b'{"__metadata__":{},"__metadata__":{},"a":' + json.dumps(A).encode() + b"}", FLOATS),
    "metadata-nested": safetensors({"__metadata__": {"a": {"b": "c"}}, "a": A}, FLOATS),
    "metadata-number": safetensors({"__metadata__": {"a": 1}, "a": A}, FLOATS),
    "metadata-list": safetensors({"__metadata__": ["a"], "a": A}, FLOATS),
    "metadata-text": safetensors({"__metadata__": "a", "a": A}, FLOATS),
    "overlap-all": safetensors({"a": A, "b": A}, FLOATS),
    "overlap-part": safetensors({"a": entry(0, 12), "b": entry(8, 16)}, FLOATS),
    "overlap-inside": safetensors({"a": A, "b": entry(4, 8)}, FLOATS),
    "hole-first": safetensors({"a": entry(4, 16)}, FLOATS),
    "hole-between": safetensors({"a": entry(0, 4), "b": entry(8, 16)}, FLOATS),
    "hole-last": safetensors({"a": entry(0, 12)}, FLOATS),
    "behind": safetensors({"a": A}, FLOATS + b"\0"),
    "short": safetensors({"a": A}, FLOATS[:-1]),
    "no-data": safetensors({"a": A}),
    "nothing-but-data": safetensors({}, FLOATS),
    "empty-hole": safetensors({"a": A, "b": entry(20, 20)}, FLOATS),
    "offsets-reversed": lone(data_offsets=[16, 0]),
    "offsets-negative": lone(data_offsets=[-16, 0]),
    "offsets-overflow": lone(data_offsets=[MOST - 15, MOST + 1]),
    "offsets-most": lone(data_offsets=[0, MOST]),
    "offsets-float": lone(data_offsets=[0, 16.0]),
    "offsets-exponent": safetensors(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,1.6e1]}}', FLOATS),
    "offsets-bool": lone(data_offsets=[False, 16]),
    "offsets-text": lone(data_offsets=["0", "16"]),
    "offsets-three": lone(data_offsets=[0, 8, 16]),
    "offsets-one": lone(data_offsets=[0]),
    "offsets-nested": lone(data_offsets=[[0], [16]]),
    "offsets-null": lone(data_offsets=None),
    "offsets-object": lone(data_offsets={"0": 0, "1": 16}),
    "offsets-zero-digits": safetensors(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[00,16]}}', FLOATS),
    "offsets-digits": lone(data_offsets=[0, 10**4000]),
    "shape-wrong": lone(shape=[5]),
    "shape-empty": lone(shape=[]),
    "shape-zero": lone(shape=[0]),
    "shape-negative": lone(shape=[-4]),
    "shape-negative-twice": lone(shape=[-2, -2]),
    "shape-overflow": lone(shape=[1 << 62, 4, 4]),
    "shape-wraps": lone(shape=[(1 << 62) + 1, 4]),
    "shape-most": lone(shape=[MOST]),
    "shape-digits": lone(shape=[10**30]),
    "shape-float": lone(shape=[4.0]),
    "shape-bool": lone(shape=[True, 4]),
    "shape-text": lone(shape="4"),
    "shape-null": lone(shape=None),
    "shape-number": lone(shape=4),
    "shape-object": lone(shape={"0": 4}),
    "shape-nan": safetensors(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}', FLOATS),
    "shape-many": lone(shape=[1] * 100_000 + [4]),
    "dtype-unknown": lone(dtype="F31"),
    "dtype-lower": lone(dtype="f32"),
    "dtype-torch": lone(dtype="torch.float32"),
    "dtype-empty": lone(dtype=""),
    "dtype-number": lone(dtype=32),
    "dtype-null": lone(dtype=None),
    "dtype-list": lone(dtype=["F32"]),
    "dtype-long": lone(dtype="F" * 1_000_000),
    "dtype-wider": lone(dtype="F64"),
    "dtype-packed": lone(dtype="F4"),
    "no-dtype": without("dtype"),
    "no-shape": without("shape"),
    "no-offsets": without("data_offsets"),
    "tensor-number": safetensors({"a": 1}, FLOATS),
    "tensor-null": safetensors({"a": None}, FLOATS),
    "tensor-list": safetensors({"a": [1]}, FLOATS),
    "tensor-text": safetensors({"a": "F32"}, FLOATS),
    "deep-lists": safetensors(b'{"a":' + b"[" * 500_000),
    "deep-lists-closed": safetensors(b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}"),
    "deep-objects": safetensors(b'{"a":' * 200_000),
    "deep-offsets": safetensors(
        b'{"a":{"dtype":"F32","shape":' + b"[" * 900 + b"]" * 900 + b',"data_offsets":[0,16]}}', FLOATS
    ),
    "zip-behind": safetensors({"a": A}, FLOATS) + torch_zip(),
}
LARGE: dict[str, Callable[[], bytes]] = {
    "many-lists": lambda: safetensors(b'{"a":[' + b"[]," * 3_000_000 + b"[]]}"),
    "many-objects": lambda: safetensors(b'{"a":[' + b"{}," * 900_000 + b"{}]}"),
    "many-numbers": lambda: safetensors(b'{"a":[' + b"1," * 1_900_000 + b"1]}"),
    "many-keys": lambda: safetensors(json.dumps({f"k{n}": 0 for n in range(900_000)}).encode()),
    "many-tensors": lambda: safetensors({f"k{n}": entry(0, 0) for n in range(140_000)}),
    "wide-letters": lambda: safetensors(('{"a":"' + "\U0001f600" * 20_000_000 + '"}').encode()),
    "long-digits": lambda: safetensors(b'{"a":' + b"1" * 50_000_000 + b"}"),
    "long-key": lambda: safetensors({"k" * 90_000_000: A}, FLOATS),
    "blanks": lambda: safetensors(b"{" + b" " * 99_000_000),
}


def _holes(folder: Path) -> None:
    """A terabyte that isn't there."""
    size = 1 << 40
    head = safetensors({"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}})
    with (folder / "x.pt").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)


def _cases() -> Iterator[Case]:
    for what, data in FILES.items():
        yield Case(f"safetensors-lies/{what}", f"a header that lies ({what})", "refused", holding(data), forms=False)
    for what, large in LARGE.items():
        wrong = f"a header that asks for much ({what})"
        yield Case(
            f"safetensors-lies/{what}", wrong, "refused", holding(large), forms=False, commands=("inspect", "convert")
        )
    kinds = frozenset({"unsafe", "cannot_write"})
    yield Case("safetensors-lies/holes", "a terabyte of holes", "looked at", _holes, kinds=kinds, forms=False)


CASES = tuple(_cases())
