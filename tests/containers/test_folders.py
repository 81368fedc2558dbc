"""New files for a directory that is there: all or none, and what else is in it stays as it is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from ckptconv.containers.writing import folders, renames, staged, write_sharded_safetensors
from ckptconv.errors import CannotWrite, OutputExists
from tests.containers.oracle import items
from tests.containers.staging import NEW, cannot_swap, fill, tree

STATE = {"a": torch.arange(4.0), "b": torch.arange(6.0)}

OTHERS = {"mine.txt": "mine", "logs": None, "logs/a": "mine"}
OLD = {"config.json": "old", "model-00001-of-00002.safetensors": "old", **OTHERS}
AFTER = {**NEW, **OTHERS}


def old_folder(folder: Path) -> Path:
    (folder / "logs").mkdir(parents=True)
    for name, text in OLD.items():
        if text is not None:
            (folder / name).write_text(text)
    return folder


def test_a_directory_is_the_same_one_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For the shell that stands in it, for whoever has it mounted, and for its owner and mode."""
    folder = old_folder(tmp_path / "out")
    os.chmod(folder, 0o2751)
    if os.getuid() == 0:
        os.chown(folder, 1234, 5678)
    before = folder.stat()
    inode = (folder / "mine.txt").stat().st_ino
    monkeypatch.chdir(folder)
    with (folder / "logs" / "a").open("a") as log, fill(Path("."), overwrite=True) as stage:
        log.write(" still")
    after = folder.stat()
    for name in ("st_ino", "st_mode", "st_uid", "st_gid"):
        assert getattr(before, name) == getattr(after, name), name
    assert tree(Path.cwd()) == tree(folder) == {**AFTER, "logs/a": "mine still"}
    assert (folder / "mine.txt").stat().st_ino == inode
    assert stage.removed == ["model-00001-of-00002.safetensors"]
    assert os.listdir(tmp_path) == ["out"]


def test_new_files_get_the_group_of_a_setgid_folder(tmp_path: Path):
    others = [group for group in os.getgroups() if group != os.getegid()]
    group = 5678 if os.getuid() == 0 else [*others, os.getegid()][0]
    folder = old_folder(tmp_path / "out")
    os.chown(folder, -1, group)
    os.chmod(folder, 0o2755)
    with fill(folder, overwrite=True):
        pass
    with fill(folder / "x.pt"):
        pass
    for name in ("config.json", "sub", "sub/deep", "x.pt"):
        assert (folder / name).stat().st_gid == group, name


def test_files_that_others_write_meanwhile_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Between the second names and the swap, and while the stand-in is there."""
    folder, real, count = old_folder(tmp_path / "out"), renames.exchange, []

    def exchange(one: Path, other: Path) -> None:
        count.append(one)
        (folder / f"late {len(count)}.txt").write_text("late")
        real(one, other)

    monkeypatch.setattr(folders, "exchange", exchange)
    with fill(folder, overwrite=True):
        pass
    assert tree(folder) == {**AFTER, "late 1.txt": "late", "late 2.txt": "late"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_that_comes_into_an_empty_directory_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, count = renames.exchange, []

    def exchange(one: Path, other: Path) -> None:
        if not count:
            (tmp_path / "out" / "config.json").write_text("theirs")
        count.append(one)
        real(one, other)

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(folders, "exchange", exchange)
    with pytest.raises(OutputExists), fill(tmp_path / "out"):
        pass
    assert tree(tmp_path) == {"out": None, "out/config.json": "theirs"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_file_by_file_where_directories_can_not_be_swapped(
    overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(folders, "exchange", cannot_swap)
    if overwrite:
        old_folder(tmp_path / "out")
    else:
        (tmp_path / "out").mkdir()
    with fill(tmp_path / "out", overwrite):
        pass
    assert tree(tmp_path / "out") == (AFTER if overwrite else NEW)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("nth", range(4))
def test_a_file_that_can_not_be_moved_brings_the_others_back(nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "there"
    folder.mkdir()
    old = dict.fromkeys(("config.json", "model.safetensors", "mine.txt", "tokenizer.json", "z.json"), "old")
    for name, text in old.items():
        (folder / name).write_text(text)
    real, moved = os.replace, []

    def failing(source: Path, place: Path) -> None:
        if place.parent == folder and not source.name.endswith(".old"):
            moved.append(place)
            if len(moved) == nth + 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, place)

    def write() -> None:
        with staged(folder, True) as stage:
            for name in ("config.json", "model.safetensors", "new.json", "tokenizer.json", "z.json"):
                (stage.path / name).write_text("new")
            (stage.path / "sub").mkdir()
            (stage.path / "sub" / "deep").write_text("new")

    monkeypatch.setattr(folders, "exchange", cannot_swap)
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(CannotWrite, match=r"there can't be written: Input/output error"):
        write()
    assert {path.name: path.read_text() for path in folder.iterdir()} == old


def test_weights_come_behind_the_rest_and_an_index_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folders, "exchange", cannot_swap)
    (tmp_path / "out").mkdir()
    order, real = [], renames.rename_new

    def rename_new(old: Path, new: Path) -> None:
        order.append(new.name)
        real(old, new)

    monkeypatch.setattr(folders, "rename_new", rename_new)
    with staged(tmp_path / "out", False) as stage:
        write_sharded_safetensors(stage.path, items(STATE), {}, 16)
        (stage.path / "tokenizer.json").write_text("new")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert order == ["tokenizer.json", *shards, "model.safetensors.index.json"]


def test_links_and_files_where_folders_have_to_go(tmp_path: Path):
    folder = old_folder(tmp_path / "out")
    (folder / "sub").write_text("a file")
    before = tree(tmp_path)
    with pytest.raises(CannotWrite, match=r"sub is no directory"), fill(folder, overwrite=True):
        pass
    assert tree(tmp_path) == before
    (folder / "sub").unlink()
    (tmp_path / "elsewhere").mkdir()
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    with fill(folder, overwrite=True):
        pass
    assert (folder / "sub").is_symlink()
    assert tree(tmp_path / "elsewhere") == {"deep": "new"}


def test_a_directory_that_another_run_made_meanwhile_is_overwritten_if_that_was_asked_for(tmp_path: Path):
    with fill(tmp_path / "out", overwrite=True):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "config.json").write_text("theirs")
        (tmp_path / "out" / "other.txt").write_text("theirs")
    assert tree(tmp_path / "out") == {**NEW, "other.txt": "theirs"}
    assert os.listdir(tmp_path) == ["out"]
