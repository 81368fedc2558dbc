"""A class of transformers as the target: each situation is recognised, explained and answered with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ckptconv import audit
from tests.auditing.conftest import SAMPLES, follow, keys
from tests.commands.conftest import FINETUNED, GOLDEN, run


def test_a_head_left_behind_and_a_new_one(saved: Callable[..., Path]):
    report = audit(saved("XLMRobertaForMaskedLM"), saved("XLMRobertaForTokenClassification"))
    assert keys(report.missing_keys) == {"classifier.weight", "classifier.bias"}
    assert {each.reason for each in report.missing_keys} == {"a head, which will be new: train it"}
    assert all(key.startswith("lm_head.") for key in keys(report.unexpected_keys))
    assert all("left behind" in each.reason for each in report.unexpected_keys)
    assert (report.verdict, report.advice) == (
        "as_expected", "train what is new before you rely on it: classifier",
    )  # fmt: skip


def test_poolers(saved: Callable[..., Path]):
    adds = audit(saved("XLMRobertaForMaskedLM"), saved("XLMRobertaModel"))
    assert [each.reason for each in adds.missing_keys] == [
        "a pooler, which will be new: random until it is trained"
    ] * 2
    lacks = audit(saved("XLMRobertaModel"), saved("XLMRobertaForTokenClassification"))
    assert keys(lacks.unexpected_keys) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert {each.reason for each in lacks.unexpected_keys} == {
        "a pooler that XLMRobertaForTokenClassification has no place for: left behind"
    }
    assert adds.verdict == lacks.verdict == "as_expected"


def test_buffers_are_ignored_and_told(saved: Callable[..., Path]):
    report = audit(GOLDEN / "hf_xlmr_mlm_transformers-4.30.2.bin", saved("XLMRobertaForMaskedLM"))
    assert [(each.key, each.expected) for each in report.ignored] == [("roberta.embeddings.position_ids", True)]
    assert report.verdict == "exact"


def test_half_a_head_is_not_expected(saved: Callable[..., Path], tmp_path: Path):
    state = load_file(saved("XLMRobertaForSequenceClassification") / "model.safetensors")
    state.pop("classifier.out_proj.bias")
    save_file(state, tmp_path / "x.safetensors")
    report = audit(tmp_path / "x.safetensors", saved("XLMRobertaForSequenceClassification"))
    assert [(each.key, each.expected) for each in report.missing_keys] == [("classifier.out_proj.bias", False)]


def test_a_head_that_the_checkpoints_own_config_promises(saved: Callable[..., Path], tmp_path: Path):
    folder = saved("XLMRobertaForTokenClassification")
    state = {key: each for key, each in load_file(folder / "model.safetensors").items() if "classifier" not in key}
    save_file(state, tmp_path / "model.safetensors")
    assert audit(tmp_path, folder).verdict == "as_expected"
    shutil.copy(folder / "config.json", tmp_path)
    report = audit(tmp_path, tmp_path)
    assert report.verdict == "does_not_fit"
    assert {each.reason for each in report.missing_keys} == {
        "a head, which a checkpoint of XLMRobertaForTokenClassification should have"
    }


@pytest.mark.parametrize(
    "file", [name for name, layout in SAMPLES.items() if "hf" not in layout and "xlm/" not in layout]
)
def test_a_fairseq_file_into_a_class_becomes_usable_by_the_command_that_is_named(
    file: str, saved: Callable[..., Path], deltalm: Path, tmp_path: Path
):
    """Situation c."""
    kind = "XLMRobertaXLForMaskedLM" if "xl_tiny" in file else "XLMRobertaForMaskedLM"
    target = deltalm if "deltalm" in file else saved(kind)
    report = audit(GOLDEN / file, target)
    family = SAMPLES[file].partition("/")[0]
    assert report.verdict == "does_not_fit"
    assert f"is in the layout {SAMPLES[file]}" in report.diagnoses[0].sentence
    assert f"takes {family}/hf" in report.diagnoses[0].sentence
    assert any("from_pretrained wants it at the top level" in note for note in report.notes)
    follow(report, tmp_path / "out")
    after = audit(tmp_path / "out", tmp_path / "out")
    assert (after.target, after.verdict) == (report.target, "exact")


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("XLMRobertaForTokenClassification", "classifier."),
        ("XLMRobertaModel", "pooler."),
        ("XLMRobertaForMaskedLM", "-"),
    ],
)
def test_what_a_conversion_can_not_make_is_new(saved: Callable[..., Path], name: str, new: str):
    report = audit(GOLDEN / "fairseq-0.12.2_roberta_mlm_BTzeros.pt", saved(name))
    for each in report.missing_keys:
        assert ("will be new" in each.reason) == each.expected == each.key.startswith(new)
        assert each.expected or each.reason == "can be made from the checkpoint's xlmr/fairseq keys"
    assert report.advice.startswith("convert it: ")


def test_a_model_of_another_kind(saved: Callable[..., Path]):
    """Situation c: the wrong HF class."""
    report = audit(saved("XLMRobertaForMaskedLM"), saved("XLMRobertaXLForMaskedLM"))
    assert "XLMRobertaXLForMaskedLM is prenorm, the checkpoint isn't" in report.diagnoses[0].sentence
    assert report.verdict == "does_not_fit"


@pytest.mark.parametrize("name", ["XLMRobertaForMaskedLM", "XLMRobertaModel"])
def test_twelve_layers_into_twenty_four(saved: Callable[..., Path], name: str):
    """Situation c."""
    short, high = saved(name, num_hidden_layers=12), saved(name, num_hidden_layers=24)
    report = audit(short, high)
    assert [each.sentence for each in report.diagnoses] == [
        "only layers 12..23 of encoder.layer are missing: "
        "the config has 24 layers (num_hidden_layers), the checkpoint 12"
    ]
    assert len(report.missing_keys) == 12 * 16
    back = audit(high, short)
    assert [each.sentence for each in back.diagnoses] == [
        "layers 12..23 of encoder.layer would be lost: the config has 12 layers (num_hidden_layers), the checkpoint 24"
    ]
    assert report.verdict == back.verdict == "does_not_fit"


class Wrapper(torch.nn.Module):
    """A training module that holds the model under a name of its own."""

    def __init__(self, name: str, model: torch.nn.Module) -> None:
        super().__init__()
        self.add_module(name, model)


def wrapped(folder: Path, kind: str, name: str, to: Path) -> Path:
    """The state dict of a wrapper around the saved model; `module` is torch's own."""
    model = getattr(transformers, kind).from_pretrained(folder)
    holder = torch.nn.DataParallel(model) if name == "module" else Wrapper(name, model)
    torch.save({"state_dict": holder.state_dict(), "optimizer_states": [{}]}, to)
    return to


@pytest.mark.parametrize("name", ["module", "lf", "model"])
def test_a_wrappers_prefix(saved: Callable[..., Path], tmp_path: Path, name: str):
    """Situation d, against each kind of target."""
    kind = "XLMRobertaForTokenClassification"
    file = wrapped(saved(kind), kind, name, tmp_path / "x.ckpt")
    for target in (saved(kind), "xlmr/hf", saved(kind) / "model.safetensors"):
        report = audit(file, target)
        assert [each.sentence for each in report.diagnoses] == [
            f"every key is unexpected, and all of them fit once the prefix `{name}.` is gone"
        ]
        assert len(report.unexpected_keys) == report.keys
        assert {each.reason for each in report.unexpected_keys} == {f"has the prefix `{name}.`"}
        assert {each.reason for each in report.missing_keys} == {f"there with the prefix `{name}.`"}
        assert report.verdict == "does_not_fit"
    state = torch.load(file, weights_only=True)["state_dict"]
    advised = report.advice.removeprefix("rename the keys before loading: ")
    save_file(eval(advised, {"state_dict": state}), tmp_path / "renamed.safetensors")
    assert audit(tmp_path / "renamed.safetensors", saved(kind)).verdict == "exact"


def test_a_wrappers_prefix_around_another_task(saved: Callable[..., Path], tmp_path: Path):
    file = wrapped(saved("XLMRobertaForMaskedLM"), "XLMRobertaForMaskedLM", "lf", tmp_path / "x.ckpt")
    report = audit(file, saved("XLMRobertaForTokenClassification"))
    told = "every key is unexpected, and 37 of them fit once the prefix `lf.` is gone"
    assert report.diagnoses[0].sentence == told
    assert len(report.unexpected_keys) == report.keys == 44


def test_a_head_of_nine_labels_for_seven(saved: Callable[..., Path]):
    """Situation f."""
    kind = "XLMRobertaForTokenClassification"
    report = audit(saved(kind, num_labels=9), saved(kind, num_labels=7))
    assert [(each.key, each.got, each.wanted, each.reason) for each in report.mismatched_keys] == [
        ("classifier.weight", (9, 32), (7, 32), "9 where the config has 7 (num_labels)"),
        ("classifier.bias", (9,), (7,), "9 where the config has 7 (num_labels)"),
    ]
    assert report.verdict == "does_not_fit"
    assert report.advice == (
        "use a config with as many labels as the checkpoint, 9, or load with ignore_mismatched_sizes=True, which "
        "starts a new head"
    )


def test_another_vocabulary(saved: Callable[..., Path]):
    report = audit(saved("XLMRobertaForMaskedLM"), saved("XLMRobertaForMaskedLM", vocab_size=77))
    assert {each.reason for each in report.mismatched_keys} == {"45 where the config has 77 (vocab_size)"}


def config_of(folder: Path, to: Path, **fields: Any) -> Path:
    """A config.json with other fields."""
    to.write_text(json.dumps({**json.loads((folder / "config.json").read_text()), **fields}))
    return to


def test_an_untied_projection_that_the_config_ties(saved: Callable[..., Path], tmp_path: Path):
    """Situation h."""
    untied = saved("XLMRobertaForMaskedLM", tie_word_embeddings=False)
    assert audit(untied, untied).verdict == "exact"
    report = audit(untied, config_of(untied, tmp_path / "config.json", tie_word_embeddings=True))
    wrong = [each for each in report.tied if not each.expected]
    assert [(each.key, each.tied_to, each.reason) for each in wrong] == [
        (
            "lm_head.decoder.weight",
            "roberta.embeddings.word_embeddings.weight",
            "the config ties them, but the checkpoint holds different values",
        )
    ]
    assert (report.verdict, report.advice) == ("does_not_fit", "set tie_word_embeddings to false in the config")


def test_a_tied_projection_that_the_config_unties(saved: Callable[..., Path]):
    """Situation h, the other way round."""
    untied = saved("XLMRobertaForMaskedLM", tie_word_embeddings=False)
    report = audit(saved("XLMRobertaForMaskedLM"), untied)
    # the bias too, since transformers 5
    assert {"lm_head.decoder.weight"} <= keys(report.missing_keys) <= {"lm_head.decoder.weight", "lm_head.decoder.bias"}
    assert all("unties" in each.reason and not each.expected for each in report.missing_keys)
    assert report.advice.startswith("set tie_word_embeddings to true")


def test_equal_copies_are_tied_whatever_their_storage(saved: Callable[..., Path], tmp_path: Path):
    folder = saved("XLMRobertaForMaskedLM")
    state = load_file(folder / "model.safetensors")
    copy = state["roberta.embeddings.word_embeddings.weight"].clone()
    save_file({**state, "lm_head.decoder.weight": copy}, tmp_path / "same.safetensors")
    copy[0, 0] += 1
    save_file({**state, "lm_head.decoder.weight": copy}, tmp_path / "other.safetensors")
    same, other = (audit(tmp_path / f"{name}.safetensors", folder) for name in ("same", "other"))
    assert (same.verdict, other.verdict) == ("exact", "does_not_fit")
    assert [each.both for each in same.tied if each.key == "lm_head.decoder.weight"] == [True]


def test_an_old_name_that_nothing_reads(saved: Callable[..., Path], tmp_path: Path):
    """transformers' own conversion scripts fill lm_head.decoder.bias only; every version reads that one."""
    folder = saved("XLMRobertaForMaskedLM")
    state = load_file(folder / "model.safetensors")
    save_file({**state, "lm_head.decoder.bias": state["lm_head.bias"] + 1}, tmp_path / "x.safetensors")
    report = audit(tmp_path / "x.safetensors", folder)
    assert report.verdict == "exact"
    assert ["nothing uses" in each.reason for each in report.tied if each.key == "lm_head.decoder.bias"] == [True]


def test_a_class_by_name(saved: Callable[..., Path]):
    config = saved("XLMRobertaForMaskedLM") / "config.json"
    report = audit(saved("XLMRobertaForMaskedLM"), config, "XLMRobertaForQuestionAnswering")
    assert report.target == "XLMRobertaForQuestionAnswering"
    assert keys(report.missing_keys) == {"qa_outputs.weight", "qa_outputs.bias"}
    report = audit(saved("XLMRobertaForMaskedLM"), config, "RobertaForMaskedLM")
    assert report.verdict == "exact"
    assert "the config is for a xlm-roberta, RobertaForMaskedLM for a roberta" in report.notes


def test_a_conversion_is_exact_in_its_own_class(tmp_path: Path):
    run(FINETUNED, tmp_path / "hf", "deltalm/hf")
    report = audit(tmp_path / "hf", tmp_path / "hf")
    assert (report.target, report.verdict) == ("DeltaLMForConditionalGeneration", "exact")
