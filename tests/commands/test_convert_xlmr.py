"""XLM-R: what one side has and the other lacks, heads and their labels, wrappers, and models that only look alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.errors import CkptconvError, DoesNotFit, UnknownLayout, WrongUse
from tests.commands.conftest import GOLDEN, run

HF = GOLDEN / "hf_xlmr_mlm_transformers-5.23.safetensors"
TYPES, POSITIONS = "roberta.embeddings.token_type_embeddings.weight", "roberta.embeddings.position_embeddings.weight"
FAIRSEQ = "encoder.sentence_encoder."


def hf(**changed: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The real HF state dict with zero token types; `changed` by key, __ for dots, None to take a key out."""
    state = load_file(HF) | {TYPES: torch.zeros(1, 32)}
    state |= {key.replace("__", "."): value for key, value in changed.items() if value is not None}
    return {key: value for key, value in state.items() if changed.get(key.replace(".", "__"), value) is not None}


def saved(folder: Path, state: dict[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "model.safetensors")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def fairseq(name: str = "n0122") -> dict[str, torch.Tensor]:
    return torch.load(GOLDEN / f"ref_logits_{name}.pt", weights_only=True)["sd"]


def head(name: str, labels: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "dense.weight": (32, 32),
        "dense.bias": (32,),
        "out_proj.weight": (labels, 32),
        "out_proj.bias": (labels,),
    }
    return {f"classification_heads.{name}.{key}": torch.randn(s, generator=generator) for key, s in shapes.items()}


def in_pt(path: Path, state: dict[str, torch.Tensor], **other: Any) -> Path:
    torch.save({"model": state, **other}, path)
    return path


def written(path: Path) -> dict[str, torch.Tensor]:
    if path.is_dir() and (path / "model.safetensors").exists():
        return load_file(path / "model.safetensors")
    loaded = torch.load(path / "model.pt" if path.is_dir() else path, weights_only=True)
    return loaded.get("model", loaded)


def reasons(told: tuple[ckptconv.Conversion, ...] | Any) -> dict[str, str]:
    return {each.key: each.reason for each in told}


# ------------------------------------------------------------------------------------------------------- token types
def test_moved_token_types_are_folded_into_the_positions_and_told(tmp_path: Path):
    types = torch.randn(1, 32)
    source = saved(tmp_path / "hf", hf(**{TYPES.replace(".", "__"): types}))
    report = run(source, tmp_path / "out.pt", "fairseq")
    made = written(tmp_path / "out.pt")[FAIRSEQ + "embed_positions.weight"]
    assert torch.equal(made, load_file(HF)[POSITIONS] + types)
    (step,) = [step for step in report.plan.steps if step.op == "add"]
    assert step.sources == (POSITIONS, TYPES)
    assert reasons(report.plan.dropped)[TYPES] == (
        f"folded: its row 0 is added to every row of {POSITIONS}; the sums are rounded once, to F32"
    )


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_fold_with_a_cast_rounds_once(dtype: str, tmp_path: Path):
    types = torch.randn(1, 32)
    source = saved(tmp_path / "hf", hf(**{TYPES.replace(".", "__"): types}))
    run(source, tmp_path / "out.pt", "fairseq", dtype=dtype)
    wanted = (load_file(HF)[POSITIONS] + types).to({"fp16": torch.float16, "bf16": torch.bfloat16}[dtype])
    assert torch.equal(written(tmp_path / "out.pt")[FAIRSEQ + "embed_positions.weight"], wanted)


def test_a_fold_of_half_precision_is_summed_in_single(tmp_path: Path):
    state = {key: value.half() for key, value in hf(**{TYPES.replace(".", "__"): torch.randn(1, 32)}).items()}
    run(saved(tmp_path / "hf", state), tmp_path / "out.pt", "fairseq")
    wanted = (state[POSITIONS].float() + state[TYPES].float()).half()
    assert torch.equal(written(tmp_path / "out.pt")[FAIRSEQ + "embed_positions.weight"], wanted)


def test_a_fold_under_a_wrappers_prefix_names_the_files_keys(tmp_path: Path):
    types = torch.randn(1, 32)
    state = {f"module.{key}": value for key, value in hf(**{TYPES.replace(".", "__"): types}).items()}
    report = run(saved(tmp_path / "hf", state), tmp_path / "out.pt", "fairseq")
    assert torch.equal(
        written(tmp_path / "out.pt")[FAIRSEQ + "embed_positions.weight"], state[f"module.{POSITIONS}"] + types
    )
    (step,) = [step for step in report.plan.steps if step.op == "add"]
    assert step.sources == (f"module.{POSITIONS}", f"module.{TYPES}")


def test_zero_token_types_change_nothing_and_come_back_as_zeros(tmp_path: Path):
    report = run(saved(tmp_path / "hf", hf()), tmp_path / "out.pt", "fairseq")
    assert all(step.op in ("copy", "tie", "fill") for step in report.plan.steps)
    assert reasons(report.plan.dropped)[TYPES] == "the target has none; these are zeros, so nothing is lost"
    back = run(tmp_path / "out.pt", tmp_path / "back", "hf")
    assert torch.equal(written(tmp_path / "back")[TYPES], torch.zeros(1, 32))
    assert TYPES in reasons(back.plan.created)


def test_a_second_kind_of_token_is_lost_and_said_to_be(tmp_path: Path):
    source = saved(tmp_path / "hf", hf(**{TYPES.replace(".", "__"): torch.randn(2, 32)}), type_vocab_size=2)
    report = run(source, tmp_path / "out.pt", "fairseq")
    said = [told.reason for told in report.plan.dropped if told.key == TYPES]
    assert [reason.split(":")[0] for reason in said] == ["folded", "LOST"]
    assert "rows 1..1" in said[1]


# ------------------------------------------------------------------------------------------------- lm_head and pooler
def test_of_two_biases_the_decoders_counts_and_the_other_is_told(tmp_path: Path):
    real = torch.randn(45)
    source = saved(tmp_path / "hf", hf(lm_head__bias=torch.zeros(45), lm_head__decoder__bias=real))
    report = run(source, tmp_path / "out.pt", "fairseq")
    assert torch.equal(written(tmp_path / "out.pt")["encoder.lm_head.bias"], real)
    assert "another name of lm_head.decoder.bias, whose values count" in reasons(report.plan.dropped)["lm_head.bias"]
    both = hf(lm_head__bias=real, lm_head__decoder__bias=real.clone())
    same = run(saved(tmp_path / "same", both), tmp_path / "s.pt", "fairseq")
    assert "lm_head.bias" not in reasons(same.plan.dropped)
    one = run(saved(tmp_path / "one", hf(lm_head__bias=real)), tmp_path / "o.pt", "fairseq")
    assert torch.equal(written(tmp_path / "o.pt")["encoder.lm_head.bias"], real)
    assert "lm_head.bias" not in reasons(one.plan.dropped)


@pytest.mark.parametrize("layout", ["fairseq", "fairseq-0.10", "fairseq-0.9", "fairseq-0.8", "fairseq-xlm_align"])
def test_an_untied_decoder_is_kept_both_ways(layout: str, tmp_path: Path):
    decoder = torch.randn(45, 32)
    source = saved(tmp_path / "hf", hf(lm_head__decoder__weight=decoder), tie_word_embeddings=False)
    run(source, tmp_path / "out.pt", layout)
    state = torch.load(tmp_path / "out.pt", weights_only=False)
    key = next(key for key in state["model"] if key.endswith("lm_head.weight"))
    assert torch.equal(state["model"][key], decoder)
    assert (
        state["cfg"]["model"]["untie_weights_roberta"] if layout == "fairseq" else state["args"].untie_weights_roberta
    )
    run(tmp_path / "out.pt", tmp_path / "back", "hf", layout_from=f"xlmr/{layout}")
    assert torch.equal(written(tmp_path / "back")["lm_head.decoder.weight"], decoder)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_config_that_claims_a_tie_of_different_tensors_is_refused(tmp_path: Path):
    source = saved(tmp_path / "hf", hf(lm_head__decoder__weight=torch.randn(45, 32)), tie_word_embeddings=True)
    with pytest.raises(DoesNotFit, match=r"config.json: tie_word_embeddings = True, but the tensors say"):
        run(source, tmp_path / "out.pt", "fairseq")
    assert not (tmp_path / "out.pt").exists()


def test_a_pooler_is_dropped_with_a_word_and_made_only_when_asked_for(tmp_path: Path):
    pooler = {"roberta.pooler.dense.weight": torch.randn(32, 32), "roberta.pooler.dense.bias": torch.randn(32)}
    report = run(saved(tmp_path / "hf", hf() | pooler), tmp_path / "out.pt", "fairseq")
    assert {key: reasons(report.plan.dropped)[key].split(",")[0] for key in pooler} == dict.fromkeys(
        pooler, "LOST: fairseq has no pooler"
    )
    run(tmp_path / "out.pt", tmp_path / "without", "hf")
    assert not pooler.keys() & written(tmp_path / "without").keys()
    asked = run(tmp_path / "out.pt", tmp_path / "with", "hf", create=("pooler",))
    assert not any(written(tmp_path / "with")[key].any() for key in pooler)
    assert pooler.keys() <= reasons(asked.plan.created).keys()
    with pytest.raises(WrongUse, match="--create head: xlmr/hf can't make it up; expected pooler"):
        run(tmp_path / "out.pt", tmp_path / "x", "hf", create=("head",))


def test_buffers_and_old_names_are_read(tmp_path: Path):
    state = hf(roberta__embeddings__position_ids=torch.arange(34)[None])
    names = {key: key.replace("LayerNorm.weight", "LayerNorm.gamma") for key in state}
    names = {key: "module." + name.replace("LayerNorm.bias", "LayerNorm.beta") for key, name in names.items()}
    old = {names[key]: value for key, value in state.items()}
    report = run(saved(tmp_path / "hf", old), tmp_path / "out.pt", "fairseq")
    wanted, made = hf(), written(tmp_path / "out.pt")
    assert torch.equal(made[FAIRSEQ + "layernorm_embedding.weight"], wanted["roberta.embeddings.LayerNorm.weight"])
    assert "a buffer that counts" in reasons(report.plan.dropped)["module.roberta.embeddings.position_ids"]
    notes = " ".join(report.notes)
    assert "all keys begin with `module.`: read without it" in notes
    assert "`beta` is read as `bias`, `gamma` is read as `weight`" in notes
    assert {source for step in report.plan.steps for source in step.sources} <= old.keys()


def test_a_bare_model_is_read_with_its_prefix_and_its_head_is_made_up(tmp_path: Path):
    bare = {key.removeprefix("roberta."): value for key, value in hf().items() if key.startswith("roberta.")}
    report = run(saved(tmp_path / "hf", bare), tmp_path / "out.pt", "fairseq")
    assert any("a bare model: its keys are read with `roberta.`" in note for note in report.notes)
    made = written(tmp_path / "out.pt")
    assert torch.equal(made[FAIRSEQ + "layers.1.fc1.bias"], bare["encoder.layer.1.intermediate.dense.bias"])
    assert torch.equal(made["encoder.lm_head.layer_norm.weight"], torch.ones(32))
    assert made["encoder.lm_head.weight"].data_ptr() == made[FAIRSEQ + "embed_tokens.weight"].data_ptr()
    assert not made["encoder.lm_head.dense.weight"].any()
    assert len([key for key in reasons(report.plan.created) if "lm_head" in key]) == 6


def test_what_is_made_up_has_the_dtype_of_the_rest(tmp_path: Path):
    bare = {key: value.half() for key, value in hf().items() if key.startswith("roberta.")}
    run(saved(tmp_path / "hf", bare), tmp_path / "out.pt", "fairseq")
    made = written(tmp_path / "out.pt")
    assert {key: value.dtype for key, value in made.items() if "version" not in key} == dict.fromkeys(
        made.keys() - {FAIRSEQ + "version"}, torch.float16
    )


# -------------------------------------------------------------------------------------------------------------- heads
def test_a_trained_head_is_taken_before_the_lm_head(tmp_path: Path):
    source = in_pt(tmp_path / "m.pt", fairseq() | head("mnli", 3))
    report = run(source, tmp_path / "hf", "hf")
    made = written(tmp_path / "hf")
    assert torch.equal(made["classifier.out_proj.weight"], head("mnli", 3)["classification_heads.mnli.out_proj.weight"])
    assert not [key for key in made if key.startswith("lm_head")]
    lost = reasons(report.plan.dropped)["encoder.lm_head.dense.weight"]
    assert lost.startswith("LOST: xlmr/hf gets the head sequence_classification (--head chooses another)")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == ["XLMRobertaForSequenceClassification"]
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    kept = run(source, tmp_path / "lm", "hf", head="lm_head")
    assert "lm_head.dense.weight" in written(tmp_path / "lm")
    assert all(key in reasons(kept.plan.dropped) for key in head("mnli", 3))
    run(source, tmp_path / "none", "hf", head="none")
    assert not [key for key in written(tmp_path / "none") if not key.startswith("roberta.")]
    assert json.loads((tmp_path / "none" / "config.json").read_text())["architectures"] == ["XLMRobertaModel"]


def test_of_several_heads_one_is_named(tmp_path: Path):
    source = in_pt(tmp_path / "m.pt", fairseq() | head("mnli", 3) | head("sst", 2, seed=1))
    with pytest.raises(
        DoesNotFit, match=r"several heads here: mnli, sst, lm_head; xlmr/hf holds one. Name it with --head"
    ):
        run(source, tmp_path / "hf", "hf")
    with pytest.raises(DoesNotFit, match="--head rte: there is no such head; expected mnli, sst, lm_head or none"):
        run(source, tmp_path / "hf", "hf", head="rte")
    assert not (tmp_path / "hf").exists()
    for name, labels, seed in (("mnli", 3, 0), ("sst", 2, 1)):
        report = run(source, tmp_path / name, "hf", head=name)
        wanted = head(name, labels, seed)[f"classification_heads.{name}.out_proj.weight"]
        assert torch.equal(written(tmp_path / name)["classifier.out_proj.weight"], wanted)
        assert report.plan.dims["labels"] == labels
        other = {"mnli": "sst", "sst": "mnli"}[name]
        assert (
            f"gets the head {name} (--head)" in reasons(report.plan.dropped)[f"classification_heads.{other}.dense.bias"]
        )


def test_every_head_goes_along_between_generations(tmp_path: Path):
    state = fairseq("n090") | head("mnli", 3) | head("sst", 2, seed=1)
    run(in_pt(tmp_path / "m.pt", state), tmp_path / "new", "fairseq")
    made = written(tmp_path / "new")
    assert all(torch.equal(made[key], state[key]) for key in head("mnli", 3) | head("sst", 2))


@pytest.mark.parametrize(("name", "asked"), [("sentence_classification_head", None), ("topic", "topic")])
def test_a_classifier_becomes_a_named_head(name: str, asked: str | None, tmp_path: Path):
    classifier = {key.replace("classification_heads.x", "classifier"): value for key, value in head("x", 4).items()}
    state = {key: value for key, value in hf().items() if not key.startswith("lm_head")} | classifier
    report = run(saved(tmp_path / "hf", state), tmp_path / "out", "fairseq", head=asked)
    made = written(tmp_path / "out")
    assert torch.equal(made[f"classification_heads.{name}.dense.weight"], classifier["classifier.dense.weight"])
    assert torch.equal(made["encoder.lm_head.layer_norm.weight"], torch.ones(32))
    assert "encoder.lm_head.dense.weight" in reasons(report.plan.created)
    cfg = torch.load(tmp_path / "out" / "model.pt", weights_only=True)["cfg"]
    assert cfg["model"]["load_checkpoint_heads"] is True
    run(tmp_path / "out", tmp_path / "back", "hf")
    back = written(tmp_path / "back")
    assert set(back) == set(state)
    assert all(torch.equal(back[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ({"classifier.weight": (7, 32), "classifier.bias": (7,)}, "token_classification"),
        ({"classifier.weight": (1, 32), "classifier.bias": (1,), "roberta.pooler.dense.weight": (32, 32),
          "roberta.pooler.dense.bias": (32,)}, "token_classification"),
        ({"qa_outputs.weight": (2, 32), "qa_outputs.bias": (2,)}, "question_answering"),
    ],
    ids=["tokens", "multiple choice", "answers"],
)  # fmt: skip
def test_heads_that_fairseq_lacks_are_refused_with_the_way_out(extra: dict, what: str, tmp_path: Path):
    state = {key: value for key, value in hf().items() if not key.startswith("lm_head")}
    source = saved(tmp_path / "hf", state | {key: torch.randn(shape) for key, shape in extra.items()})
    with pytest.raises(DoesNotFit, match=rf"can't become xlmr/fairseq with its {what}: .* say --head none") as caught:
        run(source, tmp_path / "out", "fairseq")
    assert caught.value.path == str(source / "model.safetensors")
    assert not (tmp_path / "out").exists()
    report = run(source, tmp_path / "out", "fairseq", head="none")
    lost = [key for key in extra if key.startswith(("classifier", "qa"))]
    assert all(reasons(report.plan.dropped)[key].startswith("LOST: xlmr/fairseq gets no head (--head)") for key in lost)


# ------------------------------------------------------------------------------------------------------------- labels
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "contradiction\nneutral or so\nentailment\n"),
        ("label.dict.txt", "contradiction 12\nneutral or so 9\nentailment 3\nmadeupword0000 0\n"),
        ("labels.json", '["contradiction", "neutral or so", "entailment"]'),
        ("id2label.json", '{"0": "contradiction", "2": "entailment", "1": "neutral or so"}'),
    ],
)
def test_labels_from_any_kind_of_file_and_through_fairseq_and_back(name: str, text: str, tmp_path: Path):
    (tmp_path / name).write_text(text)
    source = in_pt(tmp_path / "m.pt", fairseq() | head("mnli", 3))
    run(source, tmp_path / "hf", "hf", labels=tmp_path / name)
    wanted = ["contradiction", "neutral or so", "entailment"]
    assert list(json.loads((tmp_path / "hf" / "config.json").read_text())["id2label"].values()) == wanted
    run(tmp_path / "hf", tmp_path / "out", "fairseq")
    assert (tmp_path / "out" / "label.dict.txt").read_text() == "".join(f"{label} 1\n" for label in wanted)
    report = run(tmp_path / "out", tmp_path / "back", "hf")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["label2id"] == {label: index for index, label in enumerate(wanted)}
    assert any(note.startswith("the classes' names are those of label.dict.txt") for note in report.notes)


def test_names_that_nobody_gave_are_not_written_down(tmp_path: Path):
    run(in_pt(tmp_path / "m.pt", fairseq() | head("mnli", 3)), tmp_path / "hf", "hf")
    run(tmp_path / "hf", tmp_path / "out", "fairseq")
    assert not (tmp_path / "out" / "label.dict.txt").exists()


@pytest.mark.parametrize(
    ("text", "said"), [("a\nb\n", "names 2 classes .a, b., but the head has 3"), ("a\nb\na\n", "names a class twice")]
)
def test_labels_that_do_not_fit_are_refused(text: str, said: str, tmp_path: Path):
    (tmp_path / "names.txt").write_text(text)
    source = in_pt(tmp_path / "m.pt", fairseq() | head("mnli", 3))
    with pytest.raises(DoesNotFit, match=said):
        run(source, tmp_path / "hf", "hf", labels=tmp_path / "names.txt")
    with pytest.raises(DoesNotFit, match="the target gets no classification head"):
        run(source, tmp_path / "hf", "hf", labels=tmp_path / "names.txt", head="lm_head")


def test_regression_is_carried(tmp_path: Path):
    source = in_pt(tmp_path / "m.pt", fairseq() | head("sts", 1), args=None, cfg={"model": {"regression_target": True}})
    run(source, tmp_path / "hf", "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["problem_type"], len(config["id2label"])) == ("regression", 1)
    run(tmp_path / "hf", tmp_path / "out", "fairseq")
    cfg = torch.load(tmp_path / "out" / "model.pt", weights_only=True)["cfg"]
    assert cfg["model"]["regression_target"] is True


# ---------------------------------------------------------------------------------------------- other models, bad input
def test_infoxlm_gives_the_fast_model_and_tells_the_rest(tmp_path: Path):
    source = torch.load(GOLDEN / "infoxlm_tiny.pt", weights_only=False)["model"]
    source |= {key: value + 1 for key, value in source.items() if key.startswith("model_slow.")}
    report = run(in_pt(tmp_path / "m.pt", source), tmp_path / "hf", "hf")
    fast = "model_fast.decoder.sentence_encoder.layers.0.fc1.weight"
    assert torch.equal(written(tmp_path / "hf")["roberta.encoder.layer.0.intermediate.dense.weight"], source[fast])
    told = reasons(report.plan.dropped)
    assert all("momentum copy" in told[key] for key in source if key.startswith("model_slow."))
    assert {told[key] for key in ("queue", "enqueue_cnt", "queue_ptr")} == {
        "InfoXLM's queue of negatives, which only training needs"
    }
    assert all("contrastive loss" in told[f"proj_matrix_{speed}"] for speed in ("fast", "slow"))


def test_a_written_infoxlm_file_begins_with_a_momentum_copy_that_takes_no_room(tmp_path: Path):
    report = run(saved(tmp_path / "hf", hf()), tmp_path / "out.pt", "fairseq-infoxlm")
    made = torch.load(tmp_path / "out.pt", weights_only=False)["model"]
    fast = {key: value for key, value in made.items() if key.startswith("model_fast.")}
    assert len(made) == 2 * len(fast)
    assert all(made[key.replace("fast", "slow")].data_ptr() == value.data_ptr() for key, value in fast.items())
    told = reasons(report.plan.created)
    assert {told[key] for key in made.keys() - fast.keys()} == {"xlmr/hf has none: a copy of model_fast.*"}
    assert "model_slow.decoder.sentence_encoder.version" not in made


def test_xlm_aligns_projections_are_told(tmp_path: Path):
    told = reasons(run(GOLDEN / "xlm_align_tiny.pt", tmp_path / "hf", "hf").plan.dropped)
    assert {key for key, reason in told.items() if "word alignment" in reason} == {
        "q_linear.weight", "q_linear.bias", "k_linear.weight", "k_linear.bias"
    }  # fmt: skip


def test_a_prenorm_model_goes_to_current_fairseq_only(tmp_path: Path):
    xl = GOLDEN / "xlmr_xl_tiny.pt"
    run(xl, tmp_path / "hf", "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "xlm-roberta-xl"
    for layout in ("fairseq-0.10", "fairseq-0.9", "fairseq-0.8", "fairseq-infoxlm"):
        with pytest.raises(DoesNotFit, match=r"prenorm: fairseq up to 0.10 has norms after the sublayers only"):
            run(tmp_path / "hf", tmp_path / "x", layout)
    run(tmp_path / "hf", tmp_path / "out", "fairseq")
    made = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert made["model"]["encoder.sentence_encoder.version"].tolist() == [3.0]
    assert (made["cfg"]["model"]["encoder_normalize_before"], made["cfg"]["model"]["layernorm_embedding"]) == (
        True,
        False,
    )


def test_a_prenorm_file_without_its_version_is_converted_with_a_word(tmp_path: Path):
    state = torch.load(GOLDEN / "xlmr_xl_tiny.pt", weights_only=False)["sd"]
    source = in_pt(tmp_path / "m.pt", {key: value for key, value in state.items() if "version" not in key})
    report = run(source, tmp_path / "hf", "hf")
    assert any("version is absent: fairseq takes such a file for one of 2019" in note for note in report.notes)
    norm = written(tmp_path / "hf")["roberta.encoder.LayerNorm.weight"]
    assert torch.equal(norm, state["encoder.sentence_encoder.layer_norm.weight"])


STRANGERS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any], str]] = {
    "RoBERTa": ({"vocab": (50265, 32)}, {}, "is RoBERTa"),
    "CamemBERT": ({"vocab": (32005, 32)}, {}, "is CamemBERT"),
    "RoBERTa by its config": ({}, {"model_type": "roberta"}, "model_type = 'roberta', expected xlm-roberta"),
    "another epsilon": ({}, {"layer_norm_eps": 1e-12}, "layer_norm_eps = 1e-12, expected 1e-05"),
    "relative positions": ({}, {"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
    "a decoder": ({}, {"is_decoder": True}, "is_decoder = True, expected"),
    "another activation": ({}, {"hidden_act": "mish"}, "hidden_act = 'mish', which fairseq has no word for"),
    "an activation that its lm_head ignores": ({}, {"hidden_act": "relu"}, "hidden_act = 'relu', expected gelu: tr"),
    "another padding": ({}, {"pad_token_id": 0}, "pad_token_id = 0, expected 1"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_models_that_only_look_alike_are_named_and_refused(name: str, tmp_path: Path):
    shapes, config, said = STRANGERS[name]
    changed = {}
    if shapes:
        rows = shapes["vocab"][0]
        changed = {
            "roberta__embeddings__word_embeddings__weight": torch.zeros(rows, 32),
            "lm_head__bias": torch.zeros(rows),
        }
    with pytest.raises(CkptconvError, match=said):
        run(saved(tmp_path / "hf", hf(**changed), **config), tmp_path / "out", "fairseq")
    assert not (tmp_path / "out").exists()


ARGS: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "relu": ({"activation_fn": "relu"}, None, "activation_fn = 'relu', expected gelu: transformers' lm_head always"),
    "another pooler": ({"pooler_activation_fn": "relu"}, "mnli", "pooler_activation_fn = 'relu', expected tanh"),
    "scaled embeddings": ({"no_scale_embedding": False}, None, "no_scale_embedding = False, expected True"),
    "other width": ({"encoder_embed_dim": 64}, None, r"encoder_embed_dim = 64, but the tensors say d = 32"),
    "other norms": ({"encoder_normalize_before": True}, None, "but the tensors say prenorm = False"),
    "heads that don't divide": ({"encoder_attention_heads": 5}, None, "expected that the heads divide the width"),
}


@pytest.mark.parametrize("name", ARGS)
def test_args_that_the_target_would_not_follow_are_refused(name: str, tmp_path: Path):
    args, chosen, said = ARGS[name]
    source = in_pt(tmp_path / "m.pt", fairseq() | head("mnli", 3), cfg={"model": args})
    with pytest.raises(DoesNotFit, match=said):
        run(source, tmp_path / "hf", "hf", head=chosen or "lm_head")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("args", "chosen"), [({"activation_fn": "relu"}, "mnli"), ({"pooler_activation_fn": "relu"}, "lm_head")]
)
def test_args_that_no_kept_head_uses_are_no_obstacle(args: dict[str, Any], chosen: str, tmp_path: Path):
    source = in_pt(tmp_path / "m.pt", fairseq() | head("mnli", 3), cfg={"model": args})
    run(source, tmp_path / "hf", "hf", head=chosen)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["hidden_act"] == args.get("activation_fn", "gelu")


def test_a_made_up_lm_head_is_no_obstacle_either(tmp_path: Path):
    source = saved(tmp_path / "hf", hf(), hidden_act="relu")
    run(source, tmp_path / "out", "fairseq", head="none")
    cfg = torch.load(tmp_path / "out" / "model.pt", weights_only=True)["cfg"]
    assert cfg["model"]["activation_fn"] == "relu"


def test_an_untied_decoder_gets_a_bias_of_its_own(tmp_path: Path):
    state = {key: value.clone() for key, value in fairseq().items()}
    state["encoder.lm_head.weight"] += 1
    run(in_pt(tmp_path / "m.pt", state), tmp_path / "hf", "hf")
    made = written(tmp_path / "hf")
    assert torch.equal(made["lm_head.decoder.bias"], made["lm_head.bias"])


@pytest.mark.parametrize("bare", [False, True])
def test_bert_is_named_and_refused(bare: bool, tmp_path: Path):
    state = {key.removeprefix("roberta."): value for key, value in hf().items() if key.startswith("roberta.")}
    state |= {"embeddings.position_embeddings.weight": torch.zeros(512, 32)}
    state |= {"embeddings.token_type_embeddings.weight": torch.zeros(2, 32)}
    if not bare:
        state = {f"bert.{key}": value for key, value in state.items()} | {"cls.predictions.bias": torch.zeros(45)}
    with pytest.raises(UnknownLayout, match=r"is BERT \(bert-base-multilingual and others\)"):
        run(saved(tmp_path / "hf", state), tmp_path / "out", "fairseq")


@pytest.mark.parametrize(
    ("one", "other", "known"),
    [("n0122", "n090", "fairseq-0.9"), ("n090", "n080", "fairseq-0.8"), ("n090", "n0122", "fairseq")],
)
def test_mixed_generations_are_refused_by_name(one: str, other: str, known: str, tmp_path: Path):
    first = {key: value for key, value in fairseq(one).items() if ".layers.1." not in key}
    second = {key: value for key, value in fairseq(other).items() if ".layers.1." in key}
    with pytest.raises(
        DoesNotFit, match=rf"keys of xlmr/{known}: the file mixes two layouts; expected one\."
    ) as caught:
        run(in_pt(tmp_path / "m.pt", first | second), tmp_path / "hf", "hf")
    assert caught.value.path == str(tmp_path / "m.pt")
    assert not (tmp_path / "hf").exists()
