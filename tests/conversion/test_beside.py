"""What lies beside the weights: too much of it, nothing where something was named, links, and what has no place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ckptconv.errors import VocabularyMismatch
from tests.commands.conftest import FINETUNED, GOLDEN, run

UNTIED = GOLDEN / "deltalm_finetuned_untied.pt"


def test_three_dictionaries_are_too_many(tmp_path: Path):
    shutil.copytree(FINETUNED, tmp_path / "in")
    shutil.copy(FINETUNED / "dict.de.txt", tmp_path / "in" / "dict.fr.txt")
    with pytest.raises(VocabularyMismatch, match=r"Got 3 dictionaries: .*name one or two with --dict, source first"):
        run(tmp_path / "in", tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["dictionaries", "spm"])
def test_a_named_file_must_be_there(option: str, tmp_path: Path):
    path = tmp_path / "nowhere.txt"
    with pytest.raises(VocabularyMismatch, match=r"nowhere\.txt is no file; expected a dictionary or spm model"):
        run(FINETUNED, tmp_path / "out", "hf", **{option: (path,) if option == "dictionaries" else path})


def test_to_the_same_layout_no_link_takes_another_file_along(tmp_path: Path):
    (tmp_path / "in").mkdir()
    shutil.copy(UNTIED, tmp_path / "in" / "model.pt")
    (tmp_path / "in" / "notes.txt").write_text("notes")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "in" / "secret.txt").symlink_to("../secret")
    report = run(tmp_path / "in", tmp_path / "out", "same")
    assert "notes.txt" in report.files
    assert "secret.txt" not in report.files
    assert not (tmp_path / "out" / "secret.txt").exists()


def test_what_one_file_has_no_place_for_is_told(tmp_path: Path):
    weights = run(FINETUNED, tmp_path / "x.safetensors", "hf")
    assert any(note.startswith("one file holds the weights only; for ") for note in weights.notes)
    assert not any("has no place for" in note for note in weights.notes)
    kept = run(UNTIED, tmp_path / "y.safetensors", "same")
    assert any(note.startswith("safetensors has no place for ") for note in kept.notes)
    assert not any("has no place for" in note for note in run(UNTIED, tmp_path / "z.pt", "same").notes)
