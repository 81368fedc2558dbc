"""The plugin against what unilm's own DeltaLM did: key lists, activations, translations (tests/golden, examples)."""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fairseq")

import sentencepiece
import torch
from safetensors.torch import load_file

from tests import fairseq_side

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
NUMBERS = ROOT / "examples" / "deltalm-numbers"

SAMPLE_DIMS = {
    **{
        f"{side}_{name}": size
        for side in ("encoder", "decoder")
        for name, size in (("embed_dim", 32), ("ffn_embed_dim", 64))
    },
}
KEY_LISTS = {
    "base": ("deltalm_base", 250001, 512, {}),
    "large": ("deltalm_large", 250001, 512, {}),
    "tiny": ("deltalm_tiny", 44, 32, SAMPLE_DIMS),
}
SHARING: list[dict[str, Any]] = [{"share_all_embeddings": True}, {"share_decoder_input_output_embed": True}, {}]


@pytest.mark.parametrize("sharing", SHARING, ids=["all", "decoder", "none"])
@pytest.mark.parametrize("size", KEY_LISTS)
def test_keys_shapes_and_order_are_unilms(size: str, sharing: dict[str, Any]) -> None:
    arch, vocab, positions, dims = KEY_LISTS[size]
    with torch.device("meta"):
        model = fairseq_side.build(
            vocab, arch, max_source_positions=positions, max_target_positions=positions, **dims, **sharing
        )
    ours = [(key, "x".join(map(str, value.shape))) for key, value in model.state_dict().items()]
    listed = (GOLDEN / "keys" / f"fairseq_deltalm_finetuned.{size}.tsv").read_text().splitlines()[1:]
    assert ours == [tuple(line.split("\t")[:2]) for line in listed]


@pytest.mark.parametrize("sharing", SHARING, ids=["all", "decoder", "none"])
def test_share_flags_tie_what_they_say(sharing: dict[str, Any]) -> None:
    model = fairseq_side.build(44, **sharing)
    source, target, out = (
        module.weight
        for module in (model.encoder.embed_tokens, model.decoder.embed_tokens, model.decoder.output_projection)
    )
    assert (source is target) == ("share_all_embeddings" in sharing)
    assert (target is out) == bool(sharing)


def test_pre_norm_adds_final_norms_and_changes_the_output() -> None:
    torch.manual_seed(0)
    src, prev = torch.randint(4, 44, (2, 5)), torch.randint(4, 44, (2, 3))
    post = fairseq_side.build(44)
    pre = fairseq_side.build(44, encoder_normalize_before=True, decoder_normalize_before=True)
    added = set(pre.state_dict()) - set(post.state_dict())
    assert added == {f"{side}.layer_norm.{param}" for side in ("encoder", "decoder") for param in ("weight", "bias")}
    layer = pre.decoder.layers[0]
    x = torch.randn(3, 2, 64)
    got, _, _ = layer(x)
    step = x + layer.self_attn(*[layer.self_attn_layer_norm(x)] * 3)[0]
    step = step + layer.fc4(torch.nn.functional.gelu(layer.fc3(layer.ffn_layer_norm(step))))
    step = step + layer.fc2(torch.nn.functional.gelu(layer.fc1(layer.final_layer_norm(step))))
    assert torch.allclose(got, step, atol=1e-6)
    assert not torch.allclose(*(fairseq_side.forward(m, src, prev)["logits"] for m in (pre, post)), atol=1e-2)


def test_options_that_are_given_win_over_the_arch() -> None:
    model = fairseq_side.build(44, "deltalm_large", encoder_layers=1, decoder_layers=1, layernorm_embedding=True)
    assert (len(model.encoder.layers), len(model.decoder.layers), model.encoder.embed_tokens.embedding_dim) == (
        1,
        1,
        1024,
    )
    assert model.encoder.layernorm_embedding is not None


def test_cross_self_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="--cross-self-attention is not supported"):
        fairseq_side.build(44, cross_self_attention=True)


@pytest.fixture(scope="module")
def numbers() -> Any:
    models, _, task = fairseq_side.load(NUMBERS / "finetuned" / "checkpoint_best.pt")
    return models[0], task


def test_states_and_logits_equal_the_golden_ones(numbers: Any) -> None:
    golden = load_file(NUMBERS / "forward.safetensors")
    ours = fairseq_side.forward(numbers[0], golden["src_tokens"], golden["prev_output_tokens"])
    assert set(ours) == set(golden) - {"src_tokens", "src_lengths", "prev_output_tokens", "target"}
    for name, value in ours.items():
        assert (value - golden[name]).abs().max() <= 1e-5, name


@pytest.mark.parametrize(("beam", "file"), [(1, "generate_greedy.tsv"), (5, "generate_beam5.tsv")])
def test_translations_equal_the_golden_ones(numbers: Any, beam: int, file: str) -> None:
    model, task = numbers
    spm = sentencepiece.SentencePieceProcessor(model_file=str(NUMBERS / "finetuned" / "spm.model"))
    with open(NUMBERS / file, encoding="utf-8", newline="") as lines:
        golden = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    pieces = [" ".join(spm.encode(row["source"], out_type=str)) for row in golden]
    sources = [task.source_dictionary.encode_line(line, add_if_not_exist=False).tolist() for line in pieces]
    best = [found[0] for found in fairseq_side.generate(model, sources, beam)]
    texts = [task.target_dictionary.string(torch.tensor(one.tokens), "sentencepiece") for one in best]
    assert texts == [row["hypothesis"] for row in golden]
    for one, row in zip(best, golden, strict=True):
        assert abs(one.score - float(row["score_log2"])) <= 1e-4
        assert one.token_scores == pytest.approx([float(s) for s in row["token_scores_log2"].split()], abs=1e-4)
    assert len(golden) == 100


def test_incremental_decoding_equals_the_whole(numbers: Any) -> None:
    model, _ = numbers
    golden = load_file(NUMBERS / "forward.safetensors")
    whole = fairseq_side.forward(model, golden["src_tokens"], golden["prev_output_tokens"])["logits"]
    with torch.no_grad():
        encoded = model.encoder(golden["src_tokens"], src_lengths=golden["src_lengths"])
        state: dict[str, Any] = {}
        prev = golden["prev_output_tokens"][:1]
        encoded = model.encoder.reorder_encoder_out(encoded, torch.tensor([0]))
        steps = [model.decoder(prev[:, : i + 1], encoder_out=encoded, incremental_state=state)[0] for i in range(6)]
    assert torch.allclose(torch.cat(steps, 1), whole[:1, :6], atol=1e-5)


STALE = (
    "in_proj_weight",
    "in_proj_bias",
    "out_proj_weight",
    "out_proj_bias",
    "fc1_weight",
    "fc1_bias",
    "fc2_weight",
    "fc2_bias",
)


@pytest.mark.parametrize("name", ["share_all", "untied", "v0122"])
def test_other_samples_give_their_reference_logits(name: str) -> None:
    reference = torch.load(GOLDEN / f"ref_logits_dlm_{name}.pt", weights_only=True)
    weights = {key: value for key, value in reference["sd"].items() if key.split(".")[-1] not in STALE}
    assert len(reference["sd"]) - len(weights) == (32 if name == "v0122" else 0)
    sharing = {} if name == "untied" else {"share_all_embeddings": True}
    model = fairseq_side.build(44, **SAMPLE_DIMS, **sharing)
    model.load_state_dict(weights, strict=True)
    sources = {
        "nopad": [[5, 9, 11, 30, 2], [7, 8, 20, 21, 2]],
        "rpad": [[5, 9, 11, 30, 2], [7, 8, 2, 1, 1]],
        "lpad": [[5, 9, 11, 30, 2], [1, 1, 7, 8, 2]],
    }
    prev = torch.tensor([[2, 6, 7, 8], [2, 10, 11, 12]])
    for padding, src in sources.items():
        logits = fairseq_side.forward(model, torch.tensor(src), prev)["logits"]
        assert (logits - reference["r"][padding]).abs().max() <= 1e-5, padding


@pytest.mark.parametrize("name", ["share_all", "untied"])
def test_checkpoints_that_unilm_wrote_load(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.pt").symlink_to(GOLDEN / f"deltalm_finetuned_{name}.pt")
    for lang in ("de", "en"):
        fairseq_side.dictionary(44).save(str(tmp_path / f"dict.{lang}.txt"))
    (model,), _, _ = fairseq_side.load(tmp_path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        stored = torch.load(GOLDEN / f"deltalm_finetuned_{name}.pt", weights_only=True)["model"]
    loaded = model.state_dict()
    assert list(loaded) == list(stored)
    assert all(torch.equal(loaded[key], stored[key]) for key in stored if not key.endswith("version"))


def run(module: str, *args: object) -> str:
    code = f"import fairseq_cli.{module} as m; m.cli_main()"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    env.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, env=env, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_fairseqs_commands_preprocess_train_and_generate(tmp_path: Path) -> None:
    """The plugin's folder alone, copied away from ckptconv, in a process of its own."""
    plugin = tmp_path / "plugin_alone"
    plugin.mkdir()
    for file in fairseq_side.PLUGIN.glob("*.py"):
        (plugin / file.name).write_bytes(file.read_bytes())
    spm = sentencepiece.SentencePieceProcessor(model_file=str(NUMBERS / "finetuned" / "spm.model"))
    for lang in ("de", "en"):
        lines = (NUMBERS / f"test.{lang}").read_text(encoding="utf-8").splitlines()[:32]
        encoded = "".join(" ".join(spm.encode(line, out_type=str)) + "\n" for line in lines)
        (tmp_path / f"train.{lang}").write_text(encoded, encoding="utf-8")
    text, data, save = tmp_path / "train", tmp_path / "bin", tmp_path / "save"
    run(
        *("preprocess", "-s", "de", "-t", "en", "--trainpref", text, "--validpref", text, "--testpref", text),
        *("--srcdict", NUMBERS / "finetuned" / "dict.de.txt", "--joined-dictionary", "--destdir", data),
    )  # fmt: skip
    common = ("--user-dir", plugin, "--cpu", "--required-batch-size-multiple", 1)
    log = run(
        *("train", data, *common, "--arch", "deltalm_tiny", "--share-all-embeddings", "--no-epoch-checkpoints"),
        *("--pretrained-deltalm-checkpoint", NUMBERS / "pretrained.pt", "--max-tokens", 300, "--max-update", 3),
        *("--max-source-positions", 62, "--max-target-positions", 62, "--optimizer", "adam", "--lr", 0.001),
        *("--save-dir", save, "--num-workers", 0, "--no-progress-bar", "--log-interval", 1),
    )  # fmt: skip
    assert "loaded 136 pretrained tensors" in log
    assert "@ 3 updates" in log
    out = run(
        *("generate", data, *common, "--path", save / "checkpoint_last.pt", "--gen-subset", "test", "--beam", 2),
        *("--max-len-b", 5, "--model-overrides", "{'pretrained_deltalm_checkpoint': ''}"),
    )  # fmt: skip
    assert sum(line.startswith("H-") for line in out.splitlines()) == 32
