"""Legacy torch files whose five pickles and storages contradict each other."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.attacks.archives import FLOATS, MAGIC, PLAIN, PROTOCOL, SYSTEM, legacy
from tests.attacks.case import Case, holding
from tests.attacks.opcodes import NONE, group, integer, mapping, name, pickled, sequence, storage, tensor, text

KEYS = pickled(sequence(text("0")))
TWO = pickled(mapping(("a", tensor()), ("b", tensor(of=storage("1")))))


def _holes(folder: Path) -> None:
    """Storages of a terabyte that are one hole."""
    numel = 1 << 38
    body = pickled(mapping(("w", tensor((numel,), (1,), of=storage("0", numel)))))
    head = MAGIC + PROTOCOL + SYSTEM + body + KEYS + struct.pack("<q", numel)
    with (folder / "x.pt").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 4 * numel)


FILES = {
    "keys-empty": ("a list of keys that omits a storage", legacy(keys=pickled(sequence()))),
    "keys-more": ("a list of keys with one that nothing uses", legacy(keys=pickled(sequence(text("0"), text("1"))))),
    "keys-other": ("a list of other keys", legacy(keys=pickled(sequence(text("9"))))),
    "keys-twice": ("a key twice", legacy(keys=pickled(sequence(text("0"), text("0"))))),
    "keys-tuple": ("keys in a tuple", legacy(keys=pickled(group(text("0"))))),
    "keys-number": ("a key that is a number", legacy(keys=pickled(sequence(integer(0))))),
    "keys-none": ("no list of keys", legacy(keys=pickled(NONE))),
    "keys-missing": ("a file that ends after the object", MAGIC + PROTOCOL + SYSTEM + PLAIN),
    "keys-nested": ("a list in the list of keys", legacy(keys=pickled(sequence(sequence(text("0")))))),
    "numel-more": ("a storage of more elements than the pickle says", legacy(storages=((5, FLOATS + bytes(4)),))),
    "numel-fewer": ("a storage of fewer elements than the pickle says", legacy(storages=((3, FLOATS[:12]),))),
    "numel-negative": ("a storage of -1 elements", legacy(storages=((-1, FLOATS),))),
    "numel-giant": ("a storage of 2**62 elements", legacy(storages=((1 << 62, FLOATS),))),
    "numel-cut": ("a number of elements that is cut", legacy(storages=()) + b"\4\0\0"),
    "data-short": ("a storage that is cut", legacy(storages=((4, FLOATS[:15]),))),
    "data-none": ("no storages", legacy(storages=(), keys=KEYS)),
    "data-behind": ("bytes behind the last storage", legacy(tail=b"\0")),
    "data-double": ("the storages twice", legacy(tail=struct.pack("<q", 4) + FLOATS)),
    "order": ("two storages of which one is missing", legacy(TWO, ((4, FLOATS),))),
    "magic-other": (
        "another magic number",
        legacy(magic=pickled(b"\x8a\x0a" + b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x18")),
    ),
    "protocol-other": ("another protocol", legacy(protocol=pickled(integer(1002)))),
    "protocol-text": ("a protocol that is a text", legacy(protocol=pickled(text("1001")))),
    "protocol-true": ("a protocol that is no number", legacy(protocol=pickled(b"\x88"))),
    "system-none": ("no system information", legacy(system=b"")),
    "magic-only": ("a magic number and nothing else", MAGIC),
    "magic-twice": ("the magic number twice", MAGIC + legacy()),
    "storage-in-keys": ("a storage in the list of keys", legacy(keys=pickled(sequence(storage())))),
    "storage-in-system": ("a storage in the system information", legacy(system=pickled(storage()))),
    "name-in-magic": (
        "a class in place of the magic number",
        legacy(magic=pickled(name("collections", "OrderedDict"))),
    ),
}
CASES = (
    *(
        Case(f"legacy-lies/{what}", wrong, "refused", holding(data), forms=False)
        for what, (wrong, data) in FILES.items()
    ),
    Case("legacy-lies/holes", "a terabyte of holes", "looked at", _holes, kinds=frozenset({"unsafe", "cannot_write"})),
)
