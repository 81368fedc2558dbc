"""An interpreter of pickle opcodes that builds inert nodes (`inert.py`): it imports nothing and calls nothing.

`read_pickle` is the one way in.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from ckptconv.containers.inert import Global, Node
from ckptconv.containers.pickles.machine import PICKLE_LIMIT, BadView, Machine, Persist, Rebuild, Truncated
from ckptconv.containers.pickles.opcodes import HANDLERS
from ckptconv.containers.reading import Reading

__all__ = ["PICKLE_LIMIT", "BadView", "Persist", "Pickle", "Truncated", "read_pickle"]

_WINDOW = 1 << 16  # instructions between two looks at the memory


class Pickle(NamedTuple):
    """root: what the pickle holds. end: where it ends in the data. globals: every name it mentions, in order.
    memory: an estimate of the bytes that it takes."""

    root: Node
    end: int
    globals: tuple[Global, ...]
    memory: int


def read_pickle(
    data: bytes,
    where: str,
    persist: Persist | None = None,
    rebuild: Mapping[str, Rebuild] | None = None,
    start: int = 0,
    reading: Reading | None = None,
) -> Pickle:
    """Interprets one pickle (protocols 0 to 5) that begins at `start`; bytes after its end are left alone.

    where: the file's name for messages, already printable. persist: turns a persistent id into a node (BadView: a
    reason to refuse it). rebuild: functions by full name that make a node of a call's arguments; they return None to
    leave it an inert Call. reading: what it may call and cost. Raises Truncated, Damaged, Unsafe or Unsupported.
    """
    machine = Machine(data, where, persist or _no_persistent_ids, rebuild or {}, reading or Reading())
    _run(machine, start)
    return Pickle(machine.stack[0], machine.end, tuple(machine.names.values()), machine.spent)


def _run(machine: Machine, position: int) -> None:
    data, size, handlers = machine.data, machine.size, HANDLERS
    try:
        while machine.end < 0:
            machine.check_memory()
            machine.count_steps(_WINDOW)
            for _ in range(_WINDOW):
                position = handlers[data[position]](machine, position + 1)
    except struct.error:
        raise machine.truncated() from None
    except (IndexError, KeyError):
        if machine.end < 0 and position + 1 >= size:  # an argument of one byte
            raise machine.truncated() from None
        if machine.end < 0:  # else STOP was read, after which there is nothing
            raise machine.damaged(f"takes a value at byte {position} that was never put there") from None
    except UnicodeDecodeError:
        raise machine.damaged(f"holds text at byte {position} that is not UTF-8") from None
    machine.check_memory()


def _no_persistent_ids(_: Node) -> Node:
    raise BadView("refers to a storage, where none can be")
