"""One small function per pickle opcode: (machine, position after the opcode) → position of the next one.

What the opcodes mean: CPython's Lib/pickletools.py. Every length is compared with the bytes left before it is used.
"""

from __future__ import annotations

from ckptconv.containers.pickles.calls import CALLS
from ckptconv.containers.pickles.collections import COLLECTIONS
from ckptconv.containers.pickles.machine import Handler, Machine
from ckptconv.containers.pickles.values import VALUES, u64

_STOPPED = 1 << 62


def _proto(m: Machine, at: int) -> int:
    if m.data[at] > 5:
        raise m.unsupported(f"has protocol {m.data[at]}; 5 is the newest there is")
    return at + 1


def _frame(m: Machine, at: int) -> int:
    if u64(m.data, at)[0] > m.size - at - 8:
        raise m.truncated()
    return at + 8


def _stop(m: Machine, at: int) -> int:
    if m.marks or len(m.stack) != 1:
        raise m.damaged("leaves something over at its end")
    m.end = at
    return _STOPPED


def _refused(name: str) -> Handler:
    def refuse(m: Machine, at: int) -> int:
        raise m.refuse(f"uses {name}, which no checkpoint needs")

    return refuse


def _unknown(m: Machine, at: int) -> int:
    raise m.damaged(f"has no meaning at byte {at - 1}: {m.data[at - 1]:#04x} is no instruction")


_FRAME: dict[bytes, Handler] = {
    b"\x80": _proto,
    b"\x95": _frame,
    b".": _stop,
    b"P": _refused("a persistent id in text form"),
    b"\x82": _refused("the extension registry"),
    b"\x83": _refused("the extension registry"),
    b"\x84": _refused("the extension registry"),
    b"\x97": _refused("an out-of-band buffer"),
    b"\x98": _refused("an out-of-band buffer"),
}
_TABLE = {**VALUES, **COLLECTIONS, **CALLS, **_FRAME}
HANDLERS: list[Handler] = [_TABLE.get(bytes((code,)), _unknown) for code in range(256)]
