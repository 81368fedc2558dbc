"""ERNIE-M ↔ XLM-R: the outputs are Paddle's recorded ones, and the same in transformers 4's ErnieM classes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import XLMRobertaForSequenceClassification, XLMRobertaModel

from ckptconv import verify
from tests.ernie_m.side import GOLDEN, SAMPLES, SIZES, TOKENS, paddle_arrays, paddle_folder, read_json, run
from tests.xlmr.hf_side import load, shake

ERNIE_M = transformers.__version__.startswith("4")  # transformers 5 dropped it
HEADS = ["Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice"]


def outputs(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """Everything that the model computes, at tokens that aren't padding; multiple choice takes the rows as choices."""
    choice = type(model).__name__.endswith("MultipleChoice")
    mask = (ids != 1).long()
    given = {"input_ids": ids, "attention_mask": mask}
    given = {name: value[None] for name, value in given.items()} if choice else given
    with torch.no_grad():
        found = [each for each in model(**given).to_tuple() if isinstance(each, torch.Tensor)]
    by_shape = {3: mask[..., None], 2: mask if found[0].shape == ids.shape else 1}
    return [each * by_shape[each.dim()] for each in found]


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    assert len(found) == len(expected) > 0
    for left, right in zip(found, expected, strict=True):
        assert left.shape == right.shape
        assert (left - right).abs().max() <= tolerance
    assert max(each.abs().max() for each in expected) > 0.01


# ------------------------------------------------------------------------------------------------ Paddle's own outputs
def test_paddles_model_computes_what_paddle_recorded(tmp_path: Path):
    source = paddle_folder(tmp_path / "paddle", "ErnieMModel")
    model = load(run(source, tmp_path / "hf", "xlmr/hf"), XLMRobertaModel)
    recorded = np.load(GOLDEN / "ref_paddle_Model.npz")
    states, pooled = (torch.from_numpy(recorded[name]) for name in recorded.files)
    found = outputs(model, TOKENS)
    assert_close(found, [states * (TOKENS != 1)[..., None], pooled])


def test_paddles_sequence_classifier_computes_what_paddle_recorded(tmp_path: Path):
    source = GOLDEN / f"{SAMPLES['Sequence']}.pdparams"
    options: dict[str, Any] = {"head": "sequence_classification", "set": {"num_attention_heads": 4}}
    model = load(run(source, tmp_path / "hf", "xlmr/hf", **options), XLMRobertaForSequenceClassification)
    recorded = np.load(GOLDEN / "ref_paddle_ForSequenceClassification.npz")
    assert_close(outputs(model, TOKENS), [torch.from_numpy(recorded[name]) for name in recorded.files])


# ---------------------------------------------------------------------------------------------- transformers 4's ErnieM
@pytest.mark.skipif(not ERNIE_M, reason="transformers 5 has no ErnieM")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head", HEADS)
def test_the_classes_of_transformers_4_there_and_back(head: str, dtype: torch.dtype, tmp_path: Path):
    from transformers.models.deprecated import ernie_m

    kind = getattr(ernie_m, f"ErnieM{head}")
    torch.manual_seed(0)
    before = kind(ernie_m.ErnieMConfig(**SIZES, num_labels=2 if "Question" in head else 3)).to(dtype)
    shake(before)
    before.eval().save_pretrained(tmp_path / "before")
    run(tmp_path / "before", tmp_path / "hf", "xlmr/hf")
    wanted = f"XLMRoberta{head}"
    assert read_json(tmp_path / "hf/config.json")["architectures"] == [wanted]
    converted = load(tmp_path / "hf", getattr(transformers, wanted))
    assert_close(outputs(converted, TOKENS), outputs(before.float(), TOKENS))
    run(tmp_path / "hf", tmp_path / "after", "xlmr/ernie_m")
    after = load(tmp_path / "after", kind)
    assert_close(outputs(after, TOKENS), outputs(before, TOKENS), 1e-6)
    assert verify(tmp_path / "before", tmp_path / "after").verdict == "proved"


@pytest.mark.skipif(not ERNIE_M, reason="transformers 5 has no ErnieM")
@pytest.mark.parametrize("head", HEADS)
def test_paddles_files_load_in_the_classes_of_transformers_4(head: str, tmp_path: Path):
    from transformers.models.deprecated import ernie_m

    source = paddle_folder(tmp_path / "paddle", f"ErnieM{head}")
    run(source, tmp_path / "ernie_m", "xlmr/ernie_m")
    if head in ("ForTokenClassification", "ForQuestionAnswering"):  # Paddle's have a pooler that they don't use
        model, info = getattr(ernie_m, f"ErnieM{head}").from_pretrained(tmp_path / "ernie_m", output_loading_info=True)
        assert {key.rpartition(".")[0] for key in info["unexpected_keys"]} == {"ernie_m.pooler.dense"}
        assert not info["missing_keys"]
        assert not info["mismatched_keys"]
    else:
        model = load(tmp_path / "ernie_m", getattr(ernie_m, f"ErnieM{head}"))
    run(source, tmp_path / "hf", "xlmr/hf")
    found = getattr(transformers, f"XLMRoberta{head}").from_pretrained(tmp_path / "hf")
    assert_close(outputs(found.eval(), TOKENS), outputs(model.eval(), TOKENS))


def test_padding_on_the_left_is_where_the_two_models_differ(tmp_path: Path):
    """The positions of ERNIE-M count padding, those of XLM-R don't: what the report's note is about."""
    source = paddle_folder(tmp_path / "paddle", "ErnieMModel")
    model = load(run(source, tmp_path / "hf", "xlmr/hf"), XLMRobertaModel)
    ids = torch.tensor([[1, 1, 0, 7, 8, 2]])
    counted = model(ids, attention_mask=(ids != 1).long(), position_ids=torch.arange(2, 8)[None])[0]
    own = model(ids, attention_mask=(ids != 1).long())[0]
    right = model(ids.flip(1)[:, [3, 2, 1, 0]], attention_mask=torch.ones(1, 4, dtype=torch.long))[0]
    assert (own[0, 2:] - right[0]).abs().max() < 1e-5
    assert (own[0, 2:] - counted[0, 2:]).abs().max() > 1e-3


def test_a_directory_is_written_as_paddlenlp_reads_it(tmp_path: Path):
    source = paddle_folder(tmp_path / "paddle", "ErnieMForSequenceClassification")
    run(source, tmp_path / "hf", "xlmr/hf")
    run(tmp_path / "hf", tmp_path / "back", "xlmr/ernie_m-paddle")
    before, after = paddle_arrays(source), paddle_arrays(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) and after[key].dtype == np.float32 for key in before)
    said, wrote = read_json(source / "config.json"), read_json(tmp_path / "back/config.json")
    ignored = ("type_vocab_size", "paddlenlp_version", "intermediate_size", "model_type")
    assert {name: wrote[name] for name in said if name not in ignored} == {
        name: value for name, value in said.items() if name not in ignored
    }
    assert (wrote["model_type"], wrote["intermediate_size"]) == (
        "ernie_m",
        128,
    )  # its own config says 64, and isn't read
    shutil.rmtree(tmp_path / "hf")
