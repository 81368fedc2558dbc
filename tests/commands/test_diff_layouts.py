"""diff of two layouts of one family: equal after a conversion, what one alone has is explained, heads are matched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    XLMRobertaForMaskedLM,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
    XLMRobertaModel,
)

import ckptconv
from ckptconv import diff
from tests.commands.conftest import FINETUNED, GOLDEN, NUMBERS, run
from tests.commands.diff_side import NOTHING, differences, reasons, saved
from tests.xlmr.hf_side import build

HF = GOLDEN / "hf_xlmr_mlm_transformers-5.23.safetensors"
POOLED = GOLDEN / "hf_xlmr_mlm_transformers-2.3.0_205style_legacy.bin"
XLMR = [HF, POOLED, GOLDEN / "hf_xlmr_mlm_transformers-4.30.2.bin", *sorted(GOLDEN.glob("fairseq-*_mlm*.pt"))]
XLMR += [GOLDEN / "infoxlm_tiny.pt", GOLDEN / "xlm_align_tiny.pt", GOLDEN / "xlmr_xl_tiny.pt"]
DELTALM = [FINETUNED, NUMBERS / "pretrained.pt", *sorted(GOLDEN.glob("deltalm_finetuned_*.pt"))]
DELTALM += [GOLDEN / "hf_deltalm_fengshen_transformers-4.30.2.bin", GOLDEN / "deltalm_pretrained_weights_tiny.pt"]
LAYOUTS = {
    **dict.fromkeys(XLMR, ("hf", "fairseq", "fairseq-0.10", "fairseq-0.9", "fairseq-0.8", "fairseq-infoxlm")),
    **dict.fromkeys(DELTALM, ("hf", "fairseq", "pretrained")),
}


# ----------------------------------------------------------------------------------------------------- two layouts
def possible(path: Path, layout: str) -> bool:
    """Whether the file is not in that layout already, nor has norms before its sublayers, which old fairseq lacks."""
    own = ckptconv.inspect(path).layout
    assert own is not None
    return own.partition("/")[2] != layout and ("xlmr_xl" not in path.name or layout in ("hf", "fairseq"))


CONVERSIONS = [(path, layout) for path, layouts in LAYOUTS.items() for layout in layouts if possible(path, layout)]


@pytest.mark.parametrize(("path", "layout"), CONVERSIONS, ids=lambda value: getattr(value, "name", value))
def test_a_converted_file_is_the_same(path: Path, layout: str, tmp_path: Path):
    output = tmp_path / ("out.safetensors" if layout == "hf" else "out.pt")
    run(path, output, layout, set={"num_attention_heads": 4} if "xl_" in path.name else {})
    for a, b in ((path, output), (output, path)):
        for values in (False, True):
            report = diff(a, b, values=values)
            assert differences(report) == NOTHING
            assert not report.different
            assert any("seen as" in note for note in report.notes)
            assert report.pairs
            assert all(pair.status == ("equal" if values else None) for pair in report.pairs)


@pytest.mark.parametrize(("path", "layout"), [(FINETUNED, "hf"), (GOLDEN / "fairseq-0.8.0_roberta_mlm_fused.pt", "hf")])
@pytest.mark.parametrize("seed", range(6))
def test_one_changed_value_in_another_layout_is_found(path: Path, layout: str, seed: int, tmp_path: Path):
    run(path, tmp_path / "hf.safetensors", layout)
    state = load_file(tmp_path / "hf.safetensors")
    generator = torch.Generator().manual_seed(seed)
    keys = [key for key in state if "token_type" not in key]
    key = keys[int(torch.randint(len(keys), (1,), generator=generator))]
    state[key].view(-1)[int(torch.randint(state[key].numel(), (1,), generator=generator))] += 0.5
    saved(tmp_path / "changed.safetensors", state)
    report = diff(path, tmp_path / "changed.safetensors", values=True)
    changed = [pair for pair in report.pairs if pair.status == "differ"]
    # The embedding has several names, and a fused tensor several parts.
    assert changed
    assert {pair.comparison.changed for pair in changed} == {1}
    assert [pair.comparison.max_abs for pair in changed] == pytest.approx([0.5] * len(changed), rel=1e-3)
    assert all(key in (*pair.b, pair.key) or pair.same_as for pair in changed)
    assert (report.added, report.removed, report.shape_changed) == ((), (), ())


def test_what_only_one_layout_has_is_explained(hf_dir: Path):
    told = reasons(diff(FINETUNED, hf_dir))
    assert told == {f"{side}.version": "A: a constant that deltalm/hf lacks" for side in ("encoder", "decoder")}
    assert set(reasons(diff(hf_dir, FINETUNED))) == set(told)


def test_a_pooler_that_fairseq_cannot_hold_is_explained_in_both_directions(tmp_path: Path):
    run(POOLED, tmp_path / "f.pt", "fairseq")
    for a, b, side in ((POOLED, tmp_path / "f.pt", "A"), (tmp_path / "f.pt", POOLED, "B")):
        told = reasons(diff(a, b))
        assert told["roberta.pooler.dense.weight"].startswith(f"{side}: fairseq has no pooler")
    # In one and the same layout it is a difference.
    with_pooler = saved(
        tmp_path / "p.safetensors", {**load_file(HF), "roberta.pooler.dense.weight": torch.ones(32, 32)}
    )
    assert differences(diff(HF, with_pooler)) == {**NOTHING, "added": ["roberta.pooler.dense.weight"]}


def test_a_constant_with_another_value_is_a_difference(tmp_path: Path):
    state = torch.load(FINETUNED / "checkpoint_best.pt", weights_only=False)["model"]
    run(FINETUNED, tmp_path / "hf.safetensors", "hf")
    torch.save({"model": {**state, "decoder.version": torch.tensor([1.0])}}, tmp_path / "old.pt")
    assert differences(diff(tmp_path / "hf.safetensors", tmp_path / "old.pt")) == NOTHING
    report = diff(tmp_path / "hf.safetensors", tmp_path / "old.pt", values=True)
    assert differences(report) == {**NOTHING, "added": ["decoder.version"]}


def test_a_file_of_the_same_layout_under_wrappers_and_old_names(tmp_path: Path):
    state = load_file(HF)
    wrapped = {f"module.model.{key}".replace("LayerNorm.weight", "LayerNorm.gamma"): t for key, t in state.items()}
    report = diff(saved(tmp_path / "wrapped.pt", wrapped), HF, values=True)
    assert differences(report) == NOTHING
    notes = " ".join(report.notes)
    assert "A: all keys begin with `module.model.`: read without it" in notes
    assert "`gamma` is read as `weight`" in notes
    pair = next(pair for pair in report.pairs if pair.key == "roberta.embeddings.LayerNorm.weight")
    assert (pair.a, pair.b) == (("module.model.roberta.embeddings.LayerNorm.gamma",), (pair.key,))


def test_the_bare_model_against_one_with_a_head(tmp_path: Path):
    torch.manual_seed(0)
    whole = build(XLMRobertaForMaskedLM)
    whole.save_pretrained(tmp_path / "mlm")
    whole.roberta.save_pretrained(tmp_path / "bare")
    report = diff(tmp_path / "bare", tmp_path / "mlm", values=True)
    assert {key.split(".")[0] for key in differences(report)["added"]} == {"lm_head"}
    assert {**differences(report), "added": []} == NOTHING
    bare = XLMRobertaModel.from_pretrained(tmp_path / "bare")
    assert len(report.pairs) >= len([key for key in bare.state_dict() if "position_ids" not in key]) - 2


def test_a_file_that_does_not_fit_is_seen_by_the_one_that_does(tmp_path: Path):
    """Adapters in A: it can't be converted, but B can be seen as its layout."""
    state = torch.load(FINETUNED / "checkpoint_best.pt", weights_only=False)["model"]
    torch.save({"model": {**state, "adapter.0.w": torch.ones(2)}}, tmp_path / "a.pt")
    run(FINETUNED, tmp_path / "hf.safetensors", "hf")
    report = diff(tmp_path / "a.pt", tmp_path / "hf.safetensors", values=True)
    assert differences(report) == {**NOTHING, "removed": ["adapter.0.w"]}
    assert "B is seen as deltalm/fairseq" in report.notes
    hf = {**load_file(tmp_path / "hf.safetensors"), "adapter.0.w": torch.ones(3)}
    report = diff(tmp_path / "a.pt", saved(tmp_path / "b.safetensors", hf))
    (note,) = [note for note in report.notes if "neither can be seen as the other" in note]
    assert "of A, 0 missing, 1 left over, 0 of another shape" in note
    assert [pair.key for pair in report.shape_changed] == ["adapter.0.w"]


def test_fewer_layers_and_another_vocabulary(tmp_path: Path):
    build(XLMRobertaForMaskedLM, num_hidden_layers=3, vocab_size=50).save_pretrained(tmp_path / "hf")
    fairseq = GOLDEN / "fairseq-0.8.0_roberta_mlm_fused.pt"
    report = diff(tmp_path / "hf", fairseq)
    assert len(report.removed) == 16
    assert all(each.key.startswith("roberta.encoder.layer.2.") for each in report.removed)
    shapes = {pair.key: (pair.shape_a, pair.shape_b) for pair in report.shape_changed}
    embedding = "decoder.sentence_encoder.embed_tokens.weight"
    assert shapes[embedding] == ((50, 32), (45, 32))
    assert report.different
    back = diff(fairseq, tmp_path / "hf")
    assert sorted(each.key for each in back.added) == sorted(each.key for each in report.removed)


# ---------------------------------------------------------------------------------------------------------- heads
def classifier(folder: Path, labels: int = 3, seed: int = 0, kind: type = XLMRobertaForSequenceClassification) -> Path:
    build(kind, seed, num_labels=labels).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["mnli", "sentence_classification_head"])
def test_a_head_without_a_name_is_the_one_that_fairseq_names(name: str, tmp_path: Path):
    source = classifier(tmp_path / "hf")
    run(source, tmp_path / "f.pt", "fairseq", head=name)
    for pair in ((source, tmp_path / "f.pt"), (tmp_path / "f.pt", source)):
        assert differences(diff(*pair, values=True)) == NOTHING
    assert any(f".{name}.out_proj.weight" in pair.key for pair in diff(source, tmp_path / "f.pt").pairs)


def test_of_several_heads_the_one_of_equal_size_is_compared(tmp_path: Path):
    source = classifier(tmp_path / "hf", labels=3)
    run(source, tmp_path / "f.pt", "fairseq", head="mnli")
    loaded = torch.load(tmp_path / "f.pt", weights_only=True)
    for part in ("dense.weight", "dense.bias"):
        loaded["model"][f"classification_heads.a.{part}"] = torch.ones(32, 32) if "weight" in part else torch.ones(32)
    loaded["model"]["classification_heads.a.out_proj.weight"] = torch.ones(2, 32)
    loaded["model"]["classification_heads.a.out_proj.bias"] = torch.ones(2)
    loaded["model"] = {key: loaded["model"][key] for key in sorted(loaded["model"])}
    torch.save(loaded, tmp_path / "two.pt")
    report = diff(tmp_path / "two.pt", source, values=True)
    assert {key.rpartition("heads.")[2].split(".")[0] for key in differences(report)["removed"]} == {"a"}
    assert {**differences(report), "removed": []} == NOTHING


def test_a_head_that_the_other_lacks_is_a_difference(tmp_path: Path):
    """Token classification has no place in fairseq; an lm_head that is trained is none that is made up."""
    run(HF, tmp_path / "f.pt", "fairseq")
    tagger = classifier(tmp_path / "ner", 7, kind=XLMRobertaForTokenClassification)
    report = diff(tagger, tmp_path / "f.pt", values=True)
    assert differences(report)["removed"] == ["classifier.bias", "classifier.weight"]
    added = differences(report)["added"]
    assert {key.split(".")[1] for key in added} == {"lm_head"}
    assert len(added) == 5
    back = diff(tmp_path / "f.pt", tagger, values=True)
    assert sorted(differences(back)["added"]) == ["classifier.bias", "classifier.weight"]
    assert sorted(differences(back)["removed"]) == sorted(added)


def test_a_made_up_lm_head_is_no_difference(tmp_path: Path):
    source = classifier(tmp_path / "hf")
    run(source, tmp_path / "f.pt", "fairseq")
    told = reasons(diff(source, tmp_path / "f.pt", values=True))
    assert told["encoder.lm_head.dense.weight"] == "B: xlmr/hf has none: made up, 0 everywhere"
    assert "--values" in reasons(diff(source, tmp_path / "f.pt"))["encoder.lm_head.dense.weight"]


def test_label_counts_of_two_taggers(tmp_path: Path):
    a = classifier(tmp_path / "a", 9, kind=XLMRobertaForTokenClassification)
    b = classifier(tmp_path / "b", 7, kind=XLMRobertaForTokenClassification)
    assert differences(diff(a, b))["shapes"] == ["classifier.bias", "classifier.weight"]
