"""Paddle's pickles: calls other than Paddle's own, arrays that lie, streams of instructions that lie."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

from tests.attacks.archives import FLOATS
from tests.attacks.case import DAMAGED, NONE_OF_OURS, UNSAFE, UNSUPPORTED, Case, holding
from tests.attacks.opcodes import (
    BINPERSID,
    BUILD,
    EMPTY_DICT,
    EMPTY_LIST,
    FALSE,
    MARK,
    NEWOBJ,
    NONE,
    OBJ,
    POP,
    RUN,
    SYSTEM,
    TOUCH,
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
    text,
)

DTYPE = name("numpy", "dtype")
DATA = blob(FLOATS)


def dtype(code: str = "f4", order: str = "<", *more: bytes) -> bytes:
    """A numpy type."""
    state = group(integer(3), text(order), *(more or (NONE, NONE, NONE)), integer(-1), integer(-1), integer(0))
    return call(DTYPE, text(code), FALSE, TRUE) + state + BUILD


def array(
    shape: bytes = group(integer(4)),
    of: bytes = dtype(),
    data: bytes = DATA,
    version: bytes = integer(1),
    fortran: bytes = FALSE,
    kind: bytes = name("numpy", "ndarray"),
) -> bytes:
    """A numpy array."""
    made = call(name("numpy.core.multiarray", "_reconstruct"), kind, group(integer(0)), blob(b"b"))
    return made + group(version, shape, of, fortran, data) + BUILD


def paddle(*pairs: tuple[str, bytes], protocol: int = 4) -> bytes:
    """A file with an array, and more."""
    return pickled(mapping(("first.weight", array()), ("second.weight", array()), *pairs), protocol)


def _paddle(
    what: str, wrong: str, data: bytes, must: str = "refused", kinds: frozenset[str] = frozenset(), told: str = ""
) -> Case:
    case = Case(f"paddle/{what}", wrong, must, holding(data, "x.pdparams"), "x.pdparams", kinds, told)
    return replace(case, forms=False)


def _heavy(case: Case) -> Case:
    """Tried with one command only."""
    return replace(case, lines=(("inspect", "{case}/x.pdparams", "--stats", "--json"),))


def evaluated(source: bytes, names: bytes, *more: bytes) -> bytes:
    return call(name("builtins", "eval"), source, names, *more)


CODE_TEXT = text("__import__('os').system('touch canary')")


def _calls() -> Iterator[Case]:
    holder = mapping(("data", array()))
    yield _paddle("eval", "Paddle's own eval", paddle(("x", evaluated(text("data"), holder))), "read")
    for number, (wrong, body) in enumerate(
        {
            "eval of code": evaluated(CODE_TEXT, holder),
            "eval of code with spaces around data": evaluated(text("data "), holder),
            "eval of a call of data": evaluated(text("data()"), holder),
            "eval with another name": evaluated(text("data"), mapping(("dat", array()))),
            "eval with two names": evaluated(text("data"), mapping(("data", array()), ("__builtins__", NONE))),
            "eval with one name twice": evaluated(text("data"), mapping(("data", array()), ("data", RUN))),
            "eval with no names": evaluated(text("data"), EMPTY_DICT),
            "eval with three arguments": evaluated(text("data"), holder, EMPTY_DICT),
            "eval with one argument": call(name("builtins", "eval"), text("data")),
            "eval of something that is no array": evaluated(text("data"), mapping(("data", SYSTEM))),
            "eval of a text": evaluated(text("data"), mapping(("data", TOUCH))),
            "eval of an eval of code": evaluated(text("data"), mapping(("data", evaluated(CODE_TEXT, holder)))),
            "eval of bytes": evaluated(blob(b"data"), holder),
            "Python 2's eval": call(name("__builtin__", "eval"), CODE_TEXT, holder),
            "exec in eval's form": call(name("builtins", "exec"), text("data"), holder),
            "compile": call(name("builtins", "compile"), CODE_TEXT, text("x"), text("exec")),
            "eval as an object": MARK + name("builtins", "eval") + text("data") + holder + OBJ,
            "eval as a class": name("builtins", "eval") + group(text("data"), holder) + NEWOBJ,
            "eval as a value": name("builtins", "eval"),
            "eval that is thrown away": name("builtins", "eval") + POP + NONE,
            "eval as an array's class": array(kind=name("builtins", "eval")),
            "os.system": RUN,
            "os.system as a class": array(kind=SYSTEM),
            "os.system as a type": array(of=RUN),
            "os.system as a shape": array(shape=RUN),
            "os.system as bytes": array(data=RUN),
            "numpy.load": call(name("numpy", "load"), TOUCH),
            "numpy's fromfile": call(name("numpy", "fromfile"), TOUCH),
            "numpy's memmap": array(kind=name("numpy", "memmap")),
            "paddle.load": call(name("paddle", "load"), TOUCH),
            "tuple of a call": call(name("builtins", "tuple"), group(text("w"), RUN)),
            "getattr": call(name("builtins", "getattr"), array(), text("tofile")),
            "a persistent id": group(integer(0), integer(4), FALSE) + BINPERSID,
            "a persistent id in text": b"Pos.system\n",
            "_codecs.encode to another codec": call(name("_codecs", "encode"), text("touch"), text("rot13")),
            "_codecs.encode with errors": call(name("_codecs", "encode"), text("ab"), text("latin1"), text("x")),
            "_codecs.encode of no bytes": array(data=call(name("_codecs", "encode"), text("\u0100b"), text("latin1"))),
        }.items()
    ):
        for protocol in (2, 4):
            yield _paddle(f"call-{number:02}-{protocol}", wrong, paddle(("x", body), protocol=protocol))
    nested = mapping(("data", evaluated(text("data"), holder)))
    yield _paddle(
        "eval-twice", "Paddle's eval in Paddle's eval", paddle(("x", evaluated(text("data"), nested))), "read"
    )
    good = ("good", evaluated(text("data"), holder))
    hidden = paddle(good, ("x", sequence(name("builtins", "eval"))))
    yield _paddle("eval-beside", "Paddle's eval, and eval as a value", hidden, kinds=UNSAFE, told="builtins.eval")
    yield _paddle("whole", "a pickle that is nothing but a call", pickled(RUN, 4), kinds=UNSAFE, told="os.system")
    yield _paddle("behind", "a pickle behind the end", paddle() + pickled(RUN, 4), kinds=DAMAGED)
    nothing = pickled(mapping(("a", CODE_TEXT)), 4)
    yield _paddle("no-arrays", "a pickle of texts", nothing, kinds=NONE_OF_OURS)


def _arrays() -> Iterator[Case]:
    big = integer(1 << 40)
    for number, (wrong, body, kinds) in enumerate(
        (
            ("objects", array(of=dtype("O8", "|")), UNSUPPORTED),
            ("texts", array(of=dtype("U1")), UNSUPPORTED),
            ("records", array(of=dtype("V4", "|", NONE, group(text("a")), mapping(("a", NONE)))), UNSUPPORTED),
            ("floats with fields", array(of=dtype("f4", "<", NONE, group(text("a")), EMPTY_DICT)), UNSUPPORTED),
            ("a type that is none", array(of=dtype("../f4")), UNSUPPORTED),
            ("a type with a raw name", array(of=dtype("\x1b[31m")), UNSUPPORTED),
            ("a type in an unknown byte order", array(of=dtype("f4", "!")), DAMAGED),
            ("a type that is a text", array(of=text("f4")), DAMAGED),
            (
                "a type with a state of wrong length",
                array(of=call(DTYPE, text("f4")) + group(integer(3)) + BUILD),
                DAMAGED,
            ),
            ("too few bytes", array(shape=group(integer(5))), DAMAGED),
            ("too many bytes", array(shape=group(integer(3))), DAMAGED),
            ("a wider type than its bytes", array(of=dtype("f8")), DAMAGED),
            ("a huge shape", array(shape=group(big, big, big)), DAMAGED),
            ("a huge shape with a zero in it", array(shape=group(big, integer(0)), data=blob(b"")), frozenset()),
            ("a negative size", array(shape=group(integer(-4))), DAMAGED),
            ("two negative sizes", array(shape=group(integer(-2), integer(-2))), DAMAGED),
            ("a size that is a bool", array(shape=group(TRUE)), DAMAGED),
            ("65 axes", array(shape=group(integer(4), *(64 * [integer(1)]))), DAMAGED),
            ("a shape that is a list", array(shape=sequence(integer(4))), DAMAGED),
            ("a shape that is nothing", array(shape=NONE), DAMAGED),
            ("a state of another version", array(version=integer(2)), DAMAGED),
            ("an order that is a number", array(fortran=integer(7)), DAMAGED),
            ("bytes that are a text", array(data=text("0123456789abcdef")), DAMAGED),
            ("bytes that are a list", array(data=EMPTY_LIST), DAMAGED),
            ("no bytes", array(data=NONE), DAMAGED),
        )
    ):
        must = "refused" if kinds else "read"
        yield _paddle(f"array-{number:02}", f"an array with {wrong}", paddle(("x", body)), must, kinds)
    reconstruct = name("numpy.core.multiarray", "_reconstruct")
    for number, body in enumerate(
        (
            call(reconstruct),
            call(reconstruct, name("numpy", "ndarray"), group(integer(0)), blob(b"b")),
            call(reconstruct, name("numpy", "ndarray")) + group(integer(1), group(), dtype(), FALSE, DATA) + BUILD,
            array() + group() + BUILD,
            call(reconstruct, name("numpy", "ndarray"), group(), blob(b"b")) + group(*(9 * [integer(1)])) + BUILD,
            call(reconstruct, name("numpy", "ndarray"), group(), blob(b"b")) + mapping(("a", NONE)) + BUILD,
            array() + MARK + text("a") + NONE + b"u",
            call(name("numpy.core.numeric", "_frombuffer"), DATA, dtype(), group(integer(4))),
            call(name("numpy.core.numeric", "_frombuffer"), DATA, dtype(), group(integer(4)), text("X")),
            array(kind=name("numpy", "dtype")),
            array(kind=text("numpy.ndarray")),
        )
    ):
        yield _paddle(f"arity-{number}", "an array with the wrong parts", paddle(("x", body)), kinds=DAMAGED)
    holes = array(shape=group(integer(0), big), data=blob(b""))
    yield _paddle("empty", "an array of no elements", paddle(("x", holes)), "read")


def spelt(instruction: bytes) -> bytes:
    """Bytes as protocol 2 writes them."""
    return name("_codecs", "encode") + instruction + text("latin1") + b"\x86R"


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def _streams() -> Iterator[Case]:
    """What is wrong with the stream of instructions."""
    whole = paddle()
    for number, body in enumerate(
        (
            b"\x8e" + u64(1 << 40),
            b"\x8e" + u64((1 << 64) - 1),
            b"\x96" + u64(1 << 62),
            b"B" + struct.pack("<I", 0xFFFFFFFF),
            b"X" + struct.pack("<I", 0xFFFFFFFF),
            b"\x8d" + u64(1 << 63),
            b"T" + struct.pack("<i", -1),
            b"\x95" + u64(1 << 50) + NONE,
            b"\x8b" + struct.pack("<i", -5),
            b"c" + 70_000 * b"a",
            b"\x97",
            b"\xff",
            b"",
            spelt(b"X" + struct.pack("<I", 1 << 30)),
            spelt(b"X\4\0\0\0\xc3\xa9\xff\xfe"),
            spelt(b"X\3\0\0\0ab\xc3"),
            spelt(text("ab\u0100")),
            spelt(text("bytes"))
            + b"s"
            + text("y")
            + name("_codecs", "encode")
            + text("bytes")
            + text("rot13")
            + b"\x86R",
        )
    ):
        yield _paddle(
            f"stream-{number:02}", "a stream of instructions that lies", whole[:-2] + text("x") + body + b"u."
        )
    yield _paddle("cut", "a file that was cut off", whole[:-30], kinds=DAMAGED)
    many = b"\x80\x04" + 5_000_000 * b"N0" + b"}."
    yield _heavy(_paddle("instructions", "ten million instructions", many, kinds=UNSAFE))
    yield _paddle("marks", "a million groups in each other", pickled(1_000_000 * MARK, 4))
    data = pickled(2_000_000 * b"C\0", 4)
    yield _heavy(_paddle("bytes", "two million empty bytes", data, kinds=UNSAFE, told="without its arrays"))
    deep = 50_000 * EMPTY_LIST + 49_999 * b"a"
    yield _paddle("deep", "50,000 lists in each other", paddle(("x", deep)), "read")
    chain = 20_000 * (EMPTY_DICT + text("a")) + array() + 20_000 * b"s"
    yield _paddle("deep-dicts", "20,000 dicts in each other", paddle(("x", chain)), "read")
    cycle = EMPTY_DICT + put(900) + MARK + text("self") + get(900) + text("w") + array() + b"u"
    yield _paddle("cycle", "a dict that lies in itself", paddle(("x", cycle)), "read")
    keys = EMPTY_DICT + MARK + array() + NONE + 3 * (integer(1) + array()) + b"u"
    yield _paddle("keys", "keys that are arrays, and numbers", pickled(mapping(("model", keys)), 4), "survived")
    yield _paddle("key-twice", "a key twice", paddle(("first.weight", array())), kinds=DAMAGED, told="twice")
    raw = paddle(("\x1b[2J\u202e", array()))
    yield _paddle("key-raw", "a key that a terminal obeys", raw, "read")


def _slices() -> Iterator[Case]:
    told, parts = "UnpackBigParamInfor@@", (("w@@.0", array()), ("w@@.1", array()))

    def info(shape: bytes, *names: str) -> bytes:
        return mapping(("w", mapping(("OriginShape", shape), ("slices", sequence(*map(text, names))))))

    eight = group(integer(2), integer(4))
    good = paddle(*parts, (told, info(eight, "w@@.0", "w@@.1")))
    yield _paddle("slices", "an array in slices", good, "read")
    for number, (wrong, body) in enumerate(
        {
            "one that is absent": info(eight, "w@@.0", "w@@.7"),
            "one twice": info(eight, "w@@.0", "w@@.0"),
            "none": info(eight),
            "a huge shape": info(group(integer(1 << 60), integer(1 << 60)), "w@@.0", "w@@.1"),
            "a negative shape": info(group(integer(-2), integer(-4)), "w@@.0", "w@@.1"),
            "itself": info(eight, "w", "w@@.1"),
            "no description": mapping(("w", NONE)),
            "a call": mapping(("w", call(name("collections", "OrderedDict"), SYSTEM))),
        }.items()
    ):
        yield _paddle(f"slices-{number}", f"slices: {wrong}", paddle(*parts, (told, body)), kinds=DAMAGED | UNSAFE)
    pieces = [(f"w@@.{number}", array()) for number in range(20_000)]
    many = info(group(integer(80_000)), *(key for key, _ in pieces))
    yield _heavy(_paddle("slices-many", "twenty thousand slices", paddle(*pieces, (told, many)), "read"))


def _forms() -> Iterator[Case]:
    """What Paddle and numpy write in rarer cases."""
    named = group(text("w_0"), array())
    from_buffer = name("numpy.core.numeric", "_frombuffer")
    scalar = name("numpy.core.multiarray", "scalar")
    letter = array(group(integer(1)), dtype("u1", "|"), spelt(text("b")))
    long = (1 << 20) - 1  # where a letter of two bytes is cut
    for what, body in {
        "tuple": call(name("builtins", "tuple"), named),
        "pair": named,
        "shared": mapping(("a", array() + put(70)), ("b", get(70))),
        "buffer": call(from_buffer, DATA, dtype(), group(integer(4)), text("C")),
        "buffer-fortran": call(from_buffer, DATA, dtype(), group(integer(2), integer(2)), text("F")),
        "scalar": call(scalar, dtype(), blob(FLOATS[:4])),
        "scalar-spelt": call(scalar, dtype(), spelt(text("\xe9bcd"))),
        "scalar-long": call(scalar, dtype(), blob(bytes(17))),
        "letter": letter,
        "letter-twice": mapping(("a", letter), ("b", array(group(integer(1)), dtype("u1", "|"), text("b")))),
        "bytes": array(group(integer(0)), data=call(name("builtins", "bytes"))),
        "text-long": text(1_200_000 * "x"),
        "spelt-long": array(group(integer(long + 9)), dtype("u1", "|"), spelt(text("a" * long + "\xe9" * 9))),
    }.items():
        must = "survived" if what == "letter-twice" else "read"
        yield _paddle(f"form-{what}", f"a rarer form ({what})", paddle(("x", body)), must)
    optimizer = pickled(mapping(("w_0_moment1_0", array()), ("w_0_beta1_pow_acc_0", array())), 4)
    yield _paddle("optimizer", "an optimizer's state", optimizer, kinds=UNSUPPORTED, told="optimizer")
    rates = pickled(mapping(("w_0_moment1_0", array()), ("LR_Scheduler", mapping(("last_lr", integer(1))))), 4)
    yield _paddle("optimizer-rates", "an optimizer's state with its rates", rates, kinds=UNSUPPORTED, told="optimizer")
    names = ("StructuredToParameterName@@", mapping(("first.weight", text("w_0"))))
    yield _paddle("names", "the parameters' names", paddle(names), "read")
    yield _paddle("names-twice", "the parameters' names twice", paddle(names, names), kinds=DAMAGED, told="twice")


CASES = (*_calls(), *_arrays(), *_streams(), *_slices(), *_forms())
