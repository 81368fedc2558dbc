"""Paths that are no regular files, and links to such."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from tests.attacks.archives import ONE, torch_zip
from tests.attacks.case import Build, Case

NAMES = ("x.pt", "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    """A socket; its name may be 108 bytes long, so it is made from its folder."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def holes(size: int, head: bytes = b"") -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(head)
            file.truncate(size)

    return make


def fifo_behind_link(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


KINDS: dict[str, Callable[[Path], None]] = {
    "fifo": fifo,
    "socket": listening,
    "fifo-behind-link": fifo_behind_link,
    "link-zero": link("/dev/zero"),
    "link-urandom": link("/dev/urandom"),
    "link-tty": link("/dev/tty"),
    "link-null": link("/dev/null"),
    "link-stdin": link("/dev/stdin"),
    "link-full": link("/dev/full"),
    "link-mem": link("/proc/self/mem"),
    "link-dangling": link("nowhere"),
    "link-itself": link("x.pt"),
    "link-long": link("a/" * 500 + "x"),
    "holes-terabyte": holes(1 << 40),
    "holes-exabyte-zip": holes(1 << 42, b"PK\3\4"),
    "holes-safetensors": holes(1 << 40, ONE),
    "holes-legacy": holes(1 << 40, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."),
    "holes-index": holes(1 << 34, b'{"weight_map": {'),
    "holes-zip-behind": holes(1 << 40, torch_zip()),
    "empty": holes(0),
    "unreadable-folder": lambda path: path.mkdir(),
}


def _as(name: str, make: Callable[[Path], None]) -> Build:
    return lambda folder: make(folder / name)


CASES = (
    *(Case(f"special-files/{what}", what, "refused", _as("x.pt", make), forms=False) for what, make in KINDS.items()),
    *(
        Case(
            f"special-files/{what}-in-folder-{number}",
            f"{what} as {name}",
            "refused",
            _as(name, make),
            ".",
            forms=False,
        )
        for number, name in enumerate(NAMES[1:])
        for what, make in KINDS.items()
        if what in ("fifo", "socket", "link-zero", "link-dangling", "holes-terabyte", "link-itself")
    ),
    Case("special-files/nothing", "a path where nothing is", "refused", lambda folder: None, forms=False),
    Case("special-files/empty-folder", "an empty folder", "refused", lambda folder: None, ".", forms=False),
    Case("special-files/long-name", "a name of 5,000 letters", "refused", lambda folder: None, "a" * 5000, forms=False),
    Case("special-files/below-file", "a path below a file", "refused", _as("x.pt", holes(9)), "x.pt/y", forms=False),
)
