"""TorchScript archives: code that would run, modules without end, constants and tensors that lie."""

from __future__ import annotations

from collections.abc import Iterator

from tests.attacks.archives import FLOATS, Record, torch_zip
from tests.attacks.case import DAMAGED, UNSAFE, UNSUPPORTED, Case, holding
from tests.attacks.opcodes import (
    BUILD,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    FALSE,
    MARK,
    NEWOBJ,
    NONE,
    POP,
    RUN,
    SYSTEM,
    TOUCH,
    TRUE,
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


def instance(*pairs: tuple[str, bytes], of: str = "M") -> bytes:
    """A module with attributes."""
    return name("__torch__.m", of) + EMPTY_TUPLE + NEWOBJ + mapping(("training", FALSE), *pairs) + BUILD


CODE = Record("archive/code/__torch__/m.py", b"import os\nos.system('touch canary')\n")
NO_CONSTANTS = pickled(EMPTY_TUPLE)


def script(root: bytes, constants: bytes = NO_CONSTANTS, more: tuple[Record, ...] = ()) -> bytes:
    """An archive as torch.jit.save writes it, around any module."""
    return torch_zip(pickled(root), more=[CODE, Record("archive/constants.pkl", constants), *more])


def _script(
    what: str, wrong: str, data: bytes, must: str = "refused", kinds: frozenset[str] = frozenset(), told: str = ""
) -> Case:
    return Case(f"torchscript/{what}", wrong, must, holding(data), kinds=kinds, told=told, forms=False)


def _chain(depth: int) -> bytes:
    """Modules in modules."""
    head = name("__torch__.m", "M") + EMPTY_TUPLE + NEWOBJ + EMPTY_DICT + text("m")
    return head * depth + instance(("w", tensor())) + b"sb" * depth


def _twice(levels: int, leaf: bytes) -> bytes:
    """Every module is there twice in the one around it."""
    body = leaf + put(0)
    for level in range(levels):
        pairs = text("a") + get(level) + text("b") + get(level)
        made = name("__torch__.m", "M") + EMPTY_TUPLE + NEWOBJ + EMPTY_DICT + MARK + pairs + b"u" + BUILD
        body += POP + made + put(level + 1)
    return body


def _cycle(path: tuple[str, ...]) -> bytes:
    """A module that lies in itself, by way of others."""
    head = b""
    for number, _ in enumerate(path):
        head += name("__torch__.m", "M") + EMPTY_TUPLE + NEWOBJ + put(number) + EMPTY_DICT
        head += text("w") + tensor() + b"s" + text(path[number])
    return head + get(0) + b"sb" * len(path)


def _scripts() -> Iterator[Case]:
    good = instance(("w", tensor()), ("v", tensor((2, 2), (1, 2))))
    yield _script("no-constants", "an archive without constants", torch_zip(pickled(good), more=[CODE]), "read")
    state = ("__setstate__", RUN)
    yield _script(
        "setstate", "a call in the state of a module", script(instance(state)), kinds=UNSAFE, told="os.system"
    )
    made = name("__torch__.m", "M") + EMPTY_TUPLE + NEWOBJ + RUN + BUILD
    yield _script("state-is-a-call", "a call instead of a state", script(made), kinds=UNSAFE, told="os.system")
    made = name("__torch__.m", "M") + group(RUN) + NEWOBJ + mapping(("w", tensor())) + BUILD
    yield _script("arguments", "a call among a module's arguments", script(made), kinds=UNSAFE)
    made = name("__torch__.m", "M") + group(TOUCH) + NEWOBJ + mapping(("w", tensor())) + BUILD
    yield _script("arguments-plain", "a module made with arguments", script(made), kinds=DAMAGED)
    for module in ("__torch__.os", "__torch__.builtins"):
        data = script(name(module, "system") + EMPTY_TUPLE + NEWOBJ + mapping(("w", tensor())) + BUILD)
        yield _script(f"named-{module}", "a scripted class with the name of a function", data, "read")
    for full in ("torch.jit._pickle.build_tensor_from_id", "torch.jit.load", "torch.jit._serialization.load"):
        module, _, attribute = full.rpartition(".")
        data = script(instance(("w", tensor()), ("x", call(name(module, attribute), TOUCH))))
        yield _script(f"calls-{attribute}-{len(full)}", f"calls {full}", data, kinds=UNSAFE, told=full)
    tag = name("torch.jit._pickle", "restore_type_tag")
    for number, arguments in enumerate(((), (RUN,), (SYSTEM, text("int")), (TOUCH, SYSTEM), (tensor(), text("T")))):
        data = script(instance(("w", tensor()), ("x", call(tag, *arguments))))
        must = "read" if number in (0, 4) else "refused"
        yield _script(f"tag-{number}", "a type tag around something else", data, must)
    yield _script("constants-run", "constants that run", script(good, pickled(RUN)), kinds=UNSAFE, told="os.system")
    data = script(good, pickled(group(instance(("w", RUN)))))
    yield _script("constants-module", "a module that runs among the constants", data, kinds=UNSAFE)
    confused = pickled(group(tensor()))
    yield _script("constants-data", "a constant in a storage of data/", script(good, confused), kinds=DAMAGED)
    elsewhere = pickled(group(tensor(of=storage("../data/0"))))
    yield _script("constants-path", "a constant in a storage that is a path", script(good, elsewhere), kinds=DAMAGED)
    unnamed = (Record("archive/constants/0", FLOATS),)
    data = script(instance(), confused, unnamed)
    yield _script("frozen", "weights among the constants only", data, kinds=UNSUPPORTED, told="1 constant tensors")
    data = script(good, confused, unnamed)
    yield _script("constants-too", "weights, and another tensor among the constants", data, "read")
    data = script(good, confused, (Record("archive/constants/0", FLOATS[:12]),))
    yield _script("constants-short", "a constant beyond its storage", data, kinds=DAMAGED)
    own = instance(("w", tensor(of=storage("1"))))
    yield _script(
        "other-storage", "a tensor in a storage of constants/", script(own, NO_CONSTANTS, unnamed), kinds=DAMAGED
    )
    for what, view in {
        "size": tensor((5,)),
        "offset": tensor((4,), (1,), 1),
        "stride": tensor((2, 2), (3, 1)),
        "huge": tensor((1 << 62, 1 << 62), (0, 0)),
        "negative": tensor((-1,)),
        "storage": tensor(of=storage(numel=5)),
        "type": tensor(of=storage(kind="Float9Storage")),
        "meta-type": tensor(of=storage(kind="load")),
        "no-storage": tensor(of=text("0")),
    }.items():
        kinds = {"type": UNSAFE, "meta-type": UNSAFE, "no-storage": UNSUPPORTED}.get(what, DAMAGED)
        yield _script(
            f"view-{what}", f"a tensor that lies about its {what}", script(instance(("w", view))), kinds=kinds
        )
    expanded = script(instance(("w", tensor((1 << 30, 1 << 8), (0, 0)))))
    yield _script("view-expanded", "sixteen bytes that stand for a tebibyte", expanded, "looked at", told="stand for")
    small = storage(kind="UInt16Storage", numel=8)
    yield _script("scripted-type", "a storage by its scripted name", script(instance(("w", tensor(of=small)))), "read")
    for path in (("a",), ("a", "b"), ("a", "b", "c")):
        wrong = f"a module that lies in itself, at {'.'.join(path)}"
        yield _script(f"cycle-{len(path)}", wrong, script(_cycle(path)), kinds=UNSAFE, told="levels deep")
    yield _script("deep-50", "50 modules in each other", script(_chain(50)), "read")
    for depth in (101, 5_000, 100_000):
        data = torch_zip(pickled(_chain(depth)), more=[CODE], deflated=True)
        yield _script(f"deep-{depth}", f"{depth} modules in each other", data, kinds=UNSAFE)
    empty, full = instance(), instance(("w", tensor()))
    wrong = "modules that are there twice in each other, 60 levels"
    yield _script("twice-empty", f"{wrong}, without a tensor", script(_twice(60, empty)), kinds=UNSAFE)
    yield _script("twice", wrong, script(_twice(60, full)), kinds=UNSAFE)
    yield _script("twice-list", f"{wrong}, around a list", script(_twice(60, sequence(integer(1)))), kinds=UNSAFE)
    same = instance(("w", tensor()), ("a.w", tensor()), ("a", instance(("w", tensor()))))
    yield _script(
        "key-twice", "an attribute with the name of a module's", script(same), kinds=DAMAGED, told="a.w twice"
    )
    unnamed_one = EMPTY_DICT + MARK + integer(1) + tensor() + b"u" + BUILD
    data = script(name("__torch__.m", "M") + EMPTY_TUPLE + NEWOBJ + unnamed_one)
    yield _script("key-number", "an attribute without a name", data, kinds=DAMAGED)
    yield _script("key-empty", "an attribute with an empty name", script(instance(("", tensor()))), kinds=DAMAGED)
    shown = instance(("\x1b[31m\u202e", tensor()), ("v", tensor()))
    yield _script("key-raw", "an attribute's name that a terminal obeys", script(shown), "read")
    long = instance((70_000 * "k", tensor()))
    yield _script("key-long", "an attribute's name of 70,000 letters", script(long), kinds=UNSAFE)
    for what, body in {"dict": mapping(("w", tensor())), "tensor": tensor(), "none": NONE, "list": EMPTY_LIST}.items():
        yield _script(f"root-{what}", f"a {what} instead of a module", script(body), kinds=DAMAGED, told="no module")
    data = script(name("__torch__.m", "M") + EMPTY_TUPLE + NEWOBJ)
    yield _script("root-stateless", "a module without a state", data, kinds=DAMAGED, told="no module")
    pair = name("__torch__.m", "M") + EMPTY_TUPLE + NEWOBJ + group(tensor(), TRUE) + BUILD
    data = script(instance(("m", pair)))
    yield _script(
        "own-state", "a module whose state only its code knows", data, kinds=UNSUPPORTED, told="m (__torch__.m.M)"
    )
    packed = name("__torch__.torch.classes.quantized", "LinearPackedParamsBase") + EMPTY_TUPLE + NEWOBJ
    data = script(instance(("m", packed + group(tensor(), NONE) + BUILD)))
    yield _script("quantised", "packed parameters", data, kinds=UNSUPPORTED, told="is quantised")
    twice = instance(("w", tensor())) + mapping(("w", tensor())) + BUILD
    yield _script("state-twice", "a module with two states", script(twice), kinds=DAMAGED)
    items = instance(("w", tensor())) + MARK + text("a") + tensor() + b"u"
    yield _script("items", "a module with items", script(items), kinds=DAMAGED)
    data = script(good, more=(Record("archive/code/../../evil.py", b""),))
    yield _script("code-outside", "code outside of the archive's folder", data, kinds=DAMAGED)
    evil = tuple(
        Record(f"archive/{each}", pickled(RUN)) for each in ("traced_inputs.pkl", "bytecode.pkl", "extra/x.pkl")
    )
    yield _script("unread", "pickles that run, where nothing reads them", script(good, more=evil), "read")
    half = torch_zip(pickled(good), more=[CODE, Record("archive/constants.pkl", NO_CONSTANTS[:-1])])
    yield _script("constants-cut", "constants that end too early", half, kinds=DAMAGED)
    behind = script(good, NO_CONSTANTS + pickled(RUN))
    yield _script("constants-behind", "a pickle behind the constants", behind, kinds=DAMAGED)


CASES = tuple(_scripts())
