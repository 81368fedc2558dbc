"""verify proves what convert writes, and finds whatever is wrong in an output, whoever wrote it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv import Verification, verify
from ckptconv.errors import DoesNotFit
from tests.commands.conftest import FINETUNED, GOLDEN, NUMBERS, run
from tests.proof import samples

CONVERSIONS = samples.conversions()
MLM = GOLDEN / "hf_xlmr_mlm_transformers-4.30.2.bin"
FUSED = GOLDEN / "fairseq-0.8.0_roberta_mlm_fused.pt"
OLD = GOLDEN / "fairseq-0.10.2_roberta_mlm.pt"


def differing(report: Verification) -> dict[str, str]:
    """key → how it differs."""
    assert report.proof is not None
    return {each.key: each.told for each in report.proof.tensors if each.status == "differ"}


def counts(report: Verification) -> Counter[str]:
    assert report.proof is not None
    return Counter(each.status for each in report.proof.tensors)


def dropped(report: Verification) -> dict[str, tuple[bool, bool]]:
    """key → (lost, accounted for)."""
    assert report.proof is not None
    return {each.key: (each.lost, each.accounted) for each in report.proof.dropped}


def state_of(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a file of ours, by torch's own readers."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=False)["model"]


def written(state: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({key: value.clone().contiguous() for key, value in state.items()}, path)
    else:
        torch.save({"model": state}, path)
    return path


# ------------------------------------------------------------------------------------------------ what convert writes
@pytest.mark.parametrize(("path", "layout"), CONVERSIONS, ids=lambda value: getattr(value, "name", value))
def test_every_conversion_is_proved(path: Path, layout: str, tmp_path: Path):
    run(path, tmp_path / "out", layout, set=samples.settings(path))
    report = verify(path, tmp_path / "out")
    assert differing(report) == {}
    assert report.config == ()
    assert report.good
    written_keys = ckptconv.inspect(tmp_path / "out").keys
    assert sum(counts(report).values()) == written_keys
    lost = {key for key, (gone, _) in dropped(report).items() if gone}
    assert report.verdict == ("proved_with_losses" if lost or report.proof.lost_rows else "proved")
    assert all("pooler" in key or "output_projection" in key for key in lost)


@pytest.mark.parametrize(("path", "layout"), CONVERSIONS, ids=lambda value: getattr(value, "name", value))
def test_there_and_back_is_proved(path: Path, layout: str, tmp_path: Path):
    run(path, tmp_path / "there", layout, set=samples.settings(path))
    own = ckptconv.inspect(path).layout
    assert own is not None
    if ckptconv.inspect(tmp_path / "there").layout == own:  # without its projections XLM-Align's is fairseq 0.9's
        assert {own, f"xlmr/{layout}"} == {"xlmr/fairseq-0.9", "xlmr/fairseq-xlm_align"}
        assert verify(path, tmp_path / "there").verdict == "proved"
        return
    run(tmp_path / "there", tmp_path / "back", own)
    assert differing(verify(tmp_path / "there", tmp_path / "back")) == {}
    if verify(path, tmp_path / "there").verdict == "proved":
        folded = {"roberta.embeddings.position_embeddings.weight", "roberta.embeddings.token_type_embeddings.weight"}
        assert differing(verify(path, tmp_path / "back")).keys() <= folded


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize(("path", "layout"), [(FINETUNED, "hf"), (FUSED, "hf"), (MLM, "fairseq-0.8"), (MLM, "same")])
def test_a_cast_is_proved(path: Path, layout: str, dtype: str, tmp_path: Path):
    run(path, tmp_path / "out", layout, dtype=dtype)
    report = verify(path, tmp_path / "out")
    assert report.verdict == "proved"
    assert counts(report)["cast"] > 30
    assert counts(report)["equal"] <= (layout != "fairseq-0.8") + 1  # another name of a tensor, an integer buffer


@pytest.mark.parametrize("layout", ["fairseq", "same"])
def test_a_cast_of_other_values_is_none(layout: str, tmp_path: Path):
    run(OLD if layout == "same" else MLM, tmp_path / "out", layout, dtype="bf16")
    file = next(each for each in (tmp_path / "out").iterdir() if each.suffix in (".pt", ".safetensors"))
    state = state_of(file)
    key = next(name for name in state if name.endswith("fc1.weight"))
    state[key].view(-1)[5] += 1
    report = verify(OLD if layout == "same" else MLM, written(state, tmp_path / f"x{file.suffix}"))
    assert set(differing(report)) == {key}
    assert differing(report)[key].startswith("its values differ, also once rounded, by up to ")


def test_a_second_name_that_is_left_out(tmp_path: Path):
    one = torch.arange(6.0)
    torch.save({"a": one, "b": one, "c": one.clone()}, tmp_path / "in.pt")
    save_file({"a": one}, tmp_path / "out.safetensors")
    report = verify(tmp_path / "in.pt", tmp_path / "out.safetensors")
    assert dropped(report) == {"b": (False, True), "c": (True, False)}


def test_same_keys_in_another_container(tmp_path: Path):
    run(FINETUNED, tmp_path / "out.safetensors", "same")
    report = verify(FINETUNED, tmp_path / "out.safetensors")
    assert (report.verdict, report.proof.source) == ("proved", "")
    assert all(not lost for lost, _ in dropped(report).values())


# --------------------------------------------------------------------------------------------------- what is wrong
@pytest.mark.parametrize(("path", "layout", "file"), [
    (GOLDEN / "deltalm_finetuned_untied.pt", "hf", "model.safetensors"), (FUSED, "hf", "model.safetensors"),
    (MLM, "fairseq-0.8", "model.pt"), (NUMBERS / "pretrained.pt", "fairseq", "model.pt"),
], ids=str)  # fmt: skip
def test_one_wrong_value_in_any_tensor_is_found(path: Path, layout: str, file: str, tmp_path: Path):
    run(path, tmp_path / "out", layout)
    state = state_of(tmp_path / "out" / file)
    for key in list(state)[::3]:
        broken = {name: value.clone() for name, value in state.items()}
        flat = broken[key].view(-1)
        flat[len(flat) // 2] += 0.5
        found = differing(verify(path, written(broken, tmp_path / f"broken{Path(file).suffix}")))
        assert key in found, key
        tied = {name for name, value in state.items() if torch.equal(value, state[key])}
        assert set(found) <= tied, key


def swap(state: dict[str, torch.Tensor], a: str, b: str) -> dict[str, torch.Tensor]:
    return {**state, a: state[b], b: state[a]}


LAYER = "model.decoder.layers.0."
WRONG = {
    "the two feed-forward blocks": lambda s: swap(s, LAYER + "fc1.weight", LAYER + "fc3.weight"),
    "two layers": lambda s: swap(s, LAYER + "fc1.bias", "model.decoder.layers.1.fc1.bias"),
    "a square matrix transposed": lambda s: {
        **s, LAYER + "self_attn.q_proj.weight": s[LAYER + "self_attn.q_proj.weight"].T.contiguous()
    },
    "a key too few": lambda s: {key: value for key, value in s.items() if key != LAYER + "fc1.bias"},
    "a key too many": lambda s: {**s, "foo.bar": torch.zeros(3)},
    "another shape": lambda s: {**s, LAYER + "fc1.bias": torch.zeros(7)},
    "a sign of zero": lambda s: {**s, LAYER + "fc1.bias": torch.full_like(s[LAYER + "fc1.bias"], -0.0)},
    "NaN": lambda s: {**s, LAYER + "fc1.bias": torch.full_like(s[LAYER + "fc1.bias"], float("nan"))},
    "rounded, then widened": lambda s: {**s, LAYER + "fc1.weight": s[LAYER + "fc1.weight"].half().float()},
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_goes_wrong_in_scripts_is_found(what: str, tmp_path: Path):
    run(GOLDEN / "deltalm_finetuned_untied.pt", tmp_path / "out", "hf")
    state = WRONG[what](load_file(tmp_path / "out" / "model.safetensors"))
    report = verify(GOLDEN / "deltalm_finetuned_untied.pt", written(state, tmp_path / "x.safetensors"))
    assert report.verdict == "differs"
    assert differing(report)


def test_another_size_throughout_is_another_model(tmp_path: Path):
    """Cut to fewer rows everywhere, it is a sound model of its layout; but only vocabularies and positions are cut."""
    run(MLM, tmp_path / "out", "fairseq")
    state = state_of(tmp_path / "out" / "model.pt")
    small = {key: value[:40] if ".fc1." in key else value[:, :40] if "fc2.weight" in key else value
             for key, value in state.items()}  # fmt: skip
    found = differing(verify(MLM, written(small, tmp_path / "x.pt")))
    assert {key.split(".")[4] for key in found} == {"fc1", "fc2"}
    assert all(told.startswith("its shape is [") for told in found.values())


def test_fused_parts_in_another_order(tmp_path: Path):
    run(MLM, tmp_path / "out", "fairseq-0.8")
    state = state_of(tmp_path / "out" / "model.pt")
    key = next(name for name in state if name.endswith("in_proj_weight"))
    q, k, v = state[key].chunk(3)
    found = differing(verify(MLM, written({**state, key: torch.cat([k, q, v])}, tmp_path / "x.pt")))
    assert set(found) == {key}
    assert "values differ, by up to" in found[key]


@pytest.mark.parametrize("part", range(3))
def test_one_wrong_value_in_any_part_of_a_fused_tensor(part: int, tmp_path: Path):
    run(MLM, tmp_path / "out", "fairseq-0.8")
    state = state_of(tmp_path / "out" / "model.pt")
    key = next(name for name in state if name.endswith("in_proj_bias"))
    state[key].chunk(3)[part][1] += 1
    assert set(differing(verify(MLM, written(state, tmp_path / "x.pt")))) == {key}


@pytest.mark.parametrize("rows", [30, 99, 3000])
def test_a_fused_tensor_of_another_size(rows: int, tmp_path: Path):
    run(MLM, tmp_path / "out", "fairseq-0.8")
    state = state_of(tmp_path / "out" / "model.pt")
    key = next(name for name in state if name.endswith("in_proj_bias"))
    found = differing(verify(MLM, written({**state, key: torch.zeros(rows)}, tmp_path / "x.pt")))
    assert found == {key: "its shape isn't what the other keys of its file imply"}


def test_rows_cut_and_made_up(tmp_path: Path):
    run(NUMBERS / "pretrained.pt", tmp_path / "cut", "hf", vocab=100)
    report = verify(NUMBERS / "pretrained.pt", tmp_path / "cut")
    assert report.verdict == "proved_with_losses"
    assert {(each.after, each.told.split()[1]) for each in report.proof.resized} == {(100, "cut")}
    run(FINETUNED, tmp_path / "more", "hf", vocab=200)
    assert verify(FINETUNED, tmp_path / "more").verdict == "proved"
    state = load_file(tmp_path / "more" / "model.safetensors")
    key = "model.shared.weight" if "model.shared.weight" in state else next(k for k in state if len(state[k]) == 200)
    state[key][199, 0] = 1.0
    told = differing(verify(FINETUNED, written(state, tmp_path / "x.safetensors")))
    assert any("hold no zeros" in text for text in told.values())


def test_an_untied_copy_that_differs(tmp_path: Path):
    run(NUMBERS / "pretrained.pt", tmp_path / "out", "fairseq")
    state = state_of(tmp_path / "out" / "model.pt")
    state["decoder.output_projection.weight"] = state["decoder.output_projection.weight"] + 1
    told = differing(verify(NUMBERS / "pretrained.pt", written(state, tmp_path / "x.pt")))
    assert set(told) == {"decoder.output_projection.weight"}
    assert "expected a copy of decoder.embed_tokens.weight" in told["decoder.output_projection.weight"]


def test_a_head_left_behind_is_accounted_for_and_lost(tmp_path: Path):
    tokens = GOLDEN / "hf_xlmr_tokcls_transformers-5.23.safetensors"
    run(tokens, tmp_path / "none", "fairseq", head="none")
    report = verify(tokens, tmp_path / "none")
    assert report.verdict == "proved_with_losses"
    assert dropped(report)["classifier.weight"] == (True, True)
    made = {each.key for each in report.proof.tensors if each.status == "made_up"}
    assert "encoder.lm_head.dense.weight" in made


def test_heads_by_the_name_that_one_side_has(tmp_path: Path):
    from tests import xlmr_side

    model = xlmr_side.build(heads={"mnli": 3, "xnli": 3})
    source = xlmr_side.save(model, tmp_path / "in.pt")
    for head in ("mnli", "xnli"):
        run(source, tmp_path / head, "xlmr/hf", head=head)
        report = verify(source, tmp_path / head)
        assert differing(report) == {}
        assert {key.split(".")[1] for key, (lost, _) in dropped(report).items() if lost} >= {
            "xnli" if head == "mnli" else "mnli"
        }


def test_configs_that_disagree(tmp_path: Path):
    run(FINETUNED, tmp_path / "out", "hf")
    config = tmp_path / "out" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"encoder_attention_heads": 4', '"encoder_attention_heads": 8'))
    assert text != config.read_text()
    report = verify(FINETUNED, tmp_path / "out")
    assert report.verdict == "differs"
    assert [(each.source_value, each.target_value) for each in report.config] == [(4, 8)]


def test_two_models_that_have_nothing_in_common():
    with pytest.raises(DoesNotFit, match="no key in common"):
        verify(FINETUNED, MLM)


def changed(path: Path, layout: str, folder: Path, key: str, by: float = 1.0) -> Verification:
    """verify, after every value of one key of the output was moved."""
    folder.mkdir(exist_ok=True)
    run(path, folder / "out", layout)
    file = next(each for each in (folder / "out").iterdir() if each.suffix in (".pt", ".safetensors"))
    state = state_of(file)
    return verify(path, written({**state, key: state[key] + by}, folder / f"x{file.suffix}"))


@pytest.mark.parametrize(
    ("path", "layout", "key", "told"),
    [
        (OLD, "fairseq", "encoder.sentence_encoder.version", "expected the constant 3"),
        (OLD, "hf", "roberta.embeddings.token_type_embeddings.weight", "expected 0 everywhere"),
        (
            OLD,
            "fairseq-infoxlm",
            "model_slow.decoder.sentence_encoder.layers.1.fc1.bias",
            "expected a copy of model_fast",
        ),
        (NUMBERS / "pretrained.pt", "fairseq", "decoder.version", "expected the constant 3"),
    ],
)
def test_what_is_made_up_holds_what_the_table_says(path: Path, layout: str, key: str, told: str, tmp_path: Path):
    found = differing(changed(path, layout, tmp_path, key))
    assert set(found) == {key}
    assert told in found[key]


def test_two_names_of_one_tensor_with_different_values(tmp_path: Path):
    run(OLD, tmp_path / "out", "hf")
    state = load_file(tmp_path / "out" / "model.safetensors")
    both = {**state, "lm_head.decoder.bias": state["lm_head.bias"]}
    assert verify(OLD, written(both, tmp_path / "both.safetensors")).verdict == "proved"
    both["lm_head.bias"] = state["lm_head.bias"] + 1
    assert set(differing(verify(OLD, written(both, tmp_path / "x.safetensors")))) == {"lm_head.bias"}


def test_a_head_that_the_source_has_not(tmp_path: Path):
    run(OLD, tmp_path / "out", "hf")
    state = load_file(tmp_path / "out" / "model.safetensors")
    head = {"classifier.weight": torch.zeros(3, 32), "classifier.bias": torch.zeros(3)}
    found = differing(verify(OLD, written({**state, **head}, tmp_path / "x.safetensors")))
    assert set(found) == set(head)
    assert all("no line of the table makes it up" in told for told in found.values())


def test_keys_of_the_source_that_nobody_knows_are_not_accounted_for(tmp_path: Path):
    run(OLD, tmp_path / "out", "hf")
    content = torch.load(OLD, weights_only=False)
    content["model"]["foo.bar"] = torch.ones(3)
    torch.save(content, tmp_path / "more.pt")
    report = verify(tmp_path / "more.pt", tmp_path / "out")
    assert dropped(report)["foo.bar"] == (True, False)
    assert report.verdict == "differs"


def test_what_may_be_dropped_as_zeros_only(tmp_path: Path):
    source = GOLDEN / "hf_deltalm_fengshen_transformers-4.30.2.bin"
    run(source, tmp_path / "out", "fairseq")
    assert verify(source, tmp_path / "out").verdict == "proved"
    state = torch.load(source, weights_only=True)
    torch.save({**state, "final_logits_bias": state["final_logits_bias"] + 1}, tmp_path / "x.bin")
    report = verify(tmp_path / "x.bin", tmp_path / "out")
    assert dropped(report)["final_logits_bias"] == (True, False)
    assert report.verdict == "differs"


def test_a_second_kind_of_token_is_lost(tmp_path: Path):
    state = torch.load(MLM, weights_only=True)
    types = "roberta.embeddings.token_type_embeddings.weight"
    torch.save({**state, types: torch.randn(2, 32)}, tmp_path / "two.bin")
    run(tmp_path / "two.bin", tmp_path / "out", "fairseq")
    report = verify(tmp_path / "two.bin", tmp_path / "out")
    assert report.verdict == "proved_with_losses"
    assert dropped(report)[types] == (True, True)
    wrong = changed(
        tmp_path / "two.bin", "fairseq-0.10", tmp_path / "w", "encoder.sentence_encoder.embed_positions.weight"
    )
    assert set(differing(wrong)) == {"encoder.sentence_encoder.embed_positions.weight"}


def test_one_layout_under_other_names(tmp_path: Path):
    """Buffers and second names apart, the same keys: nothing is folded, since the output has the token types too."""
    state = {key: value for key, value in torch.load(MLM, weights_only=True).items() if "position_ids" not in key}
    assert verify(MLM, written(state, tmp_path / "a.safetensors")).verdict == "proved"
    bare = {key.removeprefix("roberta."): value for key, value in state.items() if key.startswith("roberta.")}
    report = verify(MLM, written(bare, tmp_path / "b.safetensors"))
    assert report.verdict == "proved_with_losses"
    assert {key.split(".")[0] for key, (lost, _) in dropped(report).items() if lost} == {"lm_head"}


def test_the_same_key_in_another_shape(tmp_path: Path):
    save_file({"a": torch.zeros(4), "b": torch.zeros(2)}, tmp_path / "a.safetensors")
    save_file({"a": torch.zeros(2, 2), "b": torch.zeros(2)}, tmp_path / "b.safetensors")
    assert differing(verify(tmp_path / "a.safetensors", tmp_path / "b.safetensors")) == {
        "a": "its shape is [2, 2], the source's [4]"
    }
    save_file({"b": torch.zeros(2), "c": torch.zeros(2)}, tmp_path / "c.safetensors")
    report = verify(tmp_path / "a.safetensors", tmp_path / "c.safetensors")
    assert (set(differing(report)), dropped(report)) == ({"c"}, {"a": (True, False)})


# -------------------------------------------------------------------------------------------- outputs of other tools
def test_a_script_of_somebody_else_is_proved(tmp_path: Path):
    """Keys renamed as transformers' own conversion script pairs them."""
    state = torch.load(OLD, weights_only=False)["model"]
    body, pairs = "encoder.sentence_encoder.", {
        "self_attn.q_proj": "attention.self.query", "self_attn.k_proj": "attention.self.key",
        "self_attn.v_proj": "attention.self.value", "self_attn.out_proj": "attention.output.dense",
        "self_attn_layer_norm": "attention.output.LayerNorm", "fc1": "intermediate.dense", "fc2": "output.dense",
        "final_layer_norm": "output.LayerNorm",
    }  # fmt: skip
    made: dict[str, Any] = {
        "roberta.embeddings.word_embeddings.weight": state[body + "embed_tokens.weight"],
        "roberta.embeddings.position_embeddings.weight": state[body + "embed_positions.weight"],
        "roberta.embeddings.token_type_embeddings.weight": torch.zeros(1, 32),
        "lm_head.bias": state["encoder.lm_head.bias"],
    }
    norm = "layernorm_embedding" if body + "layernorm_embedding.weight" in state else "emb_layer_norm"
    for kind in ("weight", "bias"):
        made[f"roberta.embeddings.LayerNorm.{kind}"] = state[f"{body}{norm}.{kind}"]
        made[f"lm_head.dense.{kind}"] = state[f"encoder.lm_head.dense.{kind}"]
        made[f"lm_head.layer_norm.{kind}"] = state[f"encoder.lm_head.layer_norm.{kind}"]
        for layer in range(2):
            for theirs, ours in pairs.items():
                made[f"roberta.encoder.layer.{layer}.{ours}.{kind}"] = state[f"{body}layers.{layer}.{theirs}.{kind}"]
    good = written(made, tmp_path / "good.safetensors")
    assert verify(OLD, good).verdict == "proved"
    q, k = (f"roberta.encoder.layer.1.attention.self.{name}.weight" for name in ("query", "key"))
    assert set(differing(verify(OLD, written(swap(made, q, k), tmp_path / "bad.safetensors")))) == {q, k}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_state_dict_to_safetensors(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    """No known layout, any dtype: the same keys are proved, and one changed byte is found."""
    folder = tmp_path_factory.mktemp("any")
    dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
    shapes = st.lists(st.integers(0, 4), max_size=3)
    keys = data.draw(st.lists(st.text("abc.", min_size=1, max_size=6), min_size=1, max_size=6, unique=True))
    state = {key: torch.randint(0, 2, data.draw(shapes)).to(data.draw(dtypes)) for key in keys}
    torch.save(state, folder / "in.pt")
    run(folder / "in.pt", folder / "out.safetensors", "same")
    assert verify(folder / "in.pt", folder / "out.safetensors").verdict == "proved"
    full = [key for key in keys if state[key].numel()]
    if full:
        key = data.draw(st.sampled_from(full))
        broken = {name: value.clone() for name, value in state.items()}
        flat = broken[key].view(-1)
        flat[0] = not flat[0]
        save_file(broken, folder / "broken.safetensors")
        assert set(differing(verify(folder / "in.pt", folder / "broken.safetensors"))) == {key}
