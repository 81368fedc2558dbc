"""Files that transformers and its users wrote over the years: in fairseq they compute what transformers computes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fairseq")

import torch
from torch import Tensor
from transformers import AutoConfig, XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel

import ckptconv
from tests import xlmr_side
from tests.xlmr.hf_side import GOLDEN, SMALL, assert_same, build, outputs, padded_batches, run, states

State = dict[str, Tensor]
BIAS, OTHER_BIAS = "lm_head.bias", "lm_head.decoder.bias"
WORDS, OUTPUT = "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"


def tensorflow_names(state: State) -> State:
    """As the first converters from TensorFlow left them: `gamma` and `beta` in every norm."""
    renamed = {}
    for key, value in state.items():
        norm, _, name = key.rpartition(".")
        old = {"weight": "gamma", "bias": "beta"}[name] if norm.lower().endswith(("layernorm", "layer_norm")) else name
        renamed[f"{norm}.{old}" if norm else old] = value
    return renamed


QUIRKS: dict[str, Callable[[State], State]] = {
    "as saved today": lambda state: state,
    "gamma and beta": tensorflow_names,
    "module.": lambda state: {f"module.{key}": value for key, value in state.items()},
    "module. of gamma and beta": lambda state: {f"module.{key}": v for key, v in tensorflow_names(state).items()},
    "position_ids": lambda state: {"roberta.embeddings.position_ids": torch.arange(34)[None], **state},
    "token_type_ids": lambda state: {"roberta.embeddings.token_type_ids": torch.zeros(1, 34).long(), **state},
    "zeros in lm_head.bias": lambda state: {**state, BIAS: torch.zeros(45), OTHER_BIAS: state[BIAS]},
    "noise in lm_head.bias": lambda state: {**state, BIAS: torch.randn(45), OTHER_BIAS: state[BIAS]},
    "both biases": lambda state: {**state, OTHER_BIAS: state[BIAS].clone()},
    "the other bias": lambda state: {**{k: v for k, v in state.items() if k != BIAS}, OTHER_BIAS: state[BIAS]},
    "a shared output": lambda state: {**state, OUTPUT: state[WORDS]},
    "a copied output": lambda state: {**state, OUTPUT: state[WORDS].clone(), OTHER_BIAS: state[BIAS].clone()},
    "a pooler": lambda state: {**state, "roberta.pooler.dense.weight": torch.randn(32, 32),
                               "roberta.pooler.dense.bias": torch.randn(32)},
}  # fmt: skip


def essential(state: State) -> State:
    """What transformers saves of a masked LM whose output is tied: each tensor once."""
    return {key: value.clone() for key, value in state.items() if key not in (OUTPUT, OTHER_BIAS)}


def in_fairseq(folder: Path, output: Path, vocab: int = 45) -> Any:
    run(folder, output, "xlmr/fairseq")
    return xlmr_side.load(output / "model.pt", xlmr_side.write_dictionary(output.parent / "data", vocab))


@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
@pytest.mark.parametrize("quirk", QUIRKS)
def test_a_quirk_changes_nothing(quirk: str, zipped: bool, tmp_path: Path) -> None:
    model = build()
    folder = tmp_path / "hf"
    model.config.save_pretrained(folder)
    state = QUIRKS[quirk](essential(model.state_dict()))
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    theirs = in_fairseq(folder, tmp_path / "fairseq")
    for ids in padded_batches(45):
        assert_same(xlmr_side.outputs(theirs, ids), outputs(model, ids), ids)


@pytest.mark.parametrize("quirk", ["zeros in lm_head.bias", "noise in lm_head.bias"])
def test_of_two_biases_transformers_uses_the_one_that_we_take(quirk: str, tmp_path: Path) -> None:
    model = build()
    model.config.save_pretrained(tmp_path)
    torch.save(QUIRKS[quirk](essential(model.state_dict())), tmp_path / "pytorch_model.bin")
    read = XLMRobertaForMaskedLM.from_pretrained(tmp_path).eval()
    for ids in padded_batches(45):
        assert_same(outputs(read, ids), outputs(model, ids), ids)


@pytest.mark.parametrize(
    ("file", "config"),
    [
        ("hf_xlmr_mlm_transformers-2.3.0_205style_legacy.bin", "hf_xlmr_mlm_transformers-2.3.0.config.json"),
        ("hf_xlmr_mlm_transformers-4.30.2.bin", None),
        ("hf_xlmr_mlm_transformers-5.23.safetensors", None),
    ],
)
def test_a_file_that_an_older_transformers_wrote(file: str, config: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    suffix = Path(file).suffix
    shutil.copy(GOLDEN / file, folder / ("pytorch_model.bin" if suffix == ".bin" else "model.safetensors"))
    if config:
        shutil.copy(GOLDEN / config, folder / "config.json")
    else:
        XLMRobertaConfig(**SMALL).save_pretrained(folder)
    model = XLMRobertaForMaskedLM.from_pretrained(folder).eval()
    theirs = in_fairseq(folder, tmp_path / "fairseq", model.config.vocab_size)
    for ids in padded_batches(model.config.vocab_size):
        assert_same(xlmr_side.outputs(theirs, ids), outputs(model, ids), ids)


@pytest.mark.parametrize("pooler", [False, True])
def test_a_bare_model_has_its_states_in_fairseq_and_a_head_that_is_told(pooler: bool, tmp_path: Path) -> None:
    """XLMRobertaModel's own file: no `roberta.` in front. fairseq's model always has a masked-LM head."""
    torch.manual_seed(0)
    whole = build()
    bare = XLMRobertaModel(AutoConfig.for_model("xlm-roberta", **SMALL), add_pooling_layer=pooler)
    bare.load_state_dict(whole.roberta.state_dict(), strict=not pooler)
    bare.save_pretrained(tmp_path / "hf")
    report = ckptconv.convert(tmp_path / "hf", tmp_path / "fairseq", ckptconv.Options(to="xlmr/fairseq"))
    made = {told.key for told in report.plan.created}
    assert "encoder.lm_head.dense.weight" in made
    lost = {told.key for told in report.plan.dropped if told.reason.startswith("LOST")}
    assert lost == ({"pooler.dense.weight", "pooler.dense.bias"} if pooler else set())
    theirs = xlmr_side.load(tmp_path / "fairseq" / "model.pt", xlmr_side.write_dictionary(tmp_path / "data", 45))
    for ids in padded_batches(45):
        assert_same(states(xlmr_side.outputs(theirs, ids)), states(outputs(whole, ids)), ids)
