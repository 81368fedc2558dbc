"""Opcodes that mention names and make calls of them, or would."""

from __future__ import annotations

from ckptconv.containers.checkpoint import Storage
from ckptconv.containers.inert import Call, Dict, Global, Node
from ckptconv.containers.pickles.collections import kind, no_target
from ckptconv.containers.pickles.machine import BadView, Handler, Machine
from ckptconv.containers.pickles.values import read_line, string
from ckptconv.errors import Damaged
from ckptconv.text import printable


def _global(m: Machine, at: int) -> int:
    module, after = read_line(m, at)
    name, after = read_line(m, after)
    m.stack.append(m.mention(string(module), string(name)))
    m.spent += 128
    return after


def _stack_global(m: Machine, at: int) -> int:
    name, module = m.stack.pop(), m.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise m.damaged("makes a name of something that is no text")
    m.stack.append(m.mention(module, name))
    m.spent += 128
    return at


def _reduce(m: Machine, at: int) -> int:
    stack = m.stack
    args, target = stack.pop(), stack[-1]
    if type(target) is not Global or type(args) is not tuple:
        raise _no_call(m, target, args)
    full = target.full
    if full not in m.rebuild:
        _check_callable(m, target)
    if full in m.rebuild:
        stack[-1] = _rebuilt(m, target, args)
    elif full == "_codecs.encode":
        stack[-1] = _encoded(m, args)
    elif full in ("copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__", "copy_reg.__newobj__"):
        stack[-1] = _made(m, args[0] if args else None, ())
    else:
        stack[-1] = Call(target, args, "reduce")
    m.spent += 136
    return at


def _rebuilt(m: Machine, target: Global, args: tuple[Node, ...]) -> Node:
    try:
        node = m.rebuild[target.full](args)
    except BadView as problem:
        raise Damaged(f"{m.where} is damaged: {m.near()} {problem}") from None
    return Call(target, args, "reduce") if node is None else node


def _encoded(m: Machine, args: tuple[Node, ...]) -> bytes | Storage:
    """`_codecs.encode(text, 'latin1')` is how protocol 2 spells bytes; nothing else of it is taken."""
    if len(args) == 2 and type(args[0]) is Storage and args[1] in ("latin1", "latin-1"):  # it was left in the file
        return args[0]
    if len(args) == 2 and type(args[0]) is str and args[1] in ("latin1", "latin-1"):
        try:
            return args[0].encode("latin-1")
        except UnicodeEncodeError:
            pass
    raise m.refuse("calls _codecs.encode with something other than bytes spelt as text")


def _made(m: Machine, target: Node, args: Node, kwargs: Node = None) -> Call:
    if type(target) is not Global or type(args) is not tuple:
        raise _no_call(m, target, args)
    _check_callable(m, target)
    m.spent += 136
    return Call(target, args, "new", kwargs)


def _check_callable(m: Machine, target: Global) -> None:
    if not target.callable:
        told = "a function that ckptconv doesn't know (--allow-unknown reads what it can of the rest)"
        raise m.refuse(f"calls {printable(target.full)}, {told}")


def _no_call(m: Machine, target: Node, args: Node) -> Exception:
    if type(target) is not Global:
        return m.refuse(f"calls {kind(target)} instead of a name")
    return m.damaged(f"calls {printable(target.full)} with {kind(args)} instead of a tuple")


def _newobj(m: Machine, at: int) -> int:
    args, target = m.stack.pop(), m.stack[-1]
    m.stack[-1] = _made(m, target, args)
    return at


def _newobj_ex(m: Machine, at: int) -> int:
    kwargs, args, target = m.stack.pop(), m.stack.pop(), m.stack[-1]
    if type(kwargs) is not Dict:
        raise m.damaged(f"makes an object with {kind(kwargs)} instead of a dict of arguments")
    m.stack[-1] = _made(m, target, args, kwargs)
    return at


def _inst(m: Machine, at: int) -> int:
    module, after = read_line(m, at)
    name, after = read_line(m, after)
    target = m.mention(string(module), string(name))
    args = tuple(m.pop_mark())
    m.stack.append(_made(m, target, args))
    return after


def _obj(m: Machine, at: int) -> int:
    items = m.pop_mark()
    if not items:
        raise m.damaged("makes an object of nothing")
    m.stack.append(_made(m, items[0], tuple(items[1:])))
    return at


def _build(m: Machine, at: int) -> int:
    state, target = m.stack.pop(), m.stack[-1]
    if type(target) is not Call:
        raise no_target(m, "gives a state to", target)
    if target.built:
        raise m.damaged(f"gives {printable(target.target.full)} a state twice")
    target.state, target.built = state, True
    return at


def _binpersid(m: Machine, at: int) -> int:
    try:
        m.stack[-1] = m.persist(m.stack[-1])
    except BadView as problem:
        raise Damaged(f"{m.where} is damaged: {m.near()} {problem}") from None
    m.spent += 300  # a third of it for the time that it takes to check
    return at


CALLS: dict[bytes, Handler] = {
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _reduce,
    b"i": _inst,
    b"o": _obj,
    b"\x81": _newobj,
    b"\x92": _newobj_ex,
    b"b": _build,
    b"Q": _binpersid,
}
