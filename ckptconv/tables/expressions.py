"""Arithmetic over dims, as it stands in tables: `positions-2`, `max(1,d//64)`, `vocab==tgt_vocab`, `a&b`."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from ckptconv.errors import BadExpression
from ckptconv.text import printable

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.BitAnd: operator.and_,
}
_LONGEST = 400  # letters; so short that no product of numbers in it takes long
_CALLS: dict[str, Callable[..., Any]] = {"min": min, "max": max}


def evaluate(text: str, names: Mapping[str, int | bool]) -> int | bool:
    """The value of an expression of names, integers, + - * // & ==, min and max.

    Raises KeyError for a name that `names` lacks and BadExpression, which is a BadTable and a ValueError, for anything
    else that is no such expression.
    """
    try:
        value: int | bool = _value(_parsed(text), names)
    except (TypeError, ZeroDivisionError, OverflowError) as error:
        raise _bad(text, error) from None
    return value


def names_in(text: str) -> frozenset[str]:
    """The names that the expression mentions. Raises BadExpression when it can't be parsed."""
    return frozenset(node.id for node in ast.walk(_parsed(text)) if isinstance(node, ast.Name)) - frozenset(_CALLS)


def _parsed(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise _bad(text, "it is too long")
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # what ast.parse raises for odd texts
        raise _bad(text, error) from None


def _bad(text: str, why: object) -> BadExpression:
    return BadExpression(f"`{printable(text, 80)}` is no expression over dims: {printable(str(why), 80)}")


def _value(node: ast.expr, names: Mapping[str, int | bool]) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_value(node.left, names), _value(node.right, names))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
        return bool(_value(node.left, names) == _value(node.comparators[0], names))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS and not node.keywords:
        return _CALLS[node.func.id](*(_value(argument, names) for argument in node.args))
    raise _bad(ast.unparse(node), "only names, integers, + - * // & ==, min and max are")
