"""Mapping tables of somebody else's, given by --table."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.attacks.archives import torch_zip
from tests.attacks.case import Build, Case

HEAD = "layout a torch model\nlayout b safetensors -\n"
TEXTS: dict[str, bytes | Callable[[Path], None]] = {
    "empty": b"",
    "binary": bytes(range(256)),
    "large": b"x" * 2_000_000,
    "escape": "layout \x1b[31m torch \u202e\n".encode(),
    "alternatives": (
        HEAD
        + "".join(f"let p{n} {'|'.join(map(str, range(100)))}\n" for n in range(8))
        + "d "
        + ".".join(f"{{p{n}}}" for n in range(8))
        + ' "\n'
    ).encode(),
    "power": (HEAD + "d w w\nfield const 9**9**9**9 x x\nstranger if 9**9**9==1 x\n").encode(),
    "product": (HEAD + "d w w\nstranger if " + "*".join(["999999999"] * 20_000) + "==1 x\n").encode(),
    "deep-expression": (HEAD + "d w w\nstranger if " + "(" * 5000 + "d" + ")" * 5000 + " x\n").encode(),
    "import": (HEAD + "d w w\nstranger if __import__('os').system('touch\tcanary') x\n").encode(),
    "attribute": (HEAD + "d w w\nstranger if d.__class__.__mro__ x\n").encode(),
    "document": (HEAD + "prefix value ../../evil.json: -\nd w w\n").encode(),
    "code": (HEAD + "code b ../../../evil.py\nd w w\n").encode(),
    "code-absolute": (HEAD + "code b /tmp/modeling_deltalm.py\nd w w\n").encode(),
    "parts": (HEAD + "d w[0/1000000000000] w\n").encode(),
    "size": (HEAD + "9" * 5000 + " w w\n").encode(),
    "many-layouts": "".join(f"layout l{n} torch -\n" for n in range(30_000)).encode(),
    "fifo": os.mkfifo,
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "dangling": lambda path: path.symlink_to("nowhere"),
}
TABLE = ("--table", "{case}/x.tbl")
LINES = (
    ("inspect", "{case}/x.pt", *TABLE, "--json"),
    ("convert", "{case}/x.pt", "{out}/x", "--to", "b", *TABLE),
    ("diff", "{case}/x.pt", "{case}/x.pt", *TABLE),
    ("audit", "{case}/x.pt", "--against", "b", *TABLE, "--json"),
    ("validate", "{case}/x.pt", *TABLE),
)


def _build(content: bytes | Callable[[Path], None]) -> Build:
    def build(folder: Path) -> None:
        (folder / "x.pt").write_bytes(torch_zip())
        if isinstance(content, bytes):
            (folder / "x.tbl").write_bytes(content)
        else:
            content(folder / "x.tbl")

    return build


CASES = tuple(
    Case(f"tables/{what}", f"a table that is none ({what})", "survived", _build(content), lines=LINES)
    for what, content in TEXTS.items()
)
