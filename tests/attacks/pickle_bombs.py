"""Small pickles that ask for much: memory, time, depth; and ones that break off or contradict themselves."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.attacks.archives import legacy, torch_zip
from tests.attacks.case import Case, holding
from tests.attacks.opcodes import (
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    MARK,
    NEWOBJ,
    NONE,
    ORDERED,
    POP,
    REDUCE,
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
    stack_name,
    storage,
    tensor,
    text,
)

TWO = ("w", tensor()), ("v", tensor((2, 2), (2, 1)))


def beside(body: bytes, *more: tuple[str, bytes]) -> bytes:
    """A state dict of two tensors with something else in it."""
    return pickled(mapping(*TWO, ("x", body), *more), 4)


def _refused(what: str, wrong: str, pickle: bytes | Callable[[], bytes], heavy: bool = False) -> Iterator[Case]:
    """The pickle in both kinds of file."""
    for kind, file in (("zip", torch_zip), ("legacy", legacy)):

        def build(file: Callable[..., bytes] = file) -> bytes:
            return file(pickle if isinstance(pickle, bytes) else pickle(), **_small(file))

        case = Case(f"pickle-bombs/{what}-{kind}", f"{wrong}, in a {kind} file", "refused", holding(build), forms=False)
        yield replace(case, lines=(("inspect", "{case}/x.pt", "--json"),)) if heavy else case


def _small(file: Callable[..., bytes]) -> dict[str, bool]:
    return {"deflated": True} if file is torch_zip else {}


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


# An argument that is longer than the file, or of negative length.
LENGTHS = {
    "BINUNICODE": b"X" + u32(0xFFFFFFFF),
    "BINUNICODE8": b"\x8d" + u64(1 << 62),
    "SHORT_BINUNICODE": b"\x8c\xffab",
    "BINSTRING": b"T" + struct.pack("<i", 1 << 30),
    "BINSTRING-negative": b"T" + struct.pack("<i", -1),
    "SHORT_BINSTRING": b"U\xffab",
    "BINBYTES": b"B" + u32(0xFFFFFFFF),
    "BINBYTES8": b"\x8e" + u64((1 << 64) - 1),
    "BYTEARRAY8": b"\x96" + u64(1 << 40),
    "LONG1": b"\x8a\xff" + bytes(255),
    "LONG4": b"\x8b" + u32(1 << 20) + bytes(1 << 20),
    "LONG4-negative": b"\x8b" + struct.pack("<i", -5),
    "FRAME": b"\x95" + u64(1 << 60) + NONE,
    "INT-digits": b"I" + b"9" * 4000 + b"\n",
    "LONG-digits": b"L" + b"9" * 4000 + b"L\n",
    "INT-signs": b"I+-5\n",
    "INT-minus": b"I-\n",
    "INT-words": b"I0x10\n",
    "INT-underscore": b"I1_0\n",
    "LONG-empty": b"LL\n",
    "FLOAT": b"Fone\n",
    "FLOAT-long": b"F" + b"1" * 5000 + b"\n",
    "STRING-unquoted": b"Sabc\n",
    "STRING-escape": b"S'\\x4'\n",
    "UNICODE-escape": b"V\\u12\n",
    "UNICODE-range": b"V\\U00110000\n",
    "line-without-end": b"I" + b"1" * 70_000,
    "GLOBAL-without-end": b"c" + b"a" * 70_000,
    "GET-word": b"gabc\n",
    "GET-absent": b"g99\n",
    "GET-long": b"g" + b"1" * 100 + b"\n",
    "BINGET-absent": b"h\x63",
    "LONG_BINGET-absent": b"j" + u32(99),
    "PUT-word": b"Np-1\n",
    "BINUNICODE-utf8": b"X" + u32(2) + b"\xff\xfe",
    "protocol-6": b"\x80\x06N",
    "protocol-255": b"\x80\xffN",
    "unknown-opcode": b"\xff",
    "zero-opcode": b"\x00",
    "STOP-empty": b"0000.",
    "POP-empty": POP * 100,
    "TUPLE-without-mark": b"t",
    "POP_MARK-without-mark": b"1",
    "DICT-odd": MARK + NONE + b"d",
    "SETITEMS-odd": EMPTY_DICT + MARK + NONE + b"u",
    "SETITEM-on-text": text("a") + NONE + NONE + b"s",
    "APPEND-on-tuple": EMPTY_TUPLE + NONE + b"a",
    "APPENDS-on-number": integer(1) + MARK + b"e",
    "ADDITEMS-on-list": EMPTY_LIST + MARK + b"\x90",
    "BUILD-on-dict": EMPTY_DICT + EMPTY_DICT + b"b",
    "BUILD-twice": name("argparse", "Namespace") + EMPTY_TUPLE + NEWOBJ + (EMPTY_DICT + b"b") * 2,
    "NEWOBJ-of-text": text("a") + EMPTY_TUPLE + NEWOBJ,
    "NEWOBJ-list": name("argparse", "Namespace") + EMPTY_LIST + NEWOBJ,
    "NEWOBJ_EX-kwargs": name("argparse", "Namespace") + EMPTY_TUPLE + EMPTY_LIST + b"\x92",
    "OBJ-empty": MARK + b"o",
    "STACK_GLOBAL-of-numbers": integer(1) + integer(2) + b"\x93",
    "STACK_GLOBAL-of-nothing": b"\x93",
    "left-over": NONE + NONE,
    "open-mark": NONE + MARK,
}


def _contradictions() -> Iterator[Case]:
    for what, body in LENGTHS.items():
        yield from _refused(what, f"an impossible instruction ({what})", b"\x80\x04" + body + b".")
        if what in ("INT-signs", "LONG1", "BINUNICODE"):
            yield from _refused(f"{what}-inside", f"an impossible instruction ({what}) inside", beside(body))


MANY = 9_000_000


def laughs(depth: int) -> bytes:
    """A list in itself twice, and that twice …: 2**depth values on paper."""
    body = sequence(text("ha")) + put(0)
    for level in range(depth):
        body += POP + sequence(get(level), get(level)) + put(level + 1)
    return body


# What there would be many of; each is repeated until the pickle has some 60 MB, or stops being a small file.
REPEATED = {
    "none-popped": NONE + POP,
    "none": NONE,
    "empty-list": EMPTY_LIST,
    "empty-dict": EMPTY_DICT,
    "empty-set": b"\x8f",
    "empty-tuple": EMPTY_TUPLE,
    "tuple-of-one": EMPTY_TUPLE + b"\x85",
    "nested-tuple": b"\x85",
    "mark": MARK,
    "mark-and-pop": MARK + b"1",
    "mark-and-tuple": MARK + b"t",
    "integers": b"M\xff\xff",
    "floats": b"G" + struct.pack(">d", 1.5),
    "texts": b"\x8c\x02ab",
    "memo": NONE + b"\x94",
    "calls": name("collections", "OrderedDict") + EMPTY_TUPLE + REDUCE,
    "dups": b"2",
    "instances": name("a.b", "C") + EMPTY_TUPLE + NEWOBJ,
    "inst": MARK + b"ia\nB\n",
}


def _repeated() -> Iterator[Case]:
    for what, code in REPEATED.items():

        def build(code: bytes = code) -> bytes:
            return b"\x80\x04" + EMPTY_TUPLE + code * ((60 << 20) // len(code)) + b"."

        both = tuple(_refused(f"many-{what}", f"60 MB of {what}", build, heavy=True))
        yield from both if what in ("none-popped", "memo", "calls") else both[:1]


def _names() -> bytes:
    return b"\x80\x02" + b"".join(b"ca.b%d\nC\n0" % number for number in range(2_000_000)) + b"N."


def _persistent() -> bytes:
    one = storage("0") + put(0) + POP
    again = group(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(4)) + put(1) + POP
    return b"\x80\x02" + one + again + (get(1) + b"Q0") * 2_000_000 + tensor() + b"."


def _resources() -> Iterator[Case]:
    yield from _refused("memo-place", "a memo place far out", b"\x80\x02N" + put(0x0FFFFFFF) + NONE + b".")
    yield from _refused("names", "two million names", _names, heavy=True)
    yield from _refused("persistent", "two million persistent ids", _persistent, heavy=True)
    wide = "\U0001f600" + "a" * 50_000_000
    yield from _refused("wide-text", "a text that takes 4 bytes a letter", lambda: beside(text(wide)), heavy=True)
    yield from _refused("long-pickle", "a pickle of 100 MB", lambda: beside(blob(bytes(100 << 20))), heavy=True)
    many = lambda: pickled(mapping(*((f"k{number}", tensor()) for number in range(150_000))))  # noqa: E731
    yield from _refused("tensors", "150,000 tensors", many, heavy=True)
    shared = lambda: pickled(tensor() + put(0) + POP + mapping(*((f"k{n}", get(0)) for n in range(400_000))))  # noqa: E731
    yield from _refused("keys", "400,000 keys of one tensor", shared, heavy=True)
    entries = lambda: pickled(  # noqa: E731
        mapping(*((f"k{n}", tensor()) for n in range(3000)))
        + put(0)
        + POP
        + mapping(*((f"model{number}", get(0)) for number in range(3000)))
    )
    yield from _refused("entries", "3,000 entries that are one state dict of 3,000", entries, heavy=True)
    others = lambda: pickled(  # noqa: E731
        sequence(*(EMPTY_LIST for _ in range(200_000)))
        + put(0)
        + POP
        + mapping(("model", mapping(*TWO)), *((f"e{number}", get(0)) for number in range(20_000)))
    )
    yield from _refused("shared-entries", "20,000 entries that are one list of 200,000", others, heavy=True)
    dicts = lambda: pickled(  # noqa: E731
        mapping(*((f"k{n}", NONE) for n in range(200_000)))
        + put(0)
        + POP
        + mapping(("model", mapping(*TWO)), *((f"e{number}", get(0)) for number in range(20_000)))
    )
    yield from _refused("shared-dicts", "20,000 entries that are one dict of 200,000", dicts, heavy=True)
    nest = call(name("torch._utils", "_rebuild_sparse_tensor"), NONE)
    for _ in range(60):
        nest = call(name("torch._utils", "_rebuild_parameter"), nest, TRUE, ORDERED)
    yield from _refused("nested-parameters", "a parameter of a parameter of …, 60 deep", pickled(mapping(("w", nest))))
    deep = b"".join(name("torch._utils", "_rebuild_parameter") for _ in range(30_000))
    deep = MARK.join([deep[:0]]) + (name("torch._utils", "_rebuild_parameter")) * 30_000 + NONE + b"\x85R" * 30_000
    yield from _refused("deep-parameters", "parameters 30,000 deep", pickled(mapping(("w", deep))))


def _read(what: str, wrong: str, pickle: bytes | Callable[[], bytes], **more: str) -> Case:
    """What looks like a bomb and is bounded: it is read, quickly."""
    build = lambda: torch_zip(pickle if isinstance(pickle, bytes) else pickle())  # noqa: E731
    return Case(f"pickle-bombs/{what}", wrong, "read", holding(build), **more)


def config(body: bytes) -> bytes:
    """The body as a training config."""
    return pickled(mapping(("model", mapping(*TWO)), ("cfg", body), ("args", body)), 4)


def omegaconf(pairs: int) -> bytes:
    """An omegaconf node with a large state, 100,000 times."""
    state = mapping(*((f"k{number}", NONE) for number in range(pairs)), ("_val", integer(1)))
    node = name("omegaconf.nodes", "AnyNode") + EMPTY_TUPLE + NEWOBJ + state + b"b"
    return node + put(0) + POP + sequence(get(0) * 100_000)


def chain(length: int) -> bytes:
    """Lists in lists that hold the same ones: as deep as plain values go, and wide."""
    body = EMPTY_LIST + put(0)
    for level in range(length):
        body += POP + sequence(get(level) * 1000) + put(level + 1)
    return body


def _bounded() -> Iterator[Case]:
    yield _read("laughs", "a billion laughs", config(laughs(100)))
    yield _read("laughs-quadratic", "lists of a thousand lists of a thousand …", config(chain(150)))
    yield _read("deep-list", "lists 100,000 deep", config(EMPTY_LIST * 100_000 + b"a" * 99_999))
    yield _read("deep-tuple", "tuples 100,000 deep", config(EMPTY_TUPLE + b"\x85" * 100_000))
    yield _read("deep-dict", "dicts 5,000 deep", config((EMPTY_DICT + text("k")) * 5000 + NONE + b"s" * 5000))
    yield _read("cycle", "a list that holds itself", config(EMPTY_LIST + put(0) + get(0) + b"a"))
    yield _read("cycle-dict", "a dict that holds itself", config(EMPTY_DICT + put(0) + text("k") + get(0) + b"s"))
    yield _read("omegaconf", "a large omegaconf node, many times", lambda: config(omegaconf(50_000)))
    long = text("x" * 5_000_000) + put(0) + POP + sequence(get(0) * 5000)
    yield _read("long-text", "a text of 5 MB, 5,000 times", lambda: config(long))
    collide = EMPTY_DICT + MARK + b"".join(integer(n * ((1 << 61) - 1)) + NONE for n in range(1, 20_000)) + b"u"
    yield _read("colliding-keys", "20,000 keys of one hash", lambda: config(collide))
    deep_key = EMPTY_DICT + EMPTY_TUPLE + b"\x85" * 100_000 + NONE + b"s"
    yield _read("tuple-key", "a key that is a tuple 100,000 deep", config(deep_key))
    yield _read(
        "odd-keys",
        "keys of every kind",
        config(EMPTY_DICT + MARK + NONE * 2 + TRUE + NONE + b"G" + bytes(8) + NONE + b"u"),
    )
    yield _read("memo-place-used", "a memo place far out", beside(NONE + put(0xFFFFFFF0) + POP + get(0xFFFFFFF0)))
    yield _read(
        "same-value",
        "half a million references to one list",
        lambda: config(EMPTY_LIST + put(0) + POP + sequence(get(0) * 500_000)),
    )
    yield _read(
        "nested-names",
        "ten thousand unknown classes",
        lambda: config(sequence(*(stack_name("a.b", f"C{n}") for n in range(10_000)))),
    )


CASES = (*_contradictions(), *_repeated(), *_resources(), *_bounded())
