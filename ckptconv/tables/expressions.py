"""Arithmetic over dims, as it stands in tables: `positions-2`, `max(1,d//64)`, `vocab==tgt_vocab`, `a&b`."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.BitAnd: operator.and_,
}
_CALLS: dict[str, Callable[..., Any]] = {"min": min, "max": max}


def evaluate(text: str, names: Mapping[str, int | bool]) -> int | bool:
    """The value of an expression of names, integers, + - * // & ==, min and max.

    Raises KeyError for a name that `names` lacks and ValueError for anything else that is no such expression.
    """
    try:
        value: int | bool = _value(ast.parse(text, mode="eval").body, names)
    except (SyntaxError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"`{text}` is no expression over dims: {error}") from None
    return value


def names_in(text: str) -> frozenset[str]:
    """The names that the expression mentions. Raises ValueError when it can't be parsed."""
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise ValueError(f"`{text}` is no expression over dims: {error}") from None
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)) - frozenset(_CALLS)


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
    raise ValueError(f"`{ast.unparse(node)}` is no expression over dims")
