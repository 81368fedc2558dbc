"""Nothing that a terminal would obey passes `printable`."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptconv.text import printable


@given(text=st.text(max_size=300))
def test_what_is_left_is_visible_and_short(text: str):
    shown = printable(text)
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert shown.endswith("…") == (len(text) > 200 or text.endswith("…"))
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("encoder.layers.0.weight", "encoder.layers.0.weight"),
        ("▁Straße 北京", "▁Straße 北京"),
        ("\x1b[31m\r\n\x00", r"\x1b[31m\x0d\x0a\x00"),
        ("a\u202eb\u2066c\u200f", r"a\u202eb\u2066c\u200f"),
        ("\ud800\U000e0041", r"\ud800\U000e0041"),
        ("\u2028\x85\u200b", r"\u2028\x85\u200b"),
    ],
)
def test_examples(text: str, shown: str):
    assert printable(text) == shown


def test_the_limit_counts_characters_of_the_text():
    assert printable("x" * 200) == "x" * 200
    assert printable("x" * 201) == "x" * 199 + "…"
    assert printable("abc", 2) == "a…"
