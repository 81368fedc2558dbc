"""Keys as people read them."""

from __future__ import annotations

from collections.abc import Iterable


def is_index(part: str) -> bool:
    """Whether a part of a key is a plain decimal index: `0`, `12`; no sign, no leading zero, at most six digits."""
    return part.isascii() and part.isdigit() and len(part) <= 6 and (part == "0" or part[0] != "0")


def collapsed(keys: Iterable[str]) -> list[str]:
    """Keys that differ in their numbers only, as one: `layers.{0..11}.fc1.weight`, in order of first appearance."""
    groups: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for key in keys:
        parts = key.split(".")
        pattern = tuple("{}" if is_index(part) else part for part in parts)
        groups.setdefault(pattern, []).append(tuple(int(part) for part in parts if is_index(part)))
    return [_one(pattern, numbers) for pattern, numbers in groups.items()]


def common_prefix(keys: Iterable[str]) -> str:
    """The dotted parts that all keys begin with, none of them whole: `model_slow.decoder.`; "" for none."""
    shared = []
    for column in zip(*(key.split(".")[:-1] for key in keys), strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(shared) + "." if shared else ""


def _one(pattern: tuple[str, ...], numbers: list[tuple[int, ...]]) -> str:
    columns = iter([sorted(set(column)) for column in zip(*numbers, strict=True)])
    return ".".join(_ranges(next(columns)) if part == "{}" else part for part in pattern)


def _ranges(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    return "{" + ",".join(map(str, numbers)) + "}"
