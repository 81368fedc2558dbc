"""Indexes of shards that point elsewhere, at each other or at nothing, and shards that disagree with them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from tests.attacks.archives import FLOATS, ONE, entry, index, safetensors, torch_zip
from tests.attacks.case import Case, files
from tests.attacks.opcodes import mapping, pickled, tensor

INDEX = "model.safetensors.index.json"
A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
ONE_B = safetensors({"v": entry(0, 16)}, FLOATS)
# Names that aren't those of a file beside the index.
PLACES = (
    *("../secret.safetensors", "../../secret.safetensors", "/etc/passwd", "/tmp/secret.safetensors", "", ".", ".."),
    *("./x.safetensors", "sub/x.safetensors", "sub\\x.safetensors", "..\\secret.safetensors", "C:\\x.safetensors"),
    *("file:///etc/passwd", "http://x.test/a.safetensors", "//host/a.safetensors", "~/x.safetensors", "$HOME/a.bin"),
    *("a\0.safetensors", "a\n.safetensors", "\x1b[31m.safetensors", "\u202eslft.safetensors", ".hidden.safetensors"),
    *("x.safetensors/", "x.safetensors ", "x.json", "x.py", "x", "x.bin", "x.pt", "CON.safetensors:stream"),
    *("a" * 5000 + ".safetensors", "/dev/zero", "/dev/stdin", "/proc/self/environ", "%2e%2e%2fsecret.safetensors"),
)


def _folder(weight_map: object, shards: dict[str, bytes], **more: object) -> Callable[[Path], None]:
    return files({INDEX: index(weight_map, **more), **shards})


def _case(what: str, wrong: str, build: Callable[[Path], None], must: str = "refused", **more: object) -> Case:
    return Case(f"index-lies/{what}", wrong, must, build, INDEX, forms=must == "read", **more)  # type: ignore[arg-type]


def _documents() -> Iterator[Case]:
    documents = {
        "no-map": b'{"metadata": {}}',
        "map-list": index([A]),
        "map-text": index(A),
        "map-null": index(None),
        "map-empty": index({}),
        "map-number": index({"w": 1}),
        "map-nested": index({"w": {"a": A}}),
        "map-none": index({"w": None}),
        "twice": b'{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}',
        "map-twice": b'{"weight_map": {"w": "a.safetensors"}, "weight_map": {}}',
        "cut": index({"w": A})[:-5],
        "deep": b'{"weight_map": ' * 100_000,
        "lists": b'{"weight_map": ' + b"[" * 100_000,
        "behind": index({"w": A}) + b"x",
        "utf-16": b"{" + index({"w": A}).decode().encode("utf-16-le"),
    }
    for what, data in documents.items():
        yield _case(what, f"an index that is none ({what})", files({INDEX: data, A: ONE}))
    many = lambda: index({f"k{n}": f"m-{n}.safetensors" for n in range(200_000)})  # noqa: E731
    yield _case("many-shards", "200,000 shards", files({INDEX: many, A: ONE}))
    keys = lambda: index({f"k{n}": A for n in range(500_000)})  # noqa: E731
    yield _case("many-keys", "500,000 keys", files({INDEX: keys, A: ONE}))


def _places() -> Iterator[Case]:
    for number, place in enumerate(PLACES):
        yield _case(f"place-{number:02}", f"a shard at {place[:40]!a}", _folder({"w": place}, {A: ONE}))
        if number % 6 == 0:
            yield _case(
                f"place-{number:02}-second",
                f"a second shard at {place[:40]!a}",
                _folder({"w": A, "v": place}, {A: ONE}),
            )


def _linked(target: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / INDEX).write_bytes(index({"w": A}))
        (folder / A).symlink_to(target)

    return build


def _fifo(folder: Path) -> None:
    (folder / INDEX).write_bytes(index({"w": A}))
    os.mkfifo(folder / A)


def _deflated_many() -> dict[str, bytes]:
    """Shards that are small and take a second each."""
    slow = torch_zip(b"\x80\x02" + b"N0" * 5_000_000 + b"}.", deflated=True)
    names = [f"pytorch_model-{n}.bin" for n in range(60)]
    return {
        "x.index.json": json.dumps({"weight_map": {f"k{n}": name for n, name in enumerate(names)}}).encode(),
        **dict.fromkeys(names, slow),
    }


def _large(folder: Path) -> None:
    with (folder / INDEX).open("wb") as file:
        file.write(b'{"weight_map": {' + b" " * 1000)
        file.truncate(33 << 20)


def _many(count: int) -> dict[str, bytes]:
    """An index, and shards of one key each."""
    names = {f"k{n}": f"model-{n}.safetensors" for n in range(count)}
    return {INDEX: index(names), **{name: safetensors({key: entry(0, 16)}, FLOATS) for key, name in names.items()}}


def _torch_shards() -> Iterator[Case]:
    source = "pytorch_model.bin.index.json"
    nested = torch_zip(pickled(mapping(("model", mapping(("w", tensor()))))))
    for what, data, must in (("nested", nested, "refused"), ("good", torch_zip(), "read")):
        build = files({source: index({"w": f"{what}.bin"}), f"{what}.bin": data})
        yield Case(f"index-lies/torch-{what}", f"a torch shard ({what})", must, build, source, forms=False)


def _shards() -> Iterator[Case]:
    yield _case("large", "an index of 33 MB", _large, told="an index of")
    yield _case("many", "2,001 shards", files(_many(2001)), told="2001 shards")
    yield _case("many-files", "more shards than files can be open", files(_many(202)), "read")
    yield from _torch_shards()
    good = {"w": A, "v": B}
    yield _case("missing", "a shard that isn't there", _folder(good, {A: ONE}))
    yield _case("empty", "a shard that is empty", _folder(good, {A: ONE, B: b""}))
    yield _case("shard-cut", "a shard that is cut", _folder(good, {A: ONE, B: ONE_B[:-1]}))
    yield _case("cut-shard-is-html", "a shard that is a web page", _folder(good, {A: ONE, B: b"<html>"}))
    yield _case("disagree", "a key that the shard lacks", _folder({"w": A, "x": B}, {A: ONE, B: ONE_B}))
    yield _case("swapped", "keys in the other shard", _folder({"w": B, "v": A}, {A: ONE, B: ONE_B}))
    yield _case(
        "more",
        "a shard with more than the index says",
        _folder({"w": A}, {A: safetensors({"w": entry(0, 8), "u": entry(8, 16)}, FLOATS)}),
    )
    yield _case(
        "same-key",
        "one key in two shards",
        _folder({"w": A, "v": B}, {A: ONE, B: safetensors({"v": entry(0, 8), "w": entry(8, 16)}, FLOATS)}),
    )
    yield _case(
        "pickle-as-safetensors",
        "a pickle that runs as a shard",
        _folder({"w": A}, {A: b"\x80\x02cos\nsystem\n(X\x0c\0\0\0touch canarytR."}),
    )
    yield _case(
        "itself",
        "an index that is its own shard",
        files({"a.safetensors": index({"w": "a.safetensors"}), INDEX: index({"w": "a.safetensors"})}),
    )
    yield _case(
        "each-other",
        "indexes that are each other's shards",
        files(
            {
                INDEX: index({"w": "b.safetensors"}),
                "b.safetensors": index({"w": "c.safetensors"}),
                "c.safetensors": index({"w": "b.safetensors"}),
            }
        ),
    )
    tree = {
        f"m{n}.safetensors": index({f"k{m}": f"m{m}.safetensors" for m in range(n + 1, min(n + 6, 40))})
        for n in range(40)
    }
    yield _case("tree", "a tree of indexes", files({INDEX: index({"w": "m0.safetensors"}), **tree}))
    for what, target in (
        ("zero", "/dev/zero"),
        ("tty", "/dev/tty"),
        ("folder", "/"),
        ("dangling", "nowhere"),
        ("loop", A),
        ("environ", "/proc/self/environ"),
        ("passwd", "/etc/passwd"),
    ):
        # what a link names is opened, looked at as a file, and refused by its first bytes
        yield _case(f"link-{what}", f"a shard that is a link to {target}", _linked(target))
    yield _case("fifo", "a shard that is a FIFO", _fifo)
    slow = Case(
        "index-lies/slow-shards",
        "60 shards that take a second each",
        "refused",
        lambda folder: files(_deflated_many())(folder),
        "x.index.json",
        forms=False,
        commands=("inspect",),
    )
    yield slow
    yield _case("good", "two shards", _folder(good, {A: ONE, B: ONE_B}), "read")


def _told(case: Case) -> Case:
    """A shard that is an index is refused for what it is, before anything below it is opened."""
    indexes = ("index-lies/itself", "index-lies/each-other", "index-lies/tree")
    return replace(case, told="is a text file") if case.name in indexes else case


CASES = tuple(map(_told, (*_documents(), *_places(), *_shards())))
