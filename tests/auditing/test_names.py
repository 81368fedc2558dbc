"""A wrapper's prefix and stacks of layers of another height, found on real key lists and on made ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptconv.auditing.names import Stack, Wrapper, place, stacks, unwrapped, wrapper
from ckptconv.auditing.target import Target

KEYS = sorted((Path(__file__).parents[1] / "golden" / "keys").glob("*.base.tsv"))


def keys_of(path: Path) -> list[str]:
    return [line.split("\t")[0] for line in path.read_text().splitlines()[1:] if line]


def target(keys: list[str], kind: str = "checkpoint", base: str = "") -> Target:
    return Target(kind, "x", dict.fromkeys(keys, (1,)), base=base)


@pytest.mark.parametrize("path", KEYS, ids=lambda path: path.name)
def test_every_real_list_under_a_prefix(path: Path):
    keys = keys_of(path)
    assert len(keys) > 50
    inside = [f"lf.{key}" for key in keys]
    assert wrapper(keys, target(keys)) is None
    assert wrapper(inside, target(keys)) == Wrapper("lf.", True, len(keys))
    assert wrapper(keys, target(inside)) == Wrapper("lf.", False, len(keys))


PART = st.sampled_from(["a", "b", "layer", "0", "1", "weight"])
KEY = st.lists(PART, min_size=1, max_size=4).map(".".join)


@given(keys=st.sets(KEY, min_size=1, max_size=20), prefix=st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=3))
def test_any_keys_under_any_prefix(keys: set[str], prefix: list[str]):
    front = ".".join(prefix) + "."
    inside = [front + key for key in sorted(keys)]
    found = wrapper(inside, target(sorted(keys)))
    assert found == Wrapper(front, True, len(keys))
    assert {unwrapped(key, found) for key in inside} == keys
    back = wrapper(sorted(keys), target(inside))
    assert back == Wrapper(front, False, len(keys))
    assert {unwrapped(key, back) for key in keys} == set(inside)


def test_half_of_the_keys_are_not_enough():
    assert wrapper(["lf.a.b", "c", "d"], target(["a.b", "e"])) is None
    assert wrapper(["lf.a.b", "lf.a.c", "d"], target(["a.b", "a.c"])) == Wrapper("lf.", True, 2)


def test_a_class_adds_and_removes_its_base_by_itself():
    keys = ["roberta.a.b", "roberta.a.c", "head.w"]
    aimed = target(keys, "class", "roberta.")
    assert wrapper(["a.b", "a.c"], aimed) is None
    assert wrapper([f"module.{key}" for key in keys], aimed) == Wrapper("module.", True, 3)


def layers(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}.{part}" for number in range(count) for part in ("fc.weight", "fc.bias")]


@given(source=st.integers(1, 30), wanted=st.integers(1, 30))
def test_stacks_of_another_height(source: int, wanted: int):
    shared = ["embed.weight", *layers("side.", 3)]
    found = stacks([*shared, *layers("encoder.layer.", source)], target([*shared, *layers("encoder.layer.", wanted)]))
    assert found == (() if source == wanted else (Stack("encoder.layer.", source, wanted),))


@pytest.mark.parametrize(
    "source",
    [
        [],
        ["encoder.layer.0.other"],
        ["encoder.layer.1.fc.weight", "encoder.layer.1.fc.bias"],
        [*layers("encoder.layer.", 2), "encoder.layer.5.fc.weight"],
    ],
    ids=["none", "another kind", "not from 0 on", "a gap"],
)
def test_what_is_no_shorter_stack(source: list[str]):
    assert stacks(source, target(layers("encoder.layer.", 4))) == ()


def test_the_place_of_a_key():
    assert place("encoder.layer.7.output.dense.bias") == ("encoder.layer.", 7, "output.dense.bias")
    assert place("lm_head.bias") == ("", None, "lm_head.bias")
    assert place("3") == ("", 3, "")
