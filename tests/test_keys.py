"""Keys that differ in their numbers only are shown as one."""

from __future__ import annotations

import pytest

from ckptconv.keys import collapsed, is_index


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ([f"a.{number}.w" for number in range(12)], ["a.{0..11}.w"]),
        (["a.0.w", "a.2.w", "b"], ["a.{0,2}.w", "b"]),
        (["a.3.w"], ["a.3.w"]),
        (["x.²", "x." + "9" * 5000, "x.007"], ["x.²", "x." + "9" * 5000, "x.007"]),
        ([f"a.{i}.b.{j}" for i in range(2) for j in range(3)], ["a.{0..1}.b.{0..2}"]),
    ],
)
def test_collapsed(keys: list[str], shown: list[str]):
    assert collapsed(keys) == shown


@pytest.mark.parametrize(
    ("part", "yes"), [("0", True), ("12", True), ("01", False), ("", False), ("²", False), ("-1", False)]
)
def test_is_index(part: str, yes: bool):
    assert is_index(part) is yes
