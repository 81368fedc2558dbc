"""Outputs whose receipt (conversion.json) lies, points elsewhere, or is no receipt; and pairs for `verify SRC DST`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.attacks.archives import torch_zip
from tests.attacks.case import Build, Case
from tests.attacks.companions import CONFIG, ODD, WEIGHTS
from tests.attacks.opcodes import call, mapping, name, pickled, tensor, text

RECEIPT = "conversion.json"
SECRET = b"secret"
RUN = call(name("os", "system"), text("touch canary"))
LINES = (("verify", "{case}/out"), ("verify", "{case}/out", "--json"))
PAIR = (("verify", "{case}/a.pt", "{case}/b.pt"), ("verify", "{case}/a.pt", "{case}/b.pt", "--json"))
FOLDERS = (("verify", "{case}/a", "{case}/b"), ("verify", "{case}/a", "{case}/b", "--json"))


def entry(name: Any, data: bytes = SECRET, **more: Any) -> dict[str, Any]:
    """What a receipt says of a file with this content."""
    return {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **more}


def output(receipt: bytes | Callable[[Path], None], more: Callable[[Path], None] = lambda folder: None) -> Build:
    """A folder `out` with a file `x`, the receipt, and more; beside it, a file that is nobody's business."""

    def build(folder: Path) -> None:
        (folder / "secret").write_bytes(SECRET)
        out = folder / "out"
        out.mkdir()
        (out / "x").write_bytes(SECRET)
        more(out)
        if isinstance(receipt, bytes):
            (out / RECEIPT).write_bytes(receipt)
        else:
            receipt(out / RECEIPT)

    return build


def listing(*entries: Any, **more: Any) -> bytes:
    return json.dumps({"files": list(entries), **more}).encode()


def _written(data: Callable[[], bytes]) -> Callable[[Path], None]:
    """A large file, made when it is needed."""

    def write(path: Path) -> None:
        path.write_bytes(data())

    return write


def _case(what: str, wrong: str, build: Build, must: str, **more: Any) -> Case:
    return Case(f"receipts/{what}", wrong, must, build, ".", **{"lines": LINES, **more})


def _documents() -> Iterator[Case]:
    """Files that are no receipt."""
    good = listing(entry("x"))
    documents: dict[str, bytes | Callable[[Path], None]] = {
        "empty": b"",
        "null": b"null",
        "list": b"[]",
        "text": b'"x"',
        "no-files": b"{}",
        "files-empty": b'{"files": []}',
        "files-text": b'{"files": "x"}',
        "files-number": b'{"files": 5}',
        "files-object": b'{"files": {"x": 1}}',
        "files-null": b'{"files": null}',
        "cut": good[:-2],
        "behind": good + b"x",
        "twice": b'{"files": [], "files": [' + json.dumps(entry("x")).encode() + b"]}",
        "name-twice": good.replace(b'"name": "x"', b'"name": "x", "name": "../secret"'),
        "deep-lists": b'{"files": ' + b"[" * 200_000,
        "deep-closed": b'{"files": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "deep-objects": b'{"files": [' + b'{"name":' * 100_000,
        "utf-16": good.decode().encode("utf-16"),
        "latin-1": listing(entry("x")).replace(b'"x"', b'"\xe4"'),
        "null-bytes": bytes(1000),
        "digits": good.replace(b'"size": 6', b'"size": ' + b"1" * 100_000),
        "nan": b"NaN",
        "large": lambda path: os.truncate(path, 200_000_000 * path.write_bytes(b"{" * 1000) // 1000),
        "holes": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 40),
        "values": _written(lambda: b'{"a": [' + b"0," * 5_000_000 + b"0], " + good[1:]),
        "files-many": _written(lambda: listing(*[entry("x")] * 120_000)),
        "files-10001": listing(*[entry("x")] * 10_001),
        "fifo": os.mkfifo,
        "zero": lambda path: path.symlink_to("/dev/zero"),
        "tty": lambda path: path.symlink_to("/dev/tty"),
        "environ": lambda path: path.symlink_to("/proc/self/environ"),
        "folder": lambda path: path.mkdir(),
        "dangling": lambda path: path.symlink_to("nowhere"),
        "itself": lambda path: path.symlink_to(RECEIPT),
        "none": lambda path: None,
    }
    for what, content in documents.items():
        yield _case(f"document-{what}", f"a receipt that is none ({what})", output(content), "refused")
    for field in ("name", "size", "sha256"):
        lacking = {key: value for key, value in entry("x").items() if key != field}
        yield _case(f"lacks-{field}", f"an entry without {field}", output(listing(entry("y"), lacking)), "refused")
        for what, value in ODD.items():
            expected = (str,) if field != "size" else (int,)
            must = "found" if isinstance(value, expected) and value != 10**300 else "refused"
            build = output(listing({**entry("x"), field: value}))
            yield _case(f"{field}-{what}", f"an entry whose {field} is {what}", build, must)
    for what, value in ODD.items():
        build = output(listing(value, entry("x")))
        yield _case(f"entry-{what}", f"an entry that is {what}", build, "refused")
        others = dict.fromkeys(("ckptconv", "source", "companions", "target", "options", "tensors", "dropped"), value)
        must = "refused" if value == 10**300 else "read"
        yield _case(f"others-{what}", f"all other fields are {what}", output(listing(entry("x"), **others)), must)


NAMES = (
    *("../secret", "../../etc/passwd", "/etc/passwd", "a/../../secret", "./../secret", "..", ".", "", "/", "//x"),
    *("/proc/self/environ", "/dev/zero", "/dev/stdin", "~/.ssh/id_rsa", "$HOME", "file:///etc/passwd", "..\\secret"),
    *("C:\\x", "x\0", "\0", "x\n", "\x1b[31mred", "\x9b31m", "\u202ettam", "\ud800", "\udcff", "x" * 5000, "x/" * 3000),
    *("nowhere", "x/y", "%2e%2e/secret", RECEIPT, "x ", "\u2028", "<script>alert(1)</script>", "|x|`y`", "=1+1"),
)


def _names() -> Iterator[Case]:
    for number, place in enumerate(NAMES):
        build = output(listing(entry("x"), entry(place)))
        yield _case(f"name-{number:02}", f"a file called {place[:40]!a}", build, "found", told="")
    same = output(listing(entry("x"), entry("./x"), entry("x")))
    yield _case("good", "a receipt that is true, and names a file three times", same, "read")


def _linked(target: str, at: str = "link") -> Callable[[Path], None]:
    return lambda folder: (folder / at).symlink_to(target)


def _files() -> Iterator[Case]:
    """What is listed is there, but isn't what it seems."""
    for what, target in (
        ("secret", "../secret"),
        ("passwd", "/etc/passwd"),
        ("zero", "/dev/zero"),
        ("stdin", "/dev/stdin"),
        ("dangling", "nowhere"),
        ("itself", "link"),
        ("environ", "/proc/self/environ"),
    ):
        build = output(listing(entry("link")), _linked(target))
        yield _case(f"link-{what}", f"a listed file that is a link to {target}", build, "found")
    through = output(listing(entry("up/secret")), _linked("..", "up"))
    yield _case("link-folder", "a listed file behind a link to the folder above", through, "found")
    within = output(listing(entry("link")), _linked("x"))
    yield _case("link-within", "a listed file that is a link to another one of the output", within, "read")
    yield _case("fifo", "a listed file that is a FIFO", output(listing(entry("pipe")), _fifo), "found")
    yield _case("directory", "a listed file that is a directory", output(listing(entry("sub")), _directory), "found")

    def giant(folder: Path) -> None:
        with (folder / "giant").open("wb") as file:
            file.truncate(1 << 40)

    hole = output(listing(entry("giant", size=1 << 40)), giant)
    yield _case("giant", "a listed file of a terabyte of holes", hole, "found")

    def many(folder: Path) -> None:
        for number in range(500):
            with (folder / f"m{number}").open("wb") as file:
                file.truncate(200 << 20)

    holes = output(listing(*(entry(f"m{number}", size=200 << 20) for number in range(500))), many)
    yield _case("holes-many", "500 listed files of 200 MB of holes", holes, "found")

    def large(folder: Path) -> None:
        (folder / "large").write_bytes(bytes(50_000_000))
        for number in range(2000):
            os.link(folder / "large", folder / f"h{number}")

    one = entry("large", bytes(50_000_000))
    again = [one, *({**one, "name": f"h{number}"} for number in range(2000))]
    yield _case("hard-links", "2,000 names of one file of 50 MB", output(listing(*again), large), "read")
    names = output(listing(*({**one, "name": "./" * number + "large"} for number in range(300))), large)
    yield _case("names-of-one", "300 ways to write the name of one file of 50 MB", names, "read")


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def _directory(folder: Path) -> None:
    (folder / "sub").mkdir()


def _beside() -> Iterator[Case]:
    """The receipt of one file lies beside it."""
    lines = (("verify", "{case}/x.pt"), ("verify", "{case}/x.pt", "--json"))

    def build(folder: Path) -> None:
        (folder / "x.pt").write_bytes(SECRET)
        (folder / f"x.pt.{RECEIPT}").write_bytes(listing(entry("../x.pt"), entry("x.pt")))

    yield _case("beside", "a receipt beside a file that names one above", build, "found", lines=lines)
    yield _case("nowhere", "no output at all", lambda folder: None, "refused", lines=lines)


# ------------------------------------------------------------------------------------------------- SRC and DST
def _two(a: bytes | Callable[[], bytes], b: bytes | Callable[[], bytes]) -> Build:
    def build(folder: Path) -> None:
        for file, data in (("a.pt", a), ("b.pt", b)):
            (folder / file).write_bytes(data if isinstance(data, bytes) else data())

    return build


def _pairs() -> Iterator[Case]:
    two = ("w", tensor()), ("v", tensor((2, 2), (1, 2)))
    good = torch_zip(pickled(mapping(*two)))
    runs = torch_zip(pickled(mapping(*two, ("x", RUN))))
    yield _case("pair-same", "the same file twice", _two(good, good), "read", lines=PAIR)
    for what, bad in (
        ("runs", runs),
        ("empty", b""),
        ("text", b"x" * 100),
        ("cut", good[:-30]),
        ("other", torch_zip(pickled(mapping(("other", tensor()))))),
        ("no-tensors", torch_zip(pickled(mapping(("n", text("x")))))),
    ):
        yield _case(f"pair-{what}-dst", f"a DST that is wrong ({what})", _two(good, bad), "refused", lines=PAIR)
        yield _case(f"pair-{what}-src", f"a SRC that is wrong ({what})", _two(bad, good), "refused", lines=PAIR)
    expanded = torch_zip(pickled(mapping(("w", tensor((1 << 20, 1 << 20), (0, 0))), ("v", tensor()))))
    yield _case(
        "pair-grown", "tensors of a terabyte in a file of 1 kB", _two(expanded, expanded), "refused", lines=PAIR
    )
    shapes = torch_zip(pickled(mapping(("w", tensor((4,), (1,))), ("v", tensor()))))
    yield _case("pair-shapes", "a tensor of another shape", _two(good, shapes), "found", lines=PAIR)
    names = [f"\x1b[3{number}m\u202e{number}" for number in range(8)]
    odd = torch_zip(pickled(mapping(*((each, tensor()) for each in names))))
    less = torch_zip(pickled(mapping(*((each, tensor()) for each in names[:4]))))
    yield _case("pair-names", "keys that paint the terminal are lost", _two(odd, less), "read", lines=PAIR)


def _with_config(place: str, content: bytes | Callable[[Path], None]) -> Build:
    """XLM-R as SRC `a` and DST `b`, and a hostile config.json beside one of them."""

    def build(folder: Path) -> None:
        for each in ("a", "b"):
            (folder / each).mkdir()
            shutil.copy(WEIGHTS, folder / each / "model.safetensors")
        path = folder / place / "config.json"
        path.write_bytes(content) if isinstance(content, bytes) else content(path)

    return build


def _configs() -> Iterator[Case]:
    documents: dict[str, bytes | Callable[[Path], None]] = {
        "empty": b"",
        "deep": b'{"a":' * 100_000,
        "escape": json.dumps({**CONFIG, "hidden_act": "\x1b[31m\u202e", "num_attention_heads": "\x9b"}).encode(),
        "huge": json.dumps({**CONFIG, "hidden_size": 10**300}).encode(),
        "objects": json.dumps({key: {"a": {}} for key in CONFIG}).encode(),
        "large": _written(lambda: b'{"a":"' + b"x" * 30_000_000 + b'"}'),
        "fifo": os.mkfifo,
        "zero": lambda path: path.symlink_to("/dev/zero"),
    }
    for what, content in documents.items():
        for place in ("a", "b"):
            build = _with_config(place, content)
            wrong = f"a hostile config.json ({what}) beside {place}"
            yield _case(f"config-{what}-{place}", wrong, build, "survived", lines=FOLDERS)


CASES = (*_documents(), *_names(), *_files(), *_beside(), *_pairs(), *_configs())
