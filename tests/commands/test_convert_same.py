"""`--to same`: only the container changes, of any checkpoint, known or not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.commands.conftest import FINETUNED, GOLDEN, run
from tests.commands.test_convert_tensors import contents


def odd() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "transposed": base.T,
        "offset": base[1:, 2:],
        "whole": base,
        "again": base,
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "expanded": torch.ones(1).expand(5),
        "half": torch.randn(3).half(),
        "flag": torch.tensor([True, False]),
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("entry", [None, "model"])
def test_unknown_checkpoints_go_through_every_container(legacy: bool, entry: str | None, tmp_path: Path):
    tensors = odd()
    saved = {entry: tensors, "step": 3} if entry else tensors
    torch.save(saved, tmp_path / "in.pt", _use_new_zipfile_serialization=not legacy)
    report = run(tmp_path / "in.pt", tmp_path / "a.safetensors", "same")
    assert report.plan.dropped == ()
    assert any("no place for step" in note for note in report.notes) == bool(entry)
    stored = load_file(tmp_path / "a.safetensors")
    assert stored.keys() == tensors.keys() - {"again"}
    run(tmp_path / "a.safetensors", tmp_path / "b.pt", "same")
    made = torch.load(tmp_path / "b.pt", weights_only=True)
    assert made["again"].data_ptr() == made["whole"].data_ptr()
    run(tmp_path / "in.pt", tmp_path / "c", "same", max_shard_size=40)
    assert contents(tmp_path / "c") == contents(tmp_path / "a.safetensors")
    for key, value in tensors.items():
        assert made[key].dtype == value.dtype
        assert torch.equal(made[key], value), key


def test_the_entry_is_kept_between_torch_files(tmp_path: Path):
    torch.save({"model": odd()}, tmp_path / "in.pt")
    run(tmp_path / "in.pt", tmp_path / "out.pt", "same", dtype="bf16")
    made = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(made) == ["model"]
    assert made["model"]["half"].dtype == torch.bfloat16
    assert made["model"]["scalar"].dtype == torch.int64


def test_a_directory_keeps_its_small_files(hf_dir: Path, tmp_path: Path):
    run(hf_dir, tmp_path / "sharded", "same", max_shard_size=200_000)
    assert contents(tmp_path / "sharded") == contents(hf_dir)
    names = {path.name for path in (tmp_path / "sharded").iterdir()}
    assert {path.name for path in hf_dir.iterdir()} - names == {"model.safetensors"}
    assert (tmp_path / "sharded" / "config.json").read_bytes() == (hf_dir / "config.json").read_bytes()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.pt")) + sorted(GOLDEN.glob("*.bin")), ids=lambda path: path.name)
def test_every_real_file_survives_safetensors(path: Path, tmp_path: Path):
    run(path, tmp_path / "out.safetensors", "same")
    run(tmp_path / "out.safetensors", tmp_path / "back.pt", "same")
    assert contents(tmp_path / "back.pt") == contents(tmp_path / "out.safetensors")


def test_args_and_cfg_stay_beside_the_model_and_still_say_what_no_tensor_shows(tmp_path: Path):
    report = run(FINETUNED / "checkpoint_best.pt", tmp_path / "out.pt", "same", dtype="bf16")
    made = torch.load(tmp_path / "out.pt", weights_only=True)
    assert made["cfg"]["model"]["encoder_attention_heads"] == 4
    assert {told.key for told in report.plan.dropped} == {"extra_state", "last_optimizer_state"}
    again = run(tmp_path / "out.pt", tmp_path / "hf", "hf")
    heads = next(value for value in again.config if value.path == "encoder_attention_heads")
    assert (heads.value, heads.origin) == (4, "source config")


RECEIPT = "conversion.json"


def test_a_single_file_does_not_take_its_neighbours_along(tmp_path: Path):
    (tmp_path / "in").mkdir()
    torch.save(odd(), tmp_path / "in" / "model.pt")
    (tmp_path / "in" / "secret.json").write_text("{}")
    assert run(tmp_path / "in" / "model.pt", tmp_path / "out", "same").files == ("model.safetensors", RECEIPT)
    assert set(run(tmp_path / "in", tmp_path / "out2", "same").files) == {"model.safetensors", "secret.json", RECEIPT}
