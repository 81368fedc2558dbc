"""JSON from files that can't be trusted: keys only once, no huge numbers, no depth or breadth without bound."""

from __future__ import annotations

import json
from typing import Any

_DIGITS_LIMIT = 20
_VALUES_LIMIT = 1_400_000  # 50,000 tensors take 650,000
_WIDE_LIMIT = 16 << 20  # text outside of ASCII takes up to four times its bytes


class BadJson(Exception):
    """Not acceptable; the text goes on after "the header …"."""


def parse(data: bytes, values: int = _VALUES_LIMIT) -> Any:
    """The one JSON value in `data`, which may hold so many `values` (keys count too). Raises BadJson."""
    if sum(map(data.count, (b"[", b"{", b",", b":"))) > values or (len(data) > _WIDE_LIMIT and not data.isascii()):
        raise BadJson("holds more values than any checkpoint needs")
    try:
        text = data.decode("utf-8")
        del data
        return json.loads(
            text, object_pairs_hook=_unique, parse_int=_small, parse_float=_no_number, parse_constant=_no_number
        )
    except UnicodeDecodeError as problem:
        raise BadJson(f"is not UTF-8 at byte {problem.start}") from None
    except json.JSONDecodeError as problem:
        raise BadJson(f"is not JSON ({problem.msg} at character {problem.pos})") from None
    except RecursionError:
        raise BadJson("is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise BadJson(f"has the key {twice!r:.200} twice")
    return made


def _small(digits: str) -> int:
    if len(digits) > _DIGITS_LIMIT:
        raise BadJson(f"has a number of {len(digits)} digits")
    return int(digits)


def _no_number(text: str) -> Any:
    return None  # a fraction or NaN: never a size or an offset, so whatever needs one refuses it
