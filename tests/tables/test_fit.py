"""Detection on real key lists: the right layout, the right dims, and everything that doesn't fit, told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptconv.errors import BadTable
from ckptconv.tables.candidates import candidates
from ckptconv.tables.catalog import Tables, tables
from ckptconv.tables.expand import expand, names_of
from ckptconv.tables.expressions import evaluate
from ckptconv.tables.fit import Fit, Shapes, expected_keys, fit
from ckptconv.tables.lint import option_sets, sample_dims
from ckptconv.tables.model import Table
from ckptconv.tables.parse import parse
from tests.toy import held

KEYS = Path(__file__).parent.parent / "golden" / "keys"
LAYOUTS = [(table, layout.name) for table in tables() for layout in table.layouts]
IDS = [f"{table.family}/{name}" for table, name in LAYOUTS]
FAMILIES = {table.family: table for table in tables()}

# File (its note says which original code made it) → layout, and what must be read off the shapes.
BASE = {"d": 768, "ffn": 3072, "encoder_layers": 12, "decoder_layers": 6}
LARGE = {"d": 1024, "ffn": 4096, "encoder_layers": 24, "decoder_layers": 12}
TINY = {"d": 32, "ffn": 64, "encoder_layers": 4, "decoder_layers": 2}
LISTS = {
    "deltalm_pretrained_weights.base": ("deltalm/pretrained", 392, {**BASE, "vocab": 250104, "positions": 514}),
    "deltalm_pretrained_weights.large": ("deltalm/pretrained", 772, {**LARGE, "vocab": 250104}),
    "deltalm_pretrained_weights.tiny": ("deltalm/pretrained", 136, TINY),
    "fairseq_deltalm_finetuned.base": ("deltalm/fairseq", 395, {**BASE, "vocab": 250001, "positions": 514}),
    "fairseq_deltalm_finetuned.large": ("deltalm/fairseq", 775, {**LARGE, "vocab": 250001}),
    "fairseq_deltalm_finetuned.tiny": ("deltalm/fairseq", 139, {**TINY, "vocab": 44}),
    "fairseq_deltalm_finetuned.v0122_BT.base": ("deltalm/fairseq", 491, {**BASE, "vocab": 250001}),
    "hf_deltalm_fengshen.base": ("deltalm/hf", 395, {**BASE, "vocab": 250001}),
    "hf_deltalm_fengshen.tiny": ("deltalm/hf", 139, {**TINY, "positions": 34}),
}
XLMR = {
    "base": {"layers": 12, "d": 768, "ffn": 3072, "positions": 514},
    "large": {"layers": 24, "d": 1024, "ffn": 4096, "positions": 514},
    "XL": {"layers": 36, "d": 2560, "ffn": 10240, "positions": 514},
    "XXL": {"layers": 48, "d": 4096, "ffn": 16384, "positions": 514},
}
# File → layout, number of keys, size, and the options that are there.
XLMR_LISTS: dict[str, tuple[str, int, str, set[str]]] = {
    "fairseq_xlmr.v08_fused.base": ("fairseq-0.8", 154, "base", {"lm_head"}),
    "fairseq_xlmr.v09.base": ("fairseq-0.9", 202, "base", {"lm_head"}),
    "fairseq_xlmr.v010.base": ("fairseq-0.10", 202, "base", {"lm_head"}),
    "fairseq_xlmr.v012_new.base": ("fairseq", 203, "base", {"lm_head"}),
    "fairseq_xlmr.v012_new.large": ("fairseq", 395, "large", {"lm_head"}),
    "fairseq_xlmr.v012_new_cls_head.base": ("fairseq", 207, "base", {"lm_head", "sequence_classification"}),
    "fairseq_xlmr.v0122_BT.base": ("fairseq", 299, "base", {"lm_head"}),
    "fairseq_xlmr_xl.base": ("fairseq", 587, "XL", {"lm_head", "prenorm"}),
    "fairseq_xlmr_xxl.base": ("fairseq", 779, "XXL", {"lm_head", "prenorm"}),
    "fairseq_infoxlm.base": ("fairseq-infoxlm", 409, "base", {"lm_head"}),
    "fairseq_xlm_align.base": ("fairseq-xlm_align", 206, "base", {"lm_head"}),
    "hf_xlmr_ForMaskedLM.transformers-2.3.0_205keys.base": ("hf", 205, "base", {"lm_head", "pooler"}),
    "hf_xlmr_public_safetensors_204keys.base": ("hf", 204, "base", {"lm_head", "pooler"}),
    "hf_xlmr_ForMaskedLM.transformers-4.30.2.base": ("hf", 203, "base", {"lm_head"}),
    "hf_xlmr_ForMaskedLM.transformers-4.57.6.base": ("hf", 202, "base", {"lm_head"}),
    "hf_xlmr_ForMaskedLM.transformers-5.23.base": ("hf", 202, "base", {"lm_head"}),
    "hf_xlmr_ForCausalLM.transformers-5.23.base": ("hf", 202, "base", {"lm_head"}),
    "hf_xlmr_Model.transformers-5.23.base": ("hf", 199, "base", {"pooler"}),
    "hf_xlmr_ForMultipleChoice.transformers-5.23.base": ("hf", 201, "base", {"pooler", "token_classification"}),
    "hf_xlmr_ForQuestionAnswering.transformers-5.23.base": ("hf", 199, "base", {"question_answering"}),
    "hf_xlmr_ForSequenceClassification.transformers-5.23.base": ("hf", 201, "base", {"sequence_classification"}),
    "hf_xlmr_ForTokenClassification.transformers-4.30.2.base": ("hf", 200, "base", {"token_classification"}),
    "hf_xlmr_ForTokenClassification.transformers-4.57.6.base": ("hf", 199, "base", {"token_classification"}),
    "hf_xlmr_ForTokenClassification.transformers-5.23.base": ("hf", 199, "base", {"token_classification"}),
    "hf_xlmr_xl_ForMaskedLM.transformers-5.23.0.base": ("hf", 586, "XL", {"lm_head", "prenorm"}),
}

# File → layout, number of keys, dims, languages, and the options that are there.
XMOD_LISTS: dict[str, tuple[str, int, dict[str, int], int, set[str]]] = {
    "fairseq_xmod.base": ("fairseq", 4091, {"d": 768, "adapter": 384}, 81, {"lm_head"}),
    "fairseq_xmod.large_prenorm": (
        "fairseq", 8221, {"d": 1024, "adapter": 256}, 81, {"lm_head", "prenorm", "adapter_norm"}
    ),
    "fairseq_xmod.tiny": ("fairseq", 67, {"d": 32, "adapter": 16}, 3, {"lm_head"}),
    "fairseq_xmod.tiny_prenorm": ("fairseq", 73, {"d": 32, "adapter": 8}, 3, {"lm_head", "prenorm", "adapter_norm"}),
    "hf_xmod_base_ForMaskedLM.transformers-5.23.0.base": ("hf", 4090, {"d": 768, "adapter": 384}, 81, {"lm_head"}),
    "hf_xmod_prenorm_ForMaskedLM.transformers-5.23.0.base": (
        "hf", 8220, {"d": 1024, "adapter": 256}, 81, {"lm_head", "prenorm", "adapter_norm"}
    ),
}  # fmt: skip

# File → layout, number of keys, size, dims, and the options that are there.
XLM_LISTS: dict[str, tuple[str, int, list[str], dict[str, int], set[str]]] = {
    "xlm_original.mlm_en_2048.base": (
        "original", 198, ["2048-en"], {"layers": 12, "d": 2048, "ffn": 8192, "positions": 512, "vocab": 30145},
        {"lm_head"}
    ),
    "xlm_original.tiny": ("original", 38, [], {"layers": 2, "d": 32, "vocab": 60}, {"lm_head"}),
    "xlm_original.tiny_3langs_langemb": ("original", 39, [], {"langs": 3, "d": 32}, {"lm_head", "lang_emb"}),
    "xlm_original.tiny_langs_nolangemb": ("original", 38, [], {"d": 32}, {"lm_head"}),
    "hf_xlm_WithLMHead.transformers-4.30.2.base_en2048": ("hf", 199, ["2048-en"], {"d": 2048}, {"lm_head"}),
    "hf_xlm_WithLMHead.transformers-5.23.0.base_en2048": ("hf", 197, ["2048-en"], {"d": 2048}, {"lm_head"}),
    "hf_xlm_WithLMHead.transformers-5.23.0.tiny": ("hf", 37, [], {"positions": 512}, {"lm_head"}),
}  # fmt: skip


def read_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """A key list as the original code wrote it."""
    lines = (KEYS / f"{name}.tsv").read_text().splitlines()[1:]
    cells = [line.split("\t") for line in lines]
    return {key: tuple(int(size) for size in shape.split("x")) for key, shape, *_ in cells}


def rivals(shapes: Shapes, name: str) -> list[Fit]:
    """The state dict seen as every layout but the one named, also where `candidates` needn't look."""
    return [fit(table, layout, shapes) for table, layout in LAYOUTS if f"{table.family}/{layout}" != name]


@pytest.mark.parametrize("name", LISTS)
def test_real_key_lists_fit_their_layout_exactly(name: str):
    layout, count, dims = LISTS[name]
    shapes = read_shapes(name)
    assert len(shapes) == count
    best, others = candidates(tables(), {"": shapes})[0], rivals(shapes, layout)
    assert best.name == layout
    assert best.exact, (best.missing, best.unexpected, best.mismatched)
    assert dims.items() <= best.sizes.items()
    assert all(other.coverage < 1 for other in others)
    assert best.dims["layernorm_embedding"] == ("large" not in name)


@pytest.mark.parametrize("name", XLMR_LISTS)
def test_real_key_lists_of_xlmr_name_their_generation_size_and_heads(name: str):
    layout, count, size, options = XLMR_LISTS[name]
    shapes = read_shapes(name)
    assert len(shapes) == count
    best, others = candidates(tables(), {"": shapes})[0], rivals(shapes, f"xlmr/{layout}")
    assert best.name == f"xlmr/{layout}"
    assert best.exact, (best.missing, best.unexpected, best.mismatched)
    assert XLMR[size].items() <= best.sizes.items()
    assert [line.name for line in best.table.known if evaluate(line.condition, best.dims)] == [size]
    assert {option for option, there in best.dims.items() if there is True and "=" not in option} == options
    # XLM-Align's file without its projections is, key for key, one of fairseq 0.9.
    assert [other.name for other in others if other.exact] == ["xlmr/fairseq-xlm_align"] * (layout == "fairseq-0.9")


@pytest.mark.parametrize("name", ["fairseq_xlmr.v09.base", *LISTS][:2])
def test_an_exact_fit_stands_alone(name: str):
    assert [found.exact for found in candidates(tables(), {"": read_shapes(name)})] == [True]


def test_no_table_after_an_exact_fit_is_read():
    shapes = read_shapes("hf_deltalm_fengshen.tiny")
    behind = Tables([FAMILIES["deltalm"].path, Path("there_is_none.tbl")])
    assert candidates(behind, {"": shapes})[0].name == "deltalm/hf"
    with pytest.raises(BadTable, match="there_is_none"):
        candidates(behind, {"": {**shapes, "another": (1,)}})


def test_of_two_state_dicts_that_fit_the_first_one_counts():
    entries = {"student": read_shapes("fairseq_xlmr.v09.base"), "teacher": read_shapes("hf_deltalm_fengshen.tiny")}
    assert [(found.entry, found.name) for found in candidates(tables(), entries)] == [("student", "xlmr/fairseq-0.9")]


@pytest.mark.parametrize("name", XMOD_LISTS)
def test_real_key_lists_of_xmod_name_their_languages(name: str):
    layout, count, dims, languages, options = XMOD_LISTS[name]
    shapes = read_shapes(name)
    assert len(shapes) == count
    best, others = candidates(tables(), {"": shapes})[0], rivals(shapes, f"xmod/{layout}")
    assert best.name == f"xmod/{layout}"
    assert best.exact, (best.missing, best.unexpected, best.mismatched)
    assert dims.items() <= best.sizes.items()
    assert len(names_of(best.dims, "lang")) == languages
    assert names_of(best.dims, "lang")[0] == "en_XX"
    assert {option for option, there in best.dims.items() if there is True and "=" not in option} == options
    assert not any(other.exact for other in others)


@pytest.mark.parametrize("name", XLM_LISTS)
def test_real_key_lists_of_xlm(name: str):
    layout, count, sizes, dims, options = XLM_LISTS[name]
    shapes = read_shapes(name)
    assert len(shapes) == count
    best, others = candidates(tables(), {"": shapes})[0], rivals(shapes, f"xlm/{layout}")
    assert best.name == f"xlm/{layout}"
    assert best.exact, (best.missing, best.unexpected, best.mismatched)
    assert dims.items() <= best.sizes.items()
    assert [line.name for line in best.table.known if evaluate(line.condition, best.dims)] == sizes
    assert {option for option, there in best.dims.items() if there is True} == options
    assert not any(other.exact for other in others)


@pytest.mark.parametrize(("table", "layout"), LAYOUTS, ids=IDS)
def test_what_a_table_expands_to_fits_it(table: Table, layout: str):
    for options in option_sets(table, layout):
        dims = held(table, layout, options)
        head = next((each for each in table.heads_of(layout) if dims.get(each)), "")
        found = fit(table, layout, dict(expected_keys(table, layout, dims)), head=head)
        assert found.exact
        assert found.coverage == 1
        assert dict(found.dims) == dict(dims)
        assert {param: slot.key for param, slot in found.slots.items()} == {
            param: slot.key for param, slot in expand(table, layout, dims).items()
        }


@pytest.mark.parametrize(("table", "layout"), LAYOUTS, ids=IDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_one_key_missing_renamed_or_reshaped_is_found(table: Table, layout: str, data: st.DataObject):
    dims = held(table, layout, sample_dims(table))
    complete = dict(expected_keys(table, layout, dims))
    ties = {key for tie in table.ties if tie.layout == layout for key in tie.keys}
    consts = {const.template for const in table.consts}
    # Without the only key of an option, a file is one without that option.
    slots = expand(table, layout, dims).values()
    options = {row.line: row.option or str(row.line) for row in table.rows}
    shared = Counter(options[slot.line] for slot in slots)
    alone = {slot.key for slot in slots if shared[options[slot.line]] == 1 and not options[slot.line].isdigit()}
    victim = data.draw(
        st.sampled_from([k for k in complete if k not in ties | consts | alone and not k.endswith("version")])
    )
    missing = {key: shape for key, shape in complete.items() if key != victim}
    found = fit(table, layout, missing)
    assert found.missing == (victim,)
    renamed = fit(table, layout, {**missing, victim + "x": complete[victim]})
    assert renamed.unexpected == (victim + "x",)
    reshaped = fit(table, layout, {**complete, victim: (*complete[victim], 7)})
    assert [each.key for each in reshaped.mismatched] == [victim]


def test_a_layer_in_the_middle_that_is_missing_is_told_whole():
    shapes = {
        key: shape for key, shape in read_shapes("fairseq_deltalm_finetuned.base").items() if ".layers.3." not in key
    }
    found = candidates(tables(), {"": shapes})[0]
    assert found.name == "deltalm/fairseq"
    assert len(found.missing) == 16 + 32
    assert all(".layers.3." in key for key in found.missing)


def test_one_wrong_shape_does_not_move_the_dims():
    shapes = read_shapes("fairseq_deltalm_finetuned.tiny")
    found = fit(FAMILIES["deltalm"], "fairseq", {**shapes, "decoder.layers.1.fc3.weight": (128, 32)})
    (mismatch,) = found.mismatched
    assert (mismatch.key, mismatch.got, mismatch.expected) == ("decoder.layers.1.fc3.weight", (128, 32), (64, 32))
    assert mismatch.symbols == ("tgt_ffn", "d")


def test_hostile_layer_numbers_are_left_over_not_counted():
    shapes = read_shapes("fairseq_deltalm_finetuned.tiny")
    hostile = {f"encoder.layers.{number}.fc1.weight": (64, 32) for number in ("999999", "99999999999999", "007", "-1")}
    found = fit(FAMILIES["deltalm"], "fairseq", {**shapes, **hostile})
    assert set(found.unexpected) == set(hostile)
    assert found.sizes["encoder_layers"] == 4


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.module.", "lf."])
@pytest.mark.parametrize("bare", [False, True])
def test_wrappers_are_taken_off_and_the_bare_models_prefix_put_on(prefix: str, bare: bool):
    name = "hf_xlmr_Model.transformers-5.23.base" if bare else "fairseq_xlmr.v08_fused.base"
    shapes = {prefix + key: shape for key, shape in read_shapes(name).items()}
    best = candidates(tables(), {"": shapes})[0]
    assert best.exact
    assert best.name == ("xlmr/hf" if bare else "xlmr/fairseq-0.8")
    assert set(best.spelled.original.values()) == set(shapes)
    assert f"all keys begin with `{prefix}`: read without it" in best.notes[0]


def test_names_that_would_become_one_are_not_respelled():
    shapes = read_shapes("hf_xlmr_ForMaskedLM.transformers-5.23.base")
    twice = {**shapes, "roberta.embeddings.LayerNorm.gamma": (768,)}
    found = fit(FAMILIES["xlmr"], "hf", twice)
    assert found.unexpected == ("roberta.embeddings.LayerNorm.gamma",)


def test_rows_that_exclude_each_other_are_not_both_there():
    shapes = read_shapes("fairseq_xlmr_xl.base")
    both = {**shapes, "encoder.sentence_encoder.layernorm_embedding.weight": (2560,)}
    found = fit(FAMILIES["xlmr"], "fairseq", both)
    assert found.dims["prenorm"] is True
    assert found.unexpected == ("encoder.sentence_encoder.layernorm_embedding.weight",)


def test_a_key_that_two_rows_share_says_nothing_about_their_option():
    rows = ("d?late x.weight y.weight", "d?!late z.weight y.weight", "d?late last.w last.w")
    table = parse("\n".join(("layout a torch -", "layout b torch -", *rows)), Path("mappings/sketch.tbl"))
    assert fit(table, "b", {"y.weight": (3,)}).dims["late"] is False
    assert fit(table, "b", {"y.weight": (3,), "last.w": (3,)}).dims["late"] is True
    assert fit(table, "a", {"x.weight": (3,)}).missing == ("last.w",)


def test_several_heads_have_sizes_of_their_own():
    shapes = read_shapes("fairseq_xlmr.v012_new_cls_head.base")
    other = {key.replace("sentence_classification_head", "x"): shape for key, shape in shapes.items()}
    other = {key: (7, *shape[1:]) if "out_proj" in key else shape for key, shape in other.items() if ".x." in key}
    found = fit(FAMILIES["xlmr"], "fairseq", {**shapes, **other})
    assert found.exact
    assert [found.dims.get(f"labels@{name}", found.dims["labels"]) for name in names_of(found.dims, "head")] == [
        shapes["classification_heads.sentence_classification_head.out_proj.bias"][0],
        7,
    ]


def test_detection_is_linear_enough_for_fifty_thousand_keys():
    shapes = {f"model.decoder.layers.{number}.experts.{number % 7}.w": (4, 4) for number in range(50_000)}
    assert candidates(tables(), {"": shapes})[0].coverage == 0


def test_ties_stand_in_for_absent_keys():
    shapes = read_shapes("hf_deltalm_fengshen.tiny")
    kept = {key: shape for key, shape in shapes.items() if "embed_tokens" not in key and key != "lm_head.weight"}
    found = fit(FAMILIES["deltalm"], "hf", kept)
    assert found.exact
    assert set(found.absent.values()) == {"model.shared.weight"}
    untied = fit(FAMILIES["deltalm"], "hf", {**kept, "model.decoder.embed_tokens.weight": (44, 32)})
    assert untied.absent["lm_head.weight"] == "model.decoder.embed_tokens.weight"
    assert untied.absent["model.encoder.embed_tokens.weight"] == "model.shared.weight"
