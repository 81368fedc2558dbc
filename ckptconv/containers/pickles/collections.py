"""Opcodes that make and fill lists, dicts, sets and tuples, and that move what lies on the stack or in the memo."""

from __future__ import annotations

from ckptconv.containers.inert import Call, Dict, Global, List, Node, Set
from ckptconv.containers.pickles.machine import Handler, Machine
from ckptconv.containers.pickles.values import read_index, u32
from ckptconv.text import printable


def _mark(m: Machine, at: int) -> int:
    m.marks.append(m.stack)
    m.stack = []
    m.spent += 64
    return at


def _tuple(m: Machine, at: int) -> int:
    items = m.pop_mark()
    m.stack.append(tuple(items))
    m.spent += 64 + 8 * len(items)
    return at


def _tuple_of(count: int) -> Handler:
    def make(m: Machine, at: int) -> int:
        stack = m.stack
        if len(stack) < count:
            raise IndexError
        stack[-count:] = [tuple(stack[-count:])]
        m.spent += 64 + 8 * count
        return at

    return make


def _empty_list(m: Machine, at: int) -> int:
    m.stack.append(List())
    m.spent += 160
    return at


def _list(m: Machine, at: int) -> int:
    items = m.pop_mark()
    made = List()
    made.items = items
    m.stack.append(made)
    m.spent += 160 + 8 * len(items)
    return at


def _empty_dict(m: Machine, at: int) -> int:
    m.stack.append(Dict())
    m.spent += 160
    return at


def _dict(m: Machine, at: int) -> int:
    items = m.pop_mark()
    made = Dict()
    m.stack.append(made)
    m.spent += 160
    _set_pairs(m, made, items)
    return at


def _empty_set(m: Machine, at: int) -> int:
    m.stack.append(Set([]))
    m.spent += 160
    return at


def _frozenset(m: Machine, at: int) -> int:
    items = m.pop_mark()
    m.stack.append(Set(items))
    m.spent += 160 + 8 * len(items)
    return at


def _append(m: Machine, at: int) -> int:
    value = m.stack.pop()
    _extend(m, m.stack[-1], [value])
    return at


def _appends(m: Machine, at: int) -> int:
    items = m.pop_mark()
    _extend(m, m.stack[-1], items)
    return at


def _extend(m: Machine, target: Node, items: list[Node]) -> None:
    if type(target) is List:
        target.items.extend(items)
    elif type(target) is Call:
        target.items = target.items or []
        target.items.extend(items)
    else:
        raise no_target(m, "appends to", target)
    m.spent += 16 + 9 * len(items)


def _additems(m: Machine, at: int) -> int:
    items = m.pop_mark()
    target = m.stack[-1]
    if type(target) is not Set:
        raise no_target(m, "adds to", target)
    target.items.extend(items)
    m.spent += 9 * len(items)
    return at


def _setitem(m: Machine, at: int) -> int:
    stack = m.stack
    value, key = stack.pop(), stack.pop()
    _set_pairs(m, stack[-1], [key, value])
    return at


def _setitems(m: Machine, at: int) -> int:
    items = m.pop_mark()
    _set_pairs(m, m.stack[-1], items)
    return at


def _set_pairs(m: Machine, target: Node, items: list[Node]) -> None:
    if len(items) % 2:
        raise m.damaged("gives a dict a key without a value")
    if type(target) is Call:
        target.pairs = target.pairs or []
    elif type(target) is not Dict:
        raise no_target(m, "sets items of", target)
    target.pairs.extend(zip(items[::2], items[1::2], strict=True))
    m.spent += 16 + 44 * len(items)


def no_target(m: Machine, what: str, target: Node) -> Exception:
    """The error for changing something that can't be changed that way."""
    if type(target) is Global:
        return m.refuse(f"{what} {printable(target.full)} itself")
    return m.damaged(f"{what} {kind(target)}")


def kind(node: Node) -> str:
    """What a node is, for messages."""
    return f"a value of type {type(node).__name__}"


def _pop(m: Machine, at: int) -> int:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()
    return at


def _pop_mark(m: Machine, at: int) -> int:
    m.pop_mark()
    return at


def _dup(m: Machine, at: int) -> int:
    m.stack.append(m.stack[-1])
    return at


def _binput(m: Machine, at: int) -> int:
    m.memo[m.data[at]] = m.stack[-1]
    return at + 1


def _long_binput(m: Machine, at: int) -> int:
    m.memo[u32(m.data, at)[0]] = m.stack[-1]
    return at + 4


def _put(m: Machine, at: int) -> int:
    index, after = read_index(m, at)
    m.memo[index] = m.stack[-1]
    m.spent += 32
    return after


def _memoize(m: Machine, at: int) -> int:
    m.memo[len(m.memo)] = m.stack[-1]
    return at


def _binget(m: Machine, at: int) -> int:
    m.stack.append(m.memo[m.data[at]])
    return at + 1


def _long_binget(m: Machine, at: int) -> int:
    m.stack.append(m.memo[u32(m.data, at)[0]])
    return at + 4


def _get_line(m: Machine, at: int) -> int:
    index, after = read_index(m, at)
    m.stack.append(m.memo[index])
    m.spent += 32
    return after


COLLECTIONS: dict[bytes, Handler] = {
    b"(": _mark,
    b"t": _tuple,
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"]": _empty_list,
    b"l": _list,
    b"a": _append,
    b"e": _appends,
    b"}": _empty_dict,
    b"d": _dict,
    b"s": _setitem,
    b"u": _setitems,
    b"\x8f": _empty_set,
    b"\x90": _additems,
    b"\x91": _frozenset,
    b"0": _pop,
    b"1": _pop_mark,
    b"2": _dup,
    b"q": _binput,
    b"r": _long_binput,
    b"p": _put,
    b"\x94": _memoize,
    b"h": _binget,
    b"j": _long_binget,
    b"g": _get_line,
}
