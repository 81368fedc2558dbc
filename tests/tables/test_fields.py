"""Config fields: every value has an origin, both ways, and a config that contradicts the tensors is caught."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from ckptconv.tables.catalog import tables
from ckptconv.tables.expressions import evaluate
from ckptconv.tables.fields import COMPUTED, Resolved, Sides, parse_value, resolve
from ckptconv.tables.lint import sample_dims
from ckptconv.tables.model import Table

DELTALM = next(table for table in tables() if table.family == "deltalm")
DIMS = {
    "vocab": 163, "tgt_vocab": 163, "d": 64, "positions": 64, "tgt_positions": 64, "ffn": 128, "tgt_ffn": 128,
    "encoder_layers": 4, "decoder_layers": 2, "layernorm_embedding": True, "encoder_normalize_before": False,
    "decoder_normalize_before": False, "share_encoder_decoder_embeddings": True, "tie_word_embeddings": True,
    "dtype": "float32",
}  # fmt: skip


def resolved(
    source: str, target: str, documents: dict[str, Any], after: dict[str, Any] | None = None, **given
) -> Resolved:
    return resolve(
        Sides(
            DELTALM,
            source,
            target,
            DIMS,
            after or DIMS,
            documents,
            given.get("overrides", {}),
            given.get("guesses", {}),
        )
    )


def by_path(result: Resolved, path: str) -> tuple[Any, str]:
    return next((value.value, value.origin) for value in result.values if value.path == path)


NAMESPACE = {"cfg": {"model": {"encoder_attention_heads": 4, "dropout": 0.3, "no_scale_embedding": True}}}


def test_origins_are_told():
    result = resolved(
        "fairseq", "hf", {"": NAMESPACE}, overrides={"activation_dropout": 0.2}, guesses={"source_lang": "de"}
    )
    assert by_path(result, "d_model") == (64, "tensors")
    assert by_path(result, "max_position_embeddings") == (62, "tensors")
    assert by_path(result, "encoder_attention_heads") == (4, "source config")
    assert by_path(result, "decoder_attention_heads") == (1, "default")
    assert by_path(result, "activation_dropout") == (0.2, "--set")
    assert by_path(result, "source_lang") == ("de", "file names")
    assert by_path(result, "model_type") == ("deltalm", "constant")
    assert by_path(result, "scale_embedding") == (False, "source config")
    assert result.document("config.json")["auto_map"]["AutoConfig"] == "configuration_deltalm.DeltaLMConfig"
    assert result.document("generation_config.json")["max_length"] == 63


@pytest.mark.parametrize("place", ["cfg.model", "args"])
def test_every_generation_of_arguments_is_read(place: str):
    documents: dict[str, Any] = {"encoder_attention_heads": 8}
    for part in reversed(place.split(".")):
        documents = {part: documents}
    assert by_path(resolved("fairseq", "hf", {"": documents}), "encoder_attention_heads") == (8, "source config")


def test_there_and_back_keeps_every_field_that_both_sides_have():
    said = {
        "model": {
            "dropout": 0.3,
            "activation_fn": "gelu_accurate",
            "no_scale_embedding": False,
            "encoder_layerdrop": 0.25,
        }
    }
    there = resolved("fairseq", "hf", {"": {"cfg": said}})
    assert by_path(there, "activation_function") == ("gelu_new", "source config")
    assert by_path(there, "scale_embedding")[0] is True
    back = resolved("hf", "fairseq", {"config.json": there.document("config.json")})
    for name, value in said["model"].items():
        assert by_path(back, f"cfg.model.{name}")[0] == value, name


@pytest.mark.parametrize(
    ("source", "documents", "words"),
    [
        ("hf", {"config.json": {"d_model": 1024}}, "config.json: d_model = 1024, but the tensors say d = 64"),
        ("hf", {"config.json": {"encoder_layers": 24}}, "encoder_layers = 24, but the tensors say encoder_layers = 4"),
        ("hf", {"config.json": {"tie_word_embeddings": True}}, None),
        ("fairseq", {"": {"cfg": {"model": {"encoder_normalize_before": True}}}}, "encoder_normalize_before = True"),
        ("fairseq", {"": {"args": {"max_source_positions": 512}}}, "args.max_source_positions = 512"),
        ("fairseq", {"": {"args": {"max_source_positions": 62}}}, None),
        ("fairseq", {"": {"args": {"max_source_positions": None}}}, None),
    ],
)
def test_contradictions_name_both_sides(source: str, documents: dict, words: str | None):
    result = resolved(source, "fairseq" if source == "hf" else "hf", documents)
    assert bool(result.contradictions) == (words is not None)
    assert words is None or words in result.contradictions[0].message
    assert words is None or "mappings/deltalm.tbl:" in result.contradictions[0].message


def test_tensors_that_differ_contradict_a_config_that_ties_them_but_not_the_other_way_round():
    untied = {**DIMS, "tie_word_embeddings": False}
    sides = Sides(DELTALM, "hf", "fairseq", untied, untied, {"config.json": {"tie_word_embeddings": True}}, {}, {})
    assert "tie_word_embeddings = False" in resolve(sides).contradictions[0].message
    result = resolved("hf", "fairseq", {"config.json": {"tie_word_embeddings": False}})
    assert not result.contradictions
    assert "equal bytes" in result.denied[0]
    assert by_path(result, "cfg.model.share_all_embeddings") == (True, "tensors")


def test_the_target_gets_the_sizes_after_resizing():
    after = {**DIMS, "vocab": 170, "tgt_vocab": 170}
    result = resolved("hf", "fairseq", {"config.json": {"vocab_size": 163}}, after=after)
    assert not result.contradictions


def test_set_reads_any_layouts_name_in_its_own_sense_and_refuses_others():
    by_hf_name = resolved("fairseq", "hf", {}, overrides={"scale_embedding": True})
    by_fairseq_name = resolved("fairseq", "hf", {}, overrides={"no_scale_embedding": False})
    assert by_path(by_hf_name, "scale_embedding") == by_path(by_fairseq_name, "scale_embedding") == (True, "--set")
    with pytest.raises(KeyError, match="attention_hats"):
        resolved("fairseq", "hf", {}, overrides={"attention_hats": 3})
    assert resolved("fairseq", "hf", {}, overrides={"d_model": 1}).contradictions


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.family)
def test_every_pair_resolves_without_a_config(table: Table):
    for source, target in permutations([layout.name for layout in table.layouts], 2):
        dims = {**sample_dims(table), **{equal.name: True for equal in table.equals}, **dict.fromkeys(COMPUTED, "x")}
        result = resolve(Sides(table, source, target, dims, dims, {}, {}, {}))
        assert not result.contradictions
        assert {value.origin for value in result.values} <= {"tensors", "default", "constant"}


@pytest.mark.parametrize(("width", "name"), [(768, "deltalm_base"), (1024, "deltalm_large")])
def test_a_case_replaces_the_value_where_its_condition_holds(width: int, name: str):
    dims = {**DIMS, "d": width}
    result = resolve(Sides(DELTALM, "hf", "fairseq", dims, dims, {}, {}, {}))
    assert by_path(result, "cfg.model._name") == (name, "default")
    kept = resolve(Sides(DELTALM, "hf", "fairseq", dims, dims, {}, {"cfg.model._name": "deltalm_tiny"}, {}))
    assert by_path(kept, "cfg.model._name") == ("deltalm_tiny", "--set")
    assert by_path(kept, "cfg.task._name") == ("translation", "constant")


@pytest.mark.parametrize(("layers", "width", "heads"), [(12, 768, 12), (24, 1024, 16), (36, 2560, 32), (48, 4096, 32)])
def test_the_published_sizes_of_xlmr_have_their_heads_by_default(layers: int, width: int, heads: int):
    table = next(table for table in tables() if table.family == "xlmr")
    dims = {**sample_dims(table), "layers": layers, "d": width, "tie_word_embeddings": True}
    dims |= dict.fromkeys(COMPUTED, "x")
    result = resolve(Sides(table, "fairseq", "hf", dims, dims, {}, {}, {}))
    assert by_path(result, "num_attention_heads") == (heads, "default")


def test_values_are_json_expressions_or_words():
    assert parse_value("3", {}) == 3
    assert parse_value('["a"]', {}) == ["a"]
    assert parse_value("max(1,d//64)", {"d": 32}) == 1
    assert parse_value("gelu", {"d": 1}) == "gelu"
    assert parse_value("d", {"d": 7}) == 7
    for bad in ("d**d", "__import__('os')", "(lambda: 1)()", "[1 for x in d]"):
        with pytest.raises(ValueError, match=r"no expression|can't"):
            parse_value(bad, {"d": 7, "__import__": 1, "x": 1})


@pytest.mark.parametrize("text", ["d ** 2", "d / 2", "d if d else 1", "abs(d)", "d[0]", "1.5", "'a'", "max(d, key=d)"])
def test_expressions_are_integers_only(text: str):
    with pytest.raises((ValueError, KeyError)):
        evaluate(text, {"d": 4})
