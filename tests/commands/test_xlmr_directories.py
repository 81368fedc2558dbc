"""Directories as people have them: what fairseq publishes, what fairseq-train leaves, what the hub holds."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaForMaskedLM

from ckptconv.errors import NotACheckpoint, VocabularyMismatch
from ckptconv.vocabulary.dictionary import SPECIAL, Dictionary
from tests.commands.conftest import run
from tests.spm_side import symbols, trained

TEXT = "Der Zug nach Süden fährt heute <mask> Nürnberg."
SPM = "sentencepiece.bpe.model"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extracted xlmr.*.tar.gz: a legacy pickle with fused projections in fp16, dict.txt, the sentencepiece model."""
    folder = tmp_path_factory.mktemp("published") / "xlmr.tiny"
    folder.mkdir()
    (folder / SPM).write_bytes(trained())
    dictionary = Dictionary(SPECIAL + tuple(symbols((folder / SPM).read_bytes())))
    dictionary.write(folder / "dict.txt")
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(dictionary) + 1, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    state = XLMRobertaForMaskedLM(config).state_dict()
    state["roberta.embeddings.token_type_embeddings.weight"].zero_()
    hf = folder.parent / "hf"
    hf.mkdir()
    save_file({key: value.half().clone() for key, value in state.items()}, hf / "model.safetensors")
    run(hf, folder.parent / "fused.pt", "fairseq-0.8")
    with torch.serialization.safe_globals([argparse.Namespace]):
        loaded = torch.load(folder.parent / "fused.pt")
    args = argparse.Namespace(arch="roberta_base", encoder_attention_heads=4, dropout=0.1, max_positions=64)
    torch.save({"args": args, "model": loaded["model"]}, folder / "model.pt", _use_new_zipfile_serialization=False)
    return folder


def ids(folder: Path, text: str = TEXT) -> list[int]:
    return AutoTokenizer.from_pretrained(folder)(text).input_ids


def test_an_extracted_archive_becomes_a_complete_hf_directory(published: Path, tmp_path: Path):
    report = run(published, tmp_path / "hf", "hf")
    assert report.plan.source == "xlmr/fairseq-0.8"
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == [
        "config.json", "conversion.json", "model.safetensors", SPM, "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip
    rows = json.loads((tmp_path / "hf" / "config.json").read_text())["vocab_size"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (len(tokenizer), tokenizer.mask_token_id, tokenizer.model_max_length) == (rows, rows - 1, 64)
    assert rows - 1 in ids(tmp_path / "hf")
    assert not any("assumed" in note and "num_attention_heads" in note for note in report.notes)


def test_there_and_back_the_vocabulary_files_are_the_same(published: Path, tmp_path: Path):
    run(published, tmp_path / "hf", "hf")
    run(tmp_path / "hf", tmp_path / "back", "fairseq")
    for name in ("dict.txt", SPM):
        assert (tmp_path / "back" / name).read_bytes() == (published / name).read_bytes()
    run(tmp_path / "back", tmp_path / "again", "hf")
    for path in {*(tmp_path / "hf").iterdir()} - {tmp_path / "hf" / "conversion.json"}:
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_bare_file_gets_its_companions_as_options(published: Path, tmp_path: Path):
    shutil.copy(published / "model.pt", tmp_path / "bare.pt")
    without = run(tmp_path / "bare.pt", tmp_path / "without", "hf")
    assert any(note == "no tokenizer was written: it needs --dict and --spm" for note in without.notes)
    shutil.copy(published / SPM, tmp_path / "my.model")
    run(tmp_path / "bare.pt", tmp_path / "hf", "hf", dictionaries=(published / "dict.txt",), spm=tmp_path / "my.model")
    assert (tmp_path / "hf" / SPM).read_bytes() == (published / SPM).read_bytes()
    run(published, tmp_path / "same", "hf")
    assert ids(tmp_path / "hf") == ids(tmp_path / "same")


def test_a_dictionary_of_another_size_is_refused_and_counted_with_its_mask(published: Path, tmp_path: Path):
    source = tmp_path / "x"
    shutil.copytree(published, source)
    lines = (source / "dict.txt").read_text().splitlines(keepends=True)
    (source / "dict.txt").write_text("".join(lines[:-3]))
    have = len(lines) + 4 + 1
    with pytest.raises(
        VocabularyMismatch, match=rf"{have - 3} symbols \(with <s> <pad> </s> <unk> <mask>\).*{have} rows"
    ):
        run(source, tmp_path / "hf", "hf")
    assert not (tmp_path / "hf").exists()


def test_tokens_that_somebody_added_keep_their_ids(published: Path, tmp_path: Path):
    run(published, tmp_path / "hf", "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    tokenizer.add_tokens(["newword", "<ent>"])
    tokenizer.save_pretrained(tmp_path / "hf")
    rows = len(tokenizer)
    run(tmp_path / "hf", tmp_path / "out", "fairseq", vocab=rows)
    listed = (tmp_path / "out" / "dict.txt").read_text().splitlines()
    assert [line.split(" ")[0] for line in listed[-3:]] == ["<mask>", "newword", "<ent>"]
    assert 4 + len(listed) == rows
    run(tmp_path / "out", tmp_path / "back", "hf")
    text = f"{TEXT} newword <ent>"
    assert ids(tmp_path / "back", text) == tokenizer(text).input_ids


def test_of_the_hubs_files_the_safetensors_are_taken_and_said_to_be(published: Path, tmp_path: Path):
    run(published, tmp_path / "hf", "hf")
    torch.save({"x": torch.zeros(1)}, tmp_path / "hf" / "pytorch_model.bin")
    (tmp_path / "hf" / "tf_model.h5").write_bytes(b"\x89HDF\r\n")
    report = run(tmp_path / "hf", tmp_path / "out", "fairseq")
    assert "the directory has several weight files: took model.safetensors, not pytorch_model.bin" in report.notes


def test_of_fairseqs_checkpoints_the_best_is_taken_or_one_is_to_be_named(published: Path, tmp_path: Path):
    source = tmp_path / "checkpoints"
    shutil.copytree(published, source)
    (source / "model.pt").rename(source / "checkpoint_best.pt")
    for name in ("checkpoint_last.pt", "checkpoint3.pt"):
        shutil.copy(source / "checkpoint_best.pt", source / name)
    report = run(source, tmp_path / "hf", "hf")
    assert any("took checkpoint_best.pt, not checkpoint_last.pt, checkpoint3.pt" in note for note in report.notes)
    (source / "checkpoint_best.pt").unlink()
    (source / "checkpoint_last.pt").rename(source / "checkpoint2.pt")
    with pytest.raises(
        NotACheckpoint, match=r"several weight files: name the one you mean \(checkpoint2.pt, checkpoint3.pt\)"
    ):
        run(source, tmp_path / "x", "hf")
