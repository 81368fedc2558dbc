"""Every ordered pair of layouts on real files: bit for bit, and everything that isn't carried over is told."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest
import torch

from ckptconv.containers import open_checkpoint
from ckptconv.containers.read import Reader
from ckptconv.errors import VocabularyMismatch
from ckptconv.tables.catalog import tables
from tests.commands.conftest import FINETUNED, GOLDEN, NUMBERS, run

# One real file of each layout.
FILES = {
    "deltalm/fairseq": FINETUNED / "checkpoint_best.pt",
    "deltalm/pretrained": NUMBERS / "pretrained.pt",
    "deltalm/hf": GOLDEN / "hf_deltalm_fengshen_transformers-4.30.2.bin",
    "xlmr/hf": GOLDEN / "hf_xlmr_mlm_transformers-4.30.2.bin",
    "xlmr/fairseq": GOLDEN / "fairseq-0.12.2_roberta_mlm_BTzeros.pt",
    "xlmr/fairseq-0.10": GOLDEN / "fairseq-0.10.2_roberta_mlm.pt",
    "xlmr/fairseq-0.9": GOLDEN / "fairseq-0.9.0_roberta_mlm.pt",
    "xlmr/fairseq-0.8": GOLDEN / "fairseq-0.8.0_roberta_mlm_fused.pt",
    "xlmr/fairseq-infoxlm": GOLDEN / "infoxlm_tiny.pt",
    "xlmr/fairseq-xlm_align": GOLDEN / "xlm_align_tiny.pt",
    "xmod/hf": GOLDEN / "hf_xmod_mlm_transformers-5.23.safetensors",
    "xmod/fairseq": GOLDEN / "xmod_base.pt",
    "xlm/hf": GOLDEN / "hf_xlm_mlm_transformers-5.23.safetensors",
    "xlm/original": GOLDEN / "xlm_original.tiny.pth",
}
PAIRS = [
    (f"{table.family}/{first.name}", f"{table.family}/{second.name}")
    for table in tables()
    for first, second in permutations([each for each in table.layouts if "ernie" not in each.name], 2)  # tests/ernie_m
]
SAMPLES = ["deltalm_finetuned_share_all", "deltalm_finetuned_untied", "deltalm_finetuned_v0122",
           "deltalm_pretrained_weights_tiny", "fairseq_deltalm_namespace_free_cfg"]  # fmt: skip


def contents(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    checkpoint = open_checkpoint(path)
    with Reader(checkpoint) as reader:
        return {
            key: (tensor.dtype.name, tensor.shape, reader.read(tensor))
            for entry in checkpoint.entries.values()
            for key, tensor in entry.items()
        }


def there_and_back(source: Path, first: str, second: str, folder: Path) -> None:
    before = contents(source)
    there = run(source, folder / "there", second)
    assert (there.plan.source, there.plan.target) == (first, second)
    # A file without the momentum copy and the projections is, key for key, one of fairseq's own.
    back = run(folder / "there", folder / "back.pt", first, layout_from=second)
    after = contents(folder / "back.pt")
    lost = {told.key for told in (*there.plan.dropped, *back.plan.dropped)}
    made = {told.key for told in (*there.plan.created, *back.plan.created)}
    # What one step adds to (token types, folded into positions) is told as that and can't come back.
    lost |= {step.sources[0] for step in there.plan.steps if step.op == "add"}
    assert not {told.key for told in there.plan.dropped} & after.keys() - made
    for key, value in before.items():
        if key not in lost:
            assert after[key] == value, key
    extra = after.keys() - before.keys() - made
    others = {key for table in tables() for tie in table.ties for key in tie.keys}
    assert extra <= others


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{a}-{b}".replace("/", ".") for a, b in PAIRS])
def test_there_and_back_on_a_real_file(first: str, second: str, tmp_path: Path):
    there_and_back(FILES[first], first, second, tmp_path)


@pytest.mark.parametrize("target", ["hf", "pretrained", "fairseq"])
@pytest.mark.parametrize("sample", SAMPLES)
def test_there_and_back_on_the_samples(sample: str, target: str, tmp_path: Path):
    source = "deltalm/pretrained" if "pretrained" in sample else "deltalm/fairseq"
    if source == f"deltalm/{target}":
        target = "hf"
    there_and_back(GOLDEN / f"{sample}.pt", source, f"deltalm/{target}", tmp_path)


def test_pretrained_to_fairseq_equals_what_the_original_code_made(tmp_path: Path):
    report = run(
        NUMBERS / "pretrained.pt",
        tmp_path / "out",
        "fairseq",
        dictionaries=(FINETUNED / "dict.de.txt",),
        max_positions=62,
    )
    expected = torch.load(NUMBERS / "pretrained_in_fairseq.pt", weights_only=True)["model"]
    made = torch.load(tmp_path / "out" / "model.pt", weights_only=True)["model"]
    assert list(made.keys() ^ expected.keys()) == []
    assert all(made[key].dtype == value.dtype and torch.equal(made[key], value) for key, value in expected.items())
    assert {each.key: each.rows for each in report.plan.resized} == {
        "encoder.embed_tokens.weight": "163..169 cut",
        "decoder.embed_tokens.weight": "163..169 cut",
        "encoder.embed_positions.weight": "64..65 cut",
        "decoder.embed_positions.weight": "64..65 cut",
    }


def test_without_a_word_nothing_is_cut(tmp_path: Path):
    report = run(NUMBERS / "pretrained.pt", tmp_path / "out", "fairseq")
    assert report.plan.resized == ()
    assert report.plan.dims["vocab"] == 170


def test_rows_are_made_up_only_on_request_and_are_zeros(tmp_path: Path):
    report = run(FINETUNED, tmp_path / "out.pt", "hf", vocab=170, max_positions=70)
    told = {each.key: (each.before, each.after, each.rows) for each in report.plan.resized}
    assert told["model.encoder.embed_tokens.weight"] == (163, 170, "163..169 made up, zeros")
    assert told["model.decoder.embed_positions.weight"] == (64, 72, "64..71 made up, zeros")
    made = torch.load(tmp_path / "out.pt", weights_only=True)
    assert not made["model.shared.weight"][163:].any()
    assert made["lm_head.weight"].data_ptr() == made["model.shared.weight"].data_ptr()


def test_the_stale_tensors_of_0122_are_dropped_by_name_and_told(tmp_path: Path):
    report = run(GOLDEN / "deltalm_finetuned_v0122.pt", tmp_path / "out", "hf")
    stale = [told for told in report.plan.dropped if "0.12.2" in told.reason]
    assert len(stale) == 8 * 4
    assert all(told.key.startswith("encoder.layers.") for told in stale)


def test_ties_are_found_by_bytes_where_storages_are_separate(tmp_path: Path):
    checkpoint = torch.load(FINETUNED / "checkpoint_best.pt", weights_only=False)
    checkpoint["model"] = {key: value.clone() for key, value in checkpoint["model"].items()}
    torch.save(checkpoint, tmp_path / "gpu.pt")
    run(tmp_path / "gpu.pt", tmp_path / "hf", "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["share_encoder_decoder_embeddings"], config["tie_word_embeddings"]) == (True, True)
    keys = open_checkpoint(tmp_path / "hf" / "model.safetensors").entries[""]
    assert keys["lm_head.weight"].storage == keys["model.shared.weight"].storage


def test_untied_stays_untied(tmp_path: Path):
    run(GOLDEN / "deltalm_finetuned_untied.pt", tmp_path / "hf", "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["share_encoder_decoder_embeddings"], config["tie_word_embeddings"]) == (False, False)
    run(tmp_path / "hf", tmp_path / "back", "fairseq")
    cfg = torch.load(tmp_path / "back" / "model.pt", weights_only=True)["cfg"]["model"]
    assert not cfg["share_all_embeddings"]
    assert not cfg["share_decoder_input_output_embed"]


@pytest.mark.parametrize(("dtype", "name"), [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")])
def test_casts_equal_torchs(dtype: str, name: str, tmp_path: Path):
    report = run(FINETUNED, tmp_path / "out.pt", "hf", dtype=dtype)
    original = torch.load(FINETUNED / "checkpoint_best.pt", weights_only=False)["model"]
    made = torch.load(tmp_path / "out.pt", weights_only=True)
    for key, value in original.items():
        renamed = "lm_head.weight" if key == "decoder.output_projection.weight" else f"model.{key}"
        if not key.endswith("version"):
            assert torch.equal(made[renamed], value.to(getattr(torch, name))), key
    assert report.overflowed == {}


def test_overflow_is_told_by_key(tmp_path: Path):
    big = {"w": torch.tensor([1.0, 70000.0, -1e30, float("inf"), 65519.0]), "n": torch.arange(3)}
    torch.save(big, tmp_path / "big.pt")
    report = run(tmp_path / "big.pt", tmp_path / "small.safetensors", "same", dtype="fp16")
    assert report.overflowed == {"w": 2}
    made = contents(tmp_path / "small.safetensors")
    assert made["w"][2] == big["w"].half().numpy().tobytes()
    assert made["n"][0] == "I64"


def test_a_namespace_free_cfg_is_written_and_no_path_of_training_is_left(tmp_path: Path):
    run(FINETUNED, tmp_path / "hf", "hf")
    run(tmp_path / "hf", tmp_path / "back", "fairseq")
    cfg = torch.load(tmp_path / "back" / "model.pt", weights_only=True)["cfg"]
    assert cfg["model"]["pretrained_deltalm_checkpoint"] == ""
    assert cfg["model"]["encoder_attention_heads"] == 4
    assert (cfg["task"]["source_lang"], cfg["task"]["target_lang"]) == ("de", "en")
    for name in ("dict.de.txt", "dict.en.txt", "spm.model"):
        assert (tmp_path / "back" / name).read_bytes() == (FINETUNED / name).read_bytes()


def test_shards_are_cut_and_read_back(tmp_path: Path):
    report = run(FINETUNED, tmp_path / "hf", "hf", max_shard_size=300_000)
    shards = [name for name in report.files if name.endswith(".safetensors")]
    assert len(shards) > 3
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    whole = run(FINETUNED, tmp_path / "whole", "hf")
    assert whole.files[0] == "model.safetensors"
    assert contents(tmp_path / "hf") == contents(tmp_path / "whole")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        run(FINETUNED, tmp_path / name, "hf")
        run(tmp_path / name, tmp_path / f"{name}-back", "fairseq")
    for folder in ("", "-back"):
        for path in (tmp_path / f"a{folder}").iterdir():
            assert path.read_bytes() == (tmp_path / f"b{folder}" / path.name).read_bytes(), path.name


def test_heads_that_no_config_says_are_assumed_and_told(tmp_path: Path):
    report = run(NUMBERS / "pretrained.pt", tmp_path / "out", "hf")
    (note,) = [note for note in report.notes if note.startswith("assumed")]
    assert "encoder_attention_heads = 1" in note
    told = run(NUMBERS / "pretrained.pt", tmp_path / "told", "hf", set={"encoder_attention_heads": 4})
    assert not any("encoder_attention_heads" in note for note in told.notes)


@pytest.mark.parametrize(
    ("sample", "lost"), [("deltalm_finetuned_share_all", False), ("deltalm_finetuned_untied", True)]
)
def test_an_output_projection_is_called_lost_only_where_it_is(sample: str, lost: bool, tmp_path: Path):
    report = run(GOLDEN / f"{sample}.pt", tmp_path / "out.pt", "pretrained")
    (told,) = [told for told in report.plan.dropped if told.key == "decoder.output_projection.weight"]
    assert told.reason.startswith("LOST:") is lost


def test_a_key_that_stands_in_for_another_is_not_called_dropped(hf_dir: Path, tmp_path: Path):
    report = run(hf_dir, tmp_path / "out.pt", "pretrained")
    assert "model.shared.weight" not in {told.key for told in report.plan.dropped}


def test_two_dictionaries_of_different_sizes_untie_what_was_one(tmp_path: Path):
    (tmp_path / "small.txt").write_text("".join(f"w{number} 1\n" for number in range(40)))
    dictionaries = (FINETUNED / "dict.de.txt", tmp_path / "small.txt")
    run(NUMBERS / "pretrained.pt", tmp_path / "hf", "hf", dictionaries=dictionaries)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["vocab_size"], config["decoder_vocab_size"]) == (163, 44)
    assert (config["share_encoder_decoder_embeddings"], config["tie_word_embeddings"]) == (False, True)
    report = run(tmp_path / "hf", tmp_path / "back", "fairseq", dictionaries=dictionaries)
    assert report.plan.dims["tgt_vocab"] == 44


@pytest.mark.parametrize("languages", [("aa", "zz"), ("zz", "aa")])
def test_the_config_puts_dictionaries_that_lie_beside_in_order(languages: tuple[str, str], tmp_path: Path):
    (tmp_path / "in").mkdir()
    checkpoint = torch.load(FINETUNED / "checkpoint_best.pt", weights_only=False)
    model = checkpoint["model"] = {key: value.clone() for key, value in checkpoint["model"].items()}
    for key in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        model[key] = model[key][:44]
    checkpoint["cfg"] = {"task": {"source_lang": languages[0], "target_lang": languages[1]}}
    torch.save(checkpoint, tmp_path / "in" / "model.pt")
    for language, count in zip(languages, (159, 40), strict=True):
        words = "".join(f"{language}{number} 1\n" for number in range(count))
        (tmp_path / "in" / f"dict.{language}.txt").write_text(words)
    report = run(tmp_path / "in", tmp_path / "hf", "hf")
    assert not any("guessed" in note for note in report.notes)
    dictionaries = tuple(tmp_path / "in" / f"dict.{language}.txt" for language in languages)
    run(tmp_path / "hf", tmp_path / "back", "fairseq", dictionaries=dictionaries)
    for path in dictionaries:
        assert (tmp_path / "back" / path.name).read_text() == path.read_text()
    with pytest.raises(VocabularyMismatch, match="both languages are called xx"):
        run(tmp_path / "hf", tmp_path / "no", "fairseq", dictionaries=dictionaries,
            set={"source_lang": "xx", "target_lang": "xx"})  # fmt: skip
