"""--pretrained-deltalm-checkpoint: equal to what unilm's loader did, and clear where the file doesn't fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fairseq")

import torch

from tests import fairseq_side

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = ROOT / "examples" / "deltalm-numbers"
GIVEN = str(NUMBERS / "pretrained.pt")
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")


def build(vocab: int = 163, positions: int = 62, **flags: Any) -> Any:
    flags = {"share_all_embeddings": True, "pretrained_deltalm_checkpoint": GIVEN, **flags}
    return fairseq_side.build(vocab, max_source_positions=positions, max_target_positions=positions, **flags)


def weights() -> dict[str, torch.Tensor]:
    return dict(torch.load(GIVEN, weights_only=True)["weights"])


def test_equals_what_unilm_made_of_it() -> None:
    golden = torch.load(NUMBERS / "pretrained_in_fairseq.pt", weights_only=True)["model"]
    ours = build().state_dict()
    assert list(ours) == list(golden)
    for key, value in golden.items():
        assert torch.equal(ours[key], value), key


@pytest.mark.parametrize("given", [{"pretrained_deltalm_checkpoint": ""}, {"pretrained_deltalm_checkpoint": None}])
def test_no_file_means_a_random_start(given: dict[str, Any]) -> None:
    random = fairseq_side.build(163, share_all_embeddings=True)
    ours = fairseq_side.build(163, share_all_embeddings=True, **given)
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in random.state_dict().items())


def test_rows_beyond_the_file_keep_their_start_and_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        larger = build(175, 70).state_dict()
    start = build(175, 70, pretrained_deltalm_checkpoint="").state_dict()
    file = weights()
    for key, stored, rows in (
        ("decoder.embed_tokens.weight", "tgt_embedding.embed_tokens.weight", 170),
        ("encoder.embed_positions.weight", "src_embedding.embed_positions.weight", 66),
    ):
        assert torch.equal(larger[key][:rows], file[stored])
        assert torch.equal(larger[key][rows:], start[key][rows:])
        assert f"{key}: rows {rows} to {len(larger[key]) - 1} of {len(larger[key])}" in caplog.text


@pytest.mark.parametrize("sharing", [{}, {"share_decoder_input_output_embed": True}])
def test_output_projection_is_not_in_the_file(sharing: dict[str, Any]) -> None:
    flags = {"share_all_embeddings": False, **sharing}
    ours, start = build(**flags).state_dict(), build(**flags, pretrained_deltalm_checkpoint="").state_dict()
    expected = ours["decoder.embed_tokens.weight"] if sharing else start["decoder.output_projection.weight"]
    assert torch.equal(ours["decoder.output_projection.weight"], expected)


def test_shared_embeddings_that_differ_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changed = weights()
    changed["src_embedding.embed_tokens.weight"] = changed["src_embedding.embed_tokens.weight"] + 1
    torch.save({"weights": changed}, tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING):
        ours = build(pretrained_deltalm_checkpoint=str(tmp_path / "w.pt")).state_dict()
    assert "source and target embeddings differ" in caplog.text
    for key in TIED:
        assert torch.equal(ours[key], changed["tgt_embedding.embed_tokens.weight"][:163])


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    broken = weights()
    for key in ("decoder.layers.0.ffn_1.fc1.weight", "src_embedding.emb_layer_norm.bias"):
        del broken[key]
    broken["decoder.lm_head.weight"] = torch.zeros(1)
    broken["encoder.layers.4.self_attn.q_proj.bias"] = torch.zeros(64)
    broken["encoder.layers.0.ffn.fc2.weight"] = torch.zeros(64, 99)
    broken["tgt_embedding.embed_tokens.weight"] = torch.zeros(170, 32)
    torch.save({"weights": broken}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="does not fit this model") as caught:
        build(pretrained_deltalm_checkpoint=str(tmp_path / "w.pt"))
    for said in (
        "2 missing from the file: src_embedding.emb_layer_norm.bias, decoder.layers.0.ffn_1.fc1.weight;",
        "2 in the file, but not in this model: decoder.lm_head.weight, encoder.layers.4.self_attn.q_proj.bias;",
        "2 of another shape: encoder.layers.0.ffn.fc2.weight is 64x99, encoder.layers.0.fc2.weight is 64x128, "
        "tgt_embedding.embed_tokens.weight is 170x32, decoder.embed_tokens.weight is 163x64",
    ):
        assert said in str(caught.value)


BAD_FILES = {
    "fine-tuned": ({"model": {}}, "holds a fine-tuned model"),
    "another": ({"state": {}}, "has no entry 'weights'"),
    "bare": (torch.zeros(2), "has no entry 'weights'"),
    "not tensors": ({"weights": {"a": 1}}, "has no entry 'weights' that maps names to tensors"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_another_file_is_a_clear_error(kind: str, tmp_path: Path) -> None:
    content, said = BAD_FILES[kind]
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=said):
        build(pretrained_deltalm_checkpoint=str(tmp_path / "w.pt"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", (NUMBERS / "pretrained.pt").read_bytes()[:5000]])
def test_an_unreadable_file_is_a_clear_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ValueError, match="not a checkpoint of tensors that torch can read safely"):
        build(pretrained_deltalm_checkpoint=str(tmp_path / "w.pt"))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weights": {"a": Evil()}}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="read safely"):
        build(pretrained_deltalm_checkpoint=str(tmp_path / "w.pt"))
    assert not (tmp_path / "ran").exists()


def test_no_such_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such file; give ''"):
        build(pretrained_deltalm_checkpoint=str(tmp_path / "gone.pt"))
