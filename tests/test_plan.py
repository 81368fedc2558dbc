"""Plans, over every table and every ordered pair of layouts: there and back is the identity on what both hold."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptconv.dtypes import BF16, BY_NAME, F16, F32
from ckptconv.errors import DoesNotFit
from ckptconv.plan import Facts, choose, make_plan, refused_drops, resized_dims, same_plan, ties
from ckptconv.tables.catalog import tables
from ckptconv.tables.fit import Fit, expected_keys, fit
from ckptconv.tables.lint import sample_dims
from ckptconv.tables.model import Table
from ckptconv.tables.parse import parse
from tests.executor import carry_out
from tests.toy import TABLE, held

PAIRS = [(table, source.name, target.name) for table in tables() for source, target in permutations(table.layouts, 2)]
IDS = [f"{table.family}-{source}-{target}" for table, source, target in PAIRS]
NOTHING = Facts({}, frozenset(), {})

FUSED = parse(TABLE, Path("mappings/toy.tbl"))
FUSED_PAIRS = [(FUSED, a.name, b.name) for a, b in permutations(FUSED.layouts, 2)]


def arrays_for(table: Table, layout: str, dims: dict, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        key: generator.standard_normal(shape).astype(np.float32) for key, shape in expected_keys(table, layout, dims)
    }


def seen_as(table: Table, layout: str, arrays: dict[str, np.ndarray], head: str = "") -> Fit:
    return fit(table, layout, {key: array.shape for key, array in arrays.items()}, head=head)


def convert(found: Fit, target: str, arrays: dict, facts: Facts = NOTHING, wanted: dict | None = None, head=None):
    chosen = choose(found, target, head)
    chosen = replace(chosen, dims=resized_dims(chosen.dims, wanted or {}))
    plan = make_plan(found, target, facts, chosen, dict.fromkeys(arrays, F32), None)
    return plan, carry_out(plan, arrays)


def drawn_dims(table: Table, source: str, data: st.DataObject) -> dict[str, int | bool]:
    """Any sizes, and any options that a file of the layout can have."""
    lacked = {line.option for line in table.lacks if line.layout == source}
    always = {line.option for line in table.has if line.layout == source}
    one = [option for line in table.heads if line.layout == source for option in line.options]
    head = data.draw(st.sampled_from([*one, ""]), label="head") if one else ""
    dims: dict[str, int | bool] = {}
    for name, size in sample_dims(table).items():
        if not isinstance(size, bool):
            dims[name] = data.draw(st.integers(1, 4), label=name)
        elif name in one:
            dims[name] = name == head
        elif "=" in name:
            dims[name] = True
        else:
            dims[name] = name not in lacked and (name in always or data.draw(st.booleans(), label=name))
    return dims


@pytest.mark.parametrize(
    ("table", "source", "target"), PAIRS + FUSED_PAIRS, ids=[*IDS, *(f"fused-{a}-{b}" for _, a, b in FUSED_PAIRS)]
)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_there_and_back(table: Table, source: str, target: str, data: st.DataObject):
    dims = held(table, source, drawn_dims(table, source, data))
    arrays = arrays_for(table, source, dims, data.draw(st.integers(0, 99)))
    found = seen_as(table, source, arrays)
    assert found.exact
    # A file with its lm_head and a trained head gives the trained one; what the target has no place for is refused.
    head = data.draw(st.sampled_from([None, "none"]))
    kept = {} if head else {option: there for option, there in found.dims.items() if there}
    trained = [each for line in table.heads for each in line.options if each != "lm_head" and each in kept]
    if trained and table.heads_of(target):
        kept.pop("lm_head", None)
    refused = [line for line in table.lacks if line.layout == target and kept.get(line.option, False)]
    heads = {option for line in table.heads for option in line.options}
    refused += [
        line for line in table.lacks if line.layout == target and line.option not in heads and dims.get(line.option)
    ]
    if not any(line.layout for line in table.heads):
        head = None
    if refused:
        with pytest.raises(DoesNotFit, match=re.escape(refused[0].reason)):
            convert(found, target, arrays, head=head)
        return
    there, moved = convert(found, target, arrays, head=head)
    assert {key for key, _ in expected_keys(table, target, choose(found, target, head).dims)} <= set(moved)
    again = seen_as(table, target, moved, "" if head else next(iter(trained), ""))
    assert again.exact
    made_up = any(line.layout == source and again.dims.get(line.option) for line in table.lacks)  # an lm_head
    _, back = convert(again, source, moved, head="none" if made_up and not trained and table.heads_of(source) else None)
    lost = {told.key for told in there.dropped}
    consts = {const.template for const in table.consts}
    folded = {line.into: line.key for line in table.folds if line.layout == source and line.key in lost}
    for key, array in arrays.items():
        if key in folded:
            np.testing.assert_array_equal(back[key], array + arrays[folded[key]][:1])
        elif key not in lost and not any(key.endswith(text.rpartition(".")[2]) for text in consts):
            assert back[key].tobytes() == array.tobytes(), key
    # Nothing is lost that is not told.
    used = {key for step in there.steps for key in step.sources}
    assert set(arrays) == used | lost


def test_fused_parts_are_in_order_and_one_copy_stays_one_copy():
    dims = {"v": 5, "d": 2, "f": 3, "layers": 1}
    arrays = {
        "embed.weight": np.zeros((5, 2), np.float32),
        "h.0.in_weight": np.arange(12, dtype=np.float32).reshape(6, 2),
        "h.0.in_bias": np.arange(6, dtype=np.float32),
        "h.0.fc.weight": np.arange(6, dtype=np.float32).reshape(3, 2),
    }
    found = seen_as(FUSED, "fused", arrays)
    assert found.sizes == dims
    plan, split = convert(found, "split", arrays)
    assert split["h.0.k.weight"].tolist() == [[4, 5], [6, 7]]
    assert split["h.0.v.bias"].tolist() == [4, 5]
    assert {step.op for step in plan.steps} == {"slice", "copy"}
    plan, fused = convert(seen_as(FUSED, "split", split), "fused", split)
    assert {step.op for step in plan.steps} == {"join", "copy"}
    assert fused["h.0.in_weight"].tolist() == arrays["h.0.in_weight"].tolist()
    plan, paddle = convert(found, "paddle", arrays)
    assert paddle["h.0.fc.weight"].tolist() == arrays["h.0.fc.weight"].T.tolist()
    assert {step.op for step in plan.steps if "fc" in step.key} == {"transpose"}


def deltalm() -> Table:
    return next(table for table in tables() if table.family == "deltalm")


EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")


@pytest.mark.parametrize(
    ("equal", "kept", "flags"),
    [
        ({EMBEDDINGS[1]: EMBEDDINGS[0], EMBEDDINGS[2]: EMBEDDINGS[0]}, ["model.shared.weight"], (True, True)),
        ({EMBEDDINGS[2]: EMBEDDINGS[1]}, ["model.shared.weight", "model.decoder.embed_tokens.weight"], (False, True)),
        ({EMBEDDINGS[1]: EMBEDDINGS[0]}, ["model.shared.weight", "lm_head.weight"], (True, False)),
        ({}, ["model.shared.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"], (False, False)),
    ],
)  # fmt: skip
def test_ties_come_from_equal_bytes_and_only_from_them(equal, kept, flags):
    dims = {**sample_dims(deltalm()), "tgt_vocab": 7, "vocab": 7}
    arrays = arrays_for(deltalm(), "fairseq", dims)
    for key, other in equal.items():
        arrays[key] = arrays[other]
    facts = Facts(equal, frozenset(), {})
    found = seen_as(deltalm(), "fairseq", arrays)
    plan, _ = convert(found, "hf", arrays, facts)
    family = {
        "model.shared.weight",
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
        "lm_head.weight",
    }
    assert [step.key for step in plan.steps if step.key in family and not step.tied_to] == kept
    assert tuple(ties(found, facts, found.dims).values()) == flags
    # Sizes that differ after a resize can't be one tensor, whatever the bytes were.
    resized = ties(found, facts, resized_dims(found.dims, {"tgt_vocab": 5}))
    assert resized["share_encoder_decoder_embeddings"] is False
    assert resized["tie_word_embeddings"] is flags[1]


def test_from_pretrained_the_output_projection_is_the_decoders_embedding_and_told():
    arrays = arrays_for(deltalm(), "pretrained", sample_dims(deltalm()))
    found = seen_as(deltalm(), "pretrained", arrays)
    plan, moved = convert(found, "fairseq", arrays)
    assert moved["decoder.output_projection.weight"].tobytes() == arrays["tgt_embedding.embed_tokens.weight"].tobytes()
    assert {told.key for told in plan.created} == {
        "decoder.output_projection.weight",
        "encoder.version",
        "decoder.version",
    }
    assert moved["encoder.version"].tolist() == [3.0]


def test_cut_and_made_up_rows_are_told_by_number():
    arrays = arrays_for(
        deltalm(),
        "pretrained",
        {**sample_dims(deltalm()), "vocab": 10, "tgt_vocab": 10, "positions": 6, "tgt_positions": 6},
    )
    found = seen_as(deltalm(), "pretrained", arrays)
    wanted = {"vocab": 7, "tgt_vocab": 7, "positions": 9, "tgt_positions": 9, "absent": 1}
    plan, moved = convert(found, "fairseq", arrays, NOTHING, wanted)
    assert "absent" not in plan.dims
    told = {each.key: (each.before, each.after, each.rows) for each in plan.resized}
    assert told["encoder.embed_tokens.weight"] == (10, 7, "7..9 cut")
    assert told["decoder.embed_positions.weight"] == (6, 9, "6..8 made up, zeros")
    assert moved["encoder.embed_tokens.weight"].tobytes() == arrays["src_embedding.embed_tokens.weight"][:7].tobytes()
    assert not moved["decoder.embed_positions.weight"][6:].any()
    untouched, _ = convert(found, "fairseq", arrays)
    assert untouched.resized == ()


def test_a_bias_that_holds_values_is_not_dropped_as_zeros():
    arrays = arrays_for(deltalm(), "hf", sample_dims(deltalm()))
    arrays["final_logits_bias"] = np.zeros((1, int(sample_dims(deltalm())["tgt_vocab"])), np.float32)
    found = seen_as(deltalm(), "hf", arrays)
    assert [key for key, _ in refused_drops(found, NOTHING)] == ["final_logits_bias"]
    assert refused_drops(found, Facts({}, frozenset({"final_logits_bias"}), {})) == ()


def test_an_unusual_constant_is_told():
    arrays = arrays_for(deltalm(), "fairseq", sample_dims(deltalm()))
    found = seen_as(deltalm(), "fairseq", arrays)
    plan, _ = convert(found, "hf", arrays, Facts({}, frozenset(), {"encoder.version": 1.0}))
    reasons = {told.key: told.reason for told in plan.dropped}
    assert "it was 1, 3 was expected" in reasons["encoder.version"]
    assert "expected" not in reasons["decoder.version"]


def test_casts_touch_floats_only_and_ties_survive_same():
    tensors = {"a": (F32, (2, 3)), "b": (F32, (2, 3)), "n": (BY_NAME["I64"], ()), "h": (F16, (1,))}
    plan = same_plan(tensors, {"b": "a"}, BF16)
    assert [(step.key, step.dtype.name, step.op) for step in plan.steps] == [
        ("a", "BF16", "copy+cast"),
        ("b", "BF16", "tie"),
        ("n", "I64", "copy"),
        ("h", "BF16", "copy+cast"),
    ]
    assert all(step.op in ("copy", "tie") for step in same_plan(tensors, {"b": "a"}, None).steps)


def test_an_equal_line_may_speak_of_one_layer():
    text = """
    layout a torch -
    layout b torch -
    let i 0..layers
    d,d layers.{i}.w l.{i}.w
    d,d layers.{i}.v l.{i}.v
    equal alike a layers.1.w layers.1.v
    """
    table = parse(text, Path("mappings/toy.tbl"))
    found = fit(table, "b", {f"l.{number}.{name}": (3, 3) for number in range(2) for name in "wv"})
    assert ties(found, NOTHING, found.dims) == {"alike": False}
    assert ties(found, Facts({"l.1.v": "l.1.w"}, frozenset(), {}), found.dims) == {"alike": True}
    assert ties(found, NOTHING, {**found.dims, "layers": 1}) == {"alike": True}  # neither of them is there
