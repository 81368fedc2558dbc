"""Reports as JSON: the document itself, ASCII, a line for each field and for each item of a list."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ckptconv.report.as_json import dumps

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(document=st.dictionaries(st.text(), VALUES))
def test_it_reads_back_as_it_was_whatever_it_holds(document: dict[str, object]):
    text = dumps(document)
    assert json.loads(text) == document
    assert text.isascii()
    assert not [char for char in text if ord(char) < 32 and char != "\n"]


@given(items=st.lists(VALUES, min_size=1))
def test_every_item_of_a_list_has_a_line(items: list[object]):
    lines = dumps({"layout": "x", "tensors": items}).splitlines()
    assert lines[:3] == ["{", '  "layout": "x",', '  "tensors": [']
    assert [json.loads(line.strip().removesuffix(",")) for line in lines[3:-2]] == items


def test_what_json_has_no_number_for_is_text():
    found = json.loads(dumps({"a": float("nan"), "b": [{"c": (float("inf"), 1.5)}], "d": float("-inf")}))
    assert found == {"a": "nan", "b": [{"c": ["inf", 1.5]}], "d": "-inf"}
