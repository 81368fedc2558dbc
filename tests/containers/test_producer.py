"""What wrote a file: on files of every generation of torch and fairseq that is at hand, and of today's libraries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from ckptconv.containers.checkpoint import Checkpoint
from ckptconv.containers.open import open_checkpoint
from ckptconv.containers.producer import producers
from ckptconv.containers.settings import config_beside, settings
from ckptconv.errors import Damaged

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
OLD_ZIP, NEW_ZIP, LEGACY = ("torch", "1.6 to 2.0"), ("torch", "2.7 or newer"), ("torch", "1.5 or older")
# What wrote them: /tests/golden's names, and its key lists' notes.
WRITTEN = {
    "fairseq-0.8.0_roberta_mlm_fused.pt": [LEGACY, ("fairseq", "0.9 or older")],
    "fairseq-0.9.0_roberta_mlm.pt": [LEGACY, ("fairseq", "0.9 or older")],
    "fairseq-0.10.2_roberta_mlm.pt": [OLD_ZIP, ("fairseq", "0.10")],
    "fairseq-fc2840de_2021-03_DictConfig_mlm.pt": [OLD_ZIP, ("fairseq", "October 2020 to March 2021")],
    "fairseq-e3fafbdf_2021-09_mlm.pt": [OLD_ZIP, ("fairseq", "since March 2021")],
    "fairseq-0.12.2_roberta_mlm_BTzeros.pt": [OLD_ZIP, ("fairseq", "since March 2021")],
    "deltalm_pretrained_weights_tiny.pt": [OLD_ZIP],
    "xlm_original.tiny.pth": [LEGACY, ("facebookresearch/XLM", "")],
    "hf_xlmr_mlm_transformers-2.3.0_205style_legacy.bin": [LEGACY],
    "hf_xlmr_mlm_transformers-4.30.2.bin": [NEW_ZIP],
    "hf_xlmr_mlm_transformers-5.23.safetensors": [("torch", "")],
}


def told(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    return [(each.name, each.version) for each in producers(checkpoint, config_beside(checkpoint))]


@pytest.mark.parametrize("name", WRITTEN)
def test_files_of_every_generation(name: str):
    assert told(open_checkpoint(GOLDEN / name)) == WRITTEN[name]


def test_this_torch(tmp_path: Path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert told(open_checkpoint(tmp_path / "x.pt")) == [NEW_ZIP]
    assert told(open_checkpoint(tmp_path / "old.pt")) == [LEGACY]


def test_a_sharded_model_of_this_transformers(tmp_path: Path):
    config = transformers.XLMRobertaConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    transformers.XLMRobertaModel(config).save_pretrained(tmp_path, max_shard_size="5kB")
    opened = open_checkpoint(tmp_path)
    assert opened.container == "sharded safetensors"
    assert told(opened) == [("torch", ""), ("transformers", transformers.__version__)]


def test_sharded_torch_files_tell_what_their_shards_do(tmp_path: Path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.ones(2)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    weight_map = {key: f"pytorch_model-0000{part}-of-00002.bin" for key, part in (("a", 1), ("b", 2))}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert told(open_checkpoint(tmp_path)) == [NEW_ZIP]


def test_numpy_writes_no_format(tmp_path: Path):
    safetensors.numpy.save_file({"a": np.ones(2, "f4")}, tmp_path / "x.safetensors")
    assert told(open_checkpoint(tmp_path / "x.safetensors")) == []


def test_versions_written_out_and_those_that_are_not(tmp_path: Path):
    entries = {"pytorch-lightning_version": "2.1.0", "epoch": 3, "version": "7", "state_dict": {"a": torch.ones(2)}}
    torch.save(entries, tmp_path / "x.ckpt")
    assert told(open_checkpoint(tmp_path / "x.ckpt")) == [NEW_ZIP, ("pytorch-lightning", "2.1.0")]


def test_a_huge_config_is_not_read(tmp_path: Path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    with (tmp_path / "config.json").open("wb") as file:
        file.write(b"{}")
        file.truncate(1 << 40)
    with pytest.raises(Damaged, match="more than 16,000,000 bytes"):
        config_beside(open_checkpoint(tmp_path / "x.pt"))


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": ' + "1" * 5000 + "}", '{"a":' * 100_000, "\ud800"])
def test_a_config_that_cannot_be_read_says_so(text: str, tmp_path: Path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(Damaged, match=r"config\.json can't be read as JSON"):
        config_beside(open_checkpoint(tmp_path / "x.pt"))


def test_every_field_of_a_real_config_once():
    """Against the pickle itself, read by torch."""
    path = GOLDEN / "fairseq-0.12.2_roberta_mlm_BTzeros.pt"
    cfg = torch.load(path, weights_only=False)["cfg"]
    found = {each.field: each.value for each in settings(open_checkpoint(path), {})}
    assert found["model.encoder_embed_dim"] == cfg["model"].encoder_embed_dim
    assert found["optimization.lr"] == cfg["optimization"]["lr"]
    sections = {name: value for name, value in cfg.items() if isinstance(value, dict)}
    assert {f"{name}.{field}" for name, value in sections.items() for field in value} <= set(found)
    assert len(found) == len(list(settings(open_checkpoint(path), {})))


def test_nested_and_endless_values(tmp_path: Path):
    deep: dict = {}
    for _ in range(150):
        deep = {"a": deep}
    config = {"x": [{"y": 1}, [2, 3]], "none": None, "empty": {}, "list": [], "nan": float("nan"), "deep": deep}
    torch.save({"model": {"a": torch.ones(2)}, "hparams": config, "args": None}, tmp_path / "x.pt")
    found = {each.field: each.value for each in settings(open_checkpoint(tmp_path / "x.pt"), {})}
    assert {name: value for name, value in found.items() if not name.startswith("deep")} == {
        "x.0.y": 1,
        "x.1": [2, 3],
        "none": None,
        "empty": {},
        "list": [],
        "nan": "nan",
    }
    ((name, value),) = [(name, value) for name, value in found.items() if name.startswith("deep")]
    assert (name.count("."), value) == (100, "<…>")
