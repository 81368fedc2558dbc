"""Views that are legal and hard to read: large ones, cut into pieces; scattered ones; ones that lie in each other."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from tests.attacks.archives import FLOATS, MAGIC, PROTOCOL, SYSTEM, torch_zip
from tests.attacks.case import UNSAFE, Case, holding
from tests.attacks.opcodes import mapping, pickled, sequence, storage, tensor, text

View = tuple[tuple[int, ...], tuple[int, ...], int]
LARGE = 2_450_000  # floats: more than is read at a time

# Of the storage "1": name → views of it that lie in one state dict.
FEW: dict[str, tuple[View, ...]] = {
    "disjoint": (((2,), (1,), 0), ((2,), (1,), 2)),
    "columns": (((2,), (2,), 0), ((2,), (2,), 1)),
    "crossing": (((2, 2), (1, 2), 0), ((2,), (3,), 0), ((4,), (1,), 0)),
    "same": (((4,), (1,), 0), ((4,), (1,), 0), ((2, 2), (2, 1), 0)),
    "behind": (((3,), (1,), 1), ((1,), (1,), 0), ((0,), (1,), 0)),
}
MANY: dict[str, tuple[View, ...]] = {
    # inner axes that don't fit into a box; rows far from each other; one axis that is read in pieces
    "boxes": (((2, 2900, 2900), (300, 1, 1), 0),),
    "rows": (((3, 5), (800_000, 1), 7), ((2, 3, 1, 2), (1_000_000, 5000, 9, 100_000), 0)),
    "pieces": (((600,), (4000,), 3), ((2, 590), (1, 4000), 0)),
    # whether they overlap takes too many steps to tell
    "sums": (((2,) * 16, tuple(range(1000, 1032, 2)), 0), ((1,), (1,), 8121)),
    "strides": (((20_000,), (3,), 0), ((20_000,), (5,), 0)),
}


@cache
def large() -> bytes:
    """The storage; it can be packed well, but not suspiciously well."""
    return b"".join(struct.pack("<f", number) * 100 for number in range(LARGE // 100))


def _state(views: tuple[View, ...], numel: int) -> bytes:
    of = storage("1", numel)
    named = ((f"v{number}.weight", tensor(*view, of=of)) for number, view in enumerate(views))
    return pickled(mapping(("a.weight", tensor()), *named))


def _read(what: str, data: bytes | Callable[[], bytes]) -> Case:
    truth = "" if what == "same" else "torch"  # of two keys for one view, safetensors gets one
    return Case(
        f"legal/views-{what}", f"views of one storage ({what})", "read", holding(data), truth=truth, forms=False
    )


def _scattered(folder: Path) -> None:
    """A storage that is one hole."""
    numel = 1 << 24
    body = pickled(mapping(("w", tensor((320, 320), (20_000, 20_001), of=storage("0", numel)))))
    head = MAGIC + PROTOCOL + SYSTEM + body + pickled(sequence(text("0"))) + struct.pack("<q", numel)
    with (folder / "x.pt").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 4 * numel)


def _cases() -> Iterator[Case]:
    for what, views in FEW.items():
        yield _read(what, torch_zip(_state(views, 4), {"0": FLOATS, "1": FLOATS[::-1]}))
    for what, views in MANY.items():
        body = _state(views, LARGE)
        yield _read(what, lambda body=body: torch_zip(body, {"0": FLOATS, "1": large()}))  # type: ignore[misc]
    three = mapping(*((f"{key}.weight", tensor((2, 2), (1, 2), of=storage(key))) for key in "012"))
    packed = torch_zip(pickled(three), dict.fromkeys("012", FLOATS), deflated=True)
    yield Case("legal/views-deflated", "views of three compressed records", "read", holding(packed), forms=False)
    wrong = "a view that overlaps itself so oddly that it takes a hundred thousand readings"
    yield Case("tensor-lies/scattered", wrong, "looked at", _scattered, kinds=UNSAFE, told="far too long", forms=False)


CASES = tuple(_cases())
