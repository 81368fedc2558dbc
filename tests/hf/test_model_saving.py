"""Which tensors are one, what a saved directory holds, what a file may leave out, and how embeddings grow."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

import ckptconv.hf
from ckptconv.hf import DeltaLMConfig, DeltaLMForConditionalGeneration, DeltaLMModel

Model = DeltaLMForConditionalGeneration
pytestmark = pytest.mark.usefixtures("no_warnings")
ENCODER, TARGET, HEAD = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"
SHARED = "model.shared.weight"
TIES = {
    f"share {share}, tie {tie}": {"share_encoder_decoder_embeddings": share, "tie_word_embeddings": tie}
    for share, tie in itertools.product((True, False), repeat=2)
}
KEPT = {  # names in the file, of the four
    (True, True): {SHARED},
    (True, False): {SHARED, HEAD},
    (False, True): {SHARED, TARGET},
    (False, False): {SHARED, TARGET, HEAD},
}


@pytest.fixture(params=list(TIES.values()), ids=list(TIES))
def ties(request: pytest.FixtureRequest) -> dict[str, bool]:
    return request.param  # type: ignore[no-any-return]


def one_tensor(model: Model) -> set[tuple[str, str]]:
    """The pairs of the four embeddings that are one tensor."""
    found = {name: model.get_parameter(name) for name in (SHARED, ENCODER, TARGET, HEAD)}
    return {(a, b) for a, b in itertools.combinations(found, 2) if found[a] is found[b]}


def expected_pairs(share: bool, tie: bool) -> set[tuple[str, str]]:
    pairs = {(SHARED, ENCODER)}
    pairs |= {(SHARED, TARGET), (ENCODER, TARGET)} if share else set()
    pairs |= {(TARGET, HEAD)} if tie else set()
    return pairs | ({(SHARED, HEAD), (ENCODER, HEAD)} if share and tie else set())


def same_weights(ours: Model, expected: Model) -> None:
    left, right = ours.state_dict(), expected.state_dict()
    assert left.keys() == right.keys()
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


def loaded(folder: Path, kind: Any = Model, **options: Any) -> Any:
    model, info = kind.from_pretrained(folder, output_loading_info=True, **options)
    assert {name: list(keys) for name, keys in info.items() if keys} == {}
    return model


def names_in(folder: Path) -> set[str]:
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            names |= set(opened.keys())
    return names


@pytest.mark.parametrize("shards", ["one file", "shards"])
def test_round_trip_keeps_every_tensor_and_every_tie(
    tiny: Callable[..., Model], ties: dict[str, bool], tmp_path: Path, shards: str
) -> None:
    model = tiny(**ties)
    assert one_tensor(model) == expected_pairs(*ties.values())
    model.save_pretrained(tmp_path, max_shard_size="3KB" if shards == "shards" else "5GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shards == "shards")
    assert names_in(tmp_path) & {SHARED, ENCODER, TARGET, HEAD} == KEPT[tuple(ties.values())]  # type: ignore[index]
    back = loaded(tmp_path)
    same_weights(back, model)
    assert one_tensor(back) == expected_pairs(*ties.values())
    assert {key: getattr(back.config, key) for key in ties} == ties


@pytest.mark.parametrize("container", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_with_every_name_loads(
    tiny: Callable[..., Model], ties: dict[str, bool], tmp_path: Path, container: str
) -> None:
    model = tiny(**ties)
    model.config.save_pretrained(tmp_path)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["final_logits_bias"] = torch.zeros(1, 30)  # as in the public port's files
    assert state.keys() >= {SHARED, ENCODER, TARGET, HEAD}
    if container.endswith("bin"):
        torch.save(state, tmp_path / container)
    else:
        save_file(state, tmp_path / container, {"format": "pt"})
    back = loaded(tmp_path)
    same_weights(back, model)
    assert one_tensor(back) == expected_pairs(*ties.values())


def test_the_model_without_head_opens_the_same_directory(
    tiny: Callable[..., Model], ties: dict[str, bool], tmp_path: Path
) -> None:
    model = tiny(**ties)
    model.save_pretrained(tmp_path / "whole")
    base = loaded(tmp_path / "whole", DeltaLMModel)
    same_weights(base, model.model)
    base.save_pretrained(tmp_path / "base")
    same_weights(loaded(tmp_path / "base", DeltaLMModel), model.model)
    if ties["tie_word_embeddings"]:
        same_weights(loaded(tmp_path / "base"), model)


def test_auto_classes_know_deltalm(tiny: Callable[..., Model], tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is DeltaLMConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is DeltaLMModel
    assert type(AutoModelForSeq2SeqLM.from_pretrained(tmp_path)) is Model
    assert type(AutoModelForSeq2SeqLM.from_config(model.config)) is Model


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_survives(tiny: Callable[..., Model], tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny().to(dtype)
    model.save_pretrained(tmp_path)
    back = loaded(tmp_path, dtype="auto")
    assert back.dtype == dtype
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype)[6:]
    same_weights(back, model)


def test_config_survives(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "vocab_size": 31, "decoder_vocab_size": 33, "d_model": 24, "encoder_layers": 3, "decoder_layers": 4,
        "encoder_ffn_dim": 5, "decoder_ffn_dim": 6, "encoder_attention_heads": 8, "decoder_attention_heads": 6,
        "max_position_embeddings": 9, "decoder_max_position_embeddings": 10, "dropout": 0.2, "attention_dropout": 0.3,
        "activation_dropout": 0.4, "activation_function": "relu", "scale_embedding": True,
        "layernorm_embedding": False, "encoder_normalize_before": True, "decoder_normalize_before": True,
        "share_encoder_decoder_embeddings": False, "tie_word_embeddings": False, "encoder_layerdrop": 0.5,
        "decoder_layerdrop": 0.6, "init_std": 0.7, "use_cache": False, "pad_token_id": 4, "bos_token_id": 5,
        "eos_token_id": 6, "decoder_start_token_id": 7,
    }  # fmt: skip
    DeltaLMConfig(**fields).save_pretrained(tmp_path)
    back = DeltaLMConfig.from_pretrained(tmp_path)
    assert {name: getattr(back, name) for name in fields} == fields
    default = DeltaLMConfig()
    assert all(getattr(default, name) != value for name, value in fields.items())
    assert back.model_type == "deltalm"
    assert back.is_encoder_decoder


REMOTE = """
import sys
sys.modules["ckptconv"] = None
import json, logging, warnings
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM
folder, again = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
ids = torch.tensor([[5, 9, 11, 28, 2]])
found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_length=9, num_beams=2).tolist()
base = AutoModel.from_pretrained(folder, trust_remote_code=True)
model.save_pretrained(again)
AutoModelForSeq2SeqLM.from_pretrained(again, trust_remote_code=True)
print(json.dumps([config.model_type, type(model).__name__, type(base).__name__, found]))
"""


def test_a_directory_loads_where_ckptconv_is_not_installed(tiny: Callable[..., Model], tmp_path: Path) -> None:
    model, folder = tiny(), tmp_path / "exported"
    model.save_pretrained(folder)
    # What convert writes: the source files as they are, and an auto_map for all three Auto classes.
    for source in Path(ckptconv.hf.__file__).parent.glob("*_deltalm.py"):
        shutil.copy(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "configuration_deltalm.DeltaLMConfig",
        "AutoModel": "modeling_deltalm.DeltaLMModel",
        "AutoModelForSeq2SeqLM": "modeling_deltalm.DeltaLMForConditionalGeneration",
    }
    (folder / "config.json").write_text(json.dumps(config))
    run = subprocess.run(
        [sys.executable, "-c", REMOTE, folder, tmp_path / "again"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    complaints = [line for line in run.stderr.splitlines() if "warn" in line.lower() or "UNEXPECTED" in line]
    assert complaints == []
    ids = torch.tensor([[5, 9, 11, 28, 2]])
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_length=9, num_beams=2).tolist()
    assert json.loads(run.stdout) == ["deltalm", "DeltaLMForConditionalGeneration", "DeltaLMModel", found]


def test_save_pretrained_writes_the_source_too(tiny: Callable[..., Model], tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    here = Path(ckptconv.hf.__file__).parent
    for name in ("configuration_deltalm.py", "layers_deltalm.py", "modeling_deltalm.py"):
        assert (tmp_path / name).read_bytes() == (here / name).read_bytes()
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map["AutoConfig"] == "configuration_deltalm.DeltaLMConfig"
    assert auto_map["AutoModelForSeq2SeqLM"] == "modeling_deltalm.DeltaLMForConditionalGeneration"


def forward(model: Model, last_source: int, last_target: int) -> Tensor:
    with torch.no_grad():
        return model(  # type: ignore[no-any-return]
            input_ids=torch.tensor([[5, last_source, 2]]), decoder_input_ids=torch.tensor([[2, last_target]])
        ).logits


@pytest.mark.parametrize("rows", [34, 30, 20], ids=["grow", "keep", "shrink"])
def test_resize_changes_both_sides_of_one_dictionary(
    tiny: Callable[..., Model], ties: dict[str, bool], tmp_path: Path, rows: int
) -> None:
    model = tiny(**ties)
    before = {name: model.get_parameter(name).detach().clone() for name in (SHARED, TARGET, HEAD)}
    logits = forward(model, 9, 6)
    model.resize_token_embeddings(rows, mean_resizing=False)
    kept = min(rows, 30)
    for name, old in before.items():
        assert model.get_parameter(name).shape == (rows, 16)
        assert torch.equal(model.get_parameter(name)[:kept], old[:kept])
    torch.testing.assert_close(forward(model, 9, 6)[..., :kept], logits[..., :kept])
    assert model.config.vocab_size == rows
    assert model.config.decoder_vocab_size is None
    assert one_tensor(model) == expected_pairs(*ties.values())
    assert model.lm_head.out_features == rows
    assert model.model.encoder.embed_tokens.num_embeddings == model.model.decoder.embed_tokens.num_embeddings == rows
    assert forward(model, rows - 1, rows - 1).shape[-1] == rows
    model.save_pretrained(tmp_path)
    same_weights(loaded(tmp_path), model)


@pytest.mark.parametrize("tie", [True, False])
def test_each_of_two_dictionaries_is_resized_alone(tiny: Callable[..., Model], tmp_path: Path, tie: bool) -> None:
    model = tiny(decoder_vocab_size=25, share_encoder_decoder_embeddings=False, tie_word_embeddings=tie)
    logits = forward(model, 9, 6)
    model.resize_token_embeddings(33, mean_resizing=False)
    assert (model.config.vocab_size, model.config.decoder_vocab_size) == (33, 25)
    torch.testing.assert_close(forward(model, 9, 6), logits)
    model.resize_decoder_token_embeddings(40, mean_resizing=False)
    assert (model.config.vocab_size, model.config.decoder_vocab_size) == (33, 40)
    torch.testing.assert_close(forward(model, 32, 39).shape, torch.Size([1, 2, 40]))
    torch.testing.assert_close(forward(model, 9, 6)[..., :25], logits)
    assert one_tensor(model) == expected_pairs(False, tie)
    model.save_pretrained(tmp_path)
    back = loaded(tmp_path)
    same_weights(back, model)
    assert back.model.decoder.embed_tokens.num_embeddings == back.lm_head.out_features == 40


def test_one_dictionary_has_no_decoder_side_to_resize(tiny: Callable[..., Model]) -> None:
    with pytest.raises(ValueError, match="use resize_token_embeddings"):
        tiny().resize_decoder_token_embeddings(31)
