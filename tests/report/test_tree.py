"""The module tree: nothing lost, nothing counted twice, equal layers as one line whatever the order of the keys."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptconv.commands.inspect import TensorInfo
from ckptconv.report.tree import Line, module_tree

PARTS = st.sampled_from(["a", "b", "weight", "0", "1", "2", "10", "01", "²", "", "layers"])
KEYS = st.lists(st.lists(PARTS, min_size=1, max_size=5).map(".".join), min_size=1, max_size=30, unique=True)
SHAPES = st.lists(st.integers(0, 3), max_size=2).map(tuple)


def info(key: str, shape: tuple[int, ...] = (2,), tied_to: str | None = None) -> TensorInfo:
    return TensorInfo(key, shape, "F32", 4 * prod(shape), tied_to)


@st.composite
def state_dicts(draw: st.DrawFn) -> list[TensorInfo]:
    keys = draw(KEYS)
    made = [info(key, draw(SHAPES)) for key in keys]
    owner = made[0]
    tied = [info(each.key, owner.shape, owner.key) if draw(st.booleans()) else each for each in made[1:]]
    return [owner, *tied]


def names(lines: list[Line]) -> list[tuple[int, str, int]]:
    return [(line.depth, line.name, line.times) for line in lines]


def layers(numbers: list[int], prefix: str = "model.layers") -> list[TensorInfo]:
    return [info(f"{prefix}.{number}.{part}") for number in numbers for part in ("q.weight", "q.bias", "norm.weight")]


@given(state_dicts(), st.none() | st.integers(1, 4))
def test_the_top_lines_sum_to_the_parameters(tensors: list[TensorInfo], depth: int | None):
    lines = list(module_tree(tensors, depth))
    unique = sum(prod(each.shape) for each in tensors if each.tied_to is None)
    assert sum(line.parameters for line in lines if line.depth == 0) == unique
    assert depth is None or all(line.depth < depth for line in lines)


@given(state_dicts())
def test_every_tensor_is_represented_once(tensors: list[TensorInfo]):
    """Lines that stand for several modules, multiplied out, have as many leaves as there are tensors."""
    count = 0
    above: list[int] = []
    for line in module_tree(tensors):
        above[line.depth :] = [line.times * (above[line.depth - 1] if line.depth else 1)]
        count += above[-1] * len(line.leaves)
    assert count == len(tensors)


@given(st.permutations(range(12)))
def test_equal_layers_are_one_line_in_any_order_of_the_keys(order: list[int]):
    found = names(list(module_tree([info("model.emb"), *layers(order), info("model.head")])))
    assert found[:3] == [(0, "model", 1), (1, "emb", 1), (1, "layers.{0..11}", 12)]
    assert found[-1] == (1, "head", 1)


def test_keys_in_text_order_as_transformers_writes_them():
    tensors = sorted(layers(list(range(12))), key=lambda each: each.key)
    assert tensors[3].key.startswith("model.layers.1.")
    assert tensors[6].key.startswith("model.layers.10.")
    assert names(list(module_tree(tensors)))[0] == (0, "model.layers.{0..11}", 12)


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        (info("m.2.q", (3,)), ["{0..1}", "2", "{3..4}"]),
        (TensorInfo("m.2.q", (2,), "F16", 4, None), ["{0..1}", "2", "{3..4}"]),
        (info("m.2.q", tied_to="m.1.q"), ["{0..1}", "2", "{3..4}"]),
        (info("m.2.r"), ["{0..1}", "2", "{3..4}"]),
        (info("m.7.q"), ["{0..1}", "{3..4}", "7"]),
        (info("m.02.q"), ["{0..1}", "{3..4}", "02"]),
    ],
)
def test_only_what_agrees_is_collapsed(odd: TensorInfo, expected: list[str]):
    lines = list(module_tree([odd, *(info(f"m.{number}.q") for number in (0, 1, 3, 4))]))
    found = [line.name.removesuffix(".q").removesuffix(".r") for line in lines if line.depth]
    assert sorted(found) == sorted(expected)


def test_equal_modules_in_equal_modules_are_multiplied():
    tensors = [info(f"layers.{layer}.experts.{expert}.w", (5,)) for layer in range(3) for expert in range(4)]
    (line,) = module_tree(tensors)
    assert (line.name, line.times, line.parameters) == ("layers.{0..2}.experts.{0..3}.w", 12, 60)


def test_layers_that_share_their_tensors_are_counted_once():
    tensors = [info("l.0.w"), *(info(f"l.{number}.w", tied_to="l.0.w") for number in range(1, 6))]
    lines = list(module_tree(tensors))
    assert [(line.name, line.parameters) for line in lines] == [("l", 2), ("0.w", 2), ("{1..5}.w", 0)]


def test_keys_of_very_many_parts_stay_apart():
    stem = ".".join("abcdefgh" * 10)
    tensors = [info(f"{stem}.x.w"), info(f"{stem}.y.w", (3,)), info("0." * 5000 + "w", (4,))]
    lines = list(module_tree(tensors))
    shapes = sorted(leaf.shape for line in lines for _, leaf in line.leaves)
    assert shapes == [(2,), (3,), (4,)]
    assert max(line.depth for line in lines) < 64
    assert {part for line in lines for part, _ in line.leaves} == {"", stem[126:] + ".x.w", stem[126:] + ".y.w"}
