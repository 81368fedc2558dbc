"""Output appears whole or not at all, and what was there before stays unless it is to be overwritten."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from ckptconv.containers import open_checkpoint
from ckptconv.containers.writing import renames, staged, write_sharded_safetensors, write_torch
from ckptconv.containers.writing.output import write_file
from ckptconv.errors import CannotWrite, OutputExists
from tests.containers.oracle import items
from tests.containers.staging import NEW, cannot_swap, fill, tree

STATE = {"a": torch.arange(4.0), "b": torch.arange(6.0)}


class Stop(Exception):
    """A failure in the middle."""


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "folder"])
def test_output_appears_at_the_end_with_the_usual_mode(name: str, tmp_path: Path):
    old = os.umask(0o027)
    try:
        with fill(tmp_path / name):
            assert not (tmp_path / name).exists()
    finally:
        os.umask(old)
    assert os.listdir(tmp_path) == [name]
    path = tmp_path / name
    assert path.read_text() == "new" if path.is_file() else tree(path) == NEW
    assert stat.S_IMODE(path.stat().st_mode) == (0o640 if path.is_file() else 0o750)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("name", ["x.pt", "folder"])
@pytest.mark.parametrize("failure", [Stop, KeyboardInterrupt, OSError])
def test_a_failure_leaves_what_was_there(there: bool, name: str, failure: type[BaseException], tmp_path: Path):
    if there and name == "folder":
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("old")
    elif there:
        (tmp_path / name).write_text("old")
    before = tree(tmp_path)
    with pytest.raises(CannotWrite if failure is OSError else failure), fill(tmp_path / name, overwrite=True):
        raise failure
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["x.pt", "folder"])
def test_an_output_is_kept_unless_it_is_to_be_overwritten(name: str, tmp_path: Path):
    with fill(tmp_path / name):
        pass
    before = tree(tmp_path)
    with pytest.raises(OutputExists, match="--overwrite"), staged(tmp_path / name, False):
        raise Stop
    assert tree(tmp_path) == before
    with fill(tmp_path / name, overwrite=True) as stage:
        assert tree(tmp_path).items() >= before.items()
    assert tree(tmp_path) == before
    assert stage.removed == []


@pytest.mark.parametrize("name", ["x.pt", "folder"])
def test_an_output_made_by_someone_else_in_the_meantime_is_kept(name: str, tmp_path: Path):
    with pytest.raises(OutputExists), fill(tmp_path / name):
        (tmp_path / name).write_text("theirs")
    assert tree(tmp_path) == {name: "theirs"}


def test_a_file_that_appears_in_an_empty_directory_is_kept(tmp_path: Path):
    with pytest.raises(OutputExists), fill(tmp_path):
        (tmp_path / "config.json").write_text("theirs")
    assert tree(tmp_path) == {"config.json": "theirs"}


def test_an_empty_directory_is_filled_and_a_full_one_keeps_its_other_files(tmp_path: Path):
    with fill(tmp_path):
        pass
    assert tree(tmp_path) == NEW
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model.pt").write_text("mine")
    with pytest.raises(OutputExists), fill(tmp_path):
        pass
    with fill(tmp_path, overwrite=True):
        pass
    assert tree(tmp_path) == {**NEW, "notes.txt": "mine", "model.pt": "mine"}


def test_weights_of_an_earlier_export_are_taken_away_and_told(tmp_path: Path):
    folder = tmp_path / "out"
    with staged(folder, False) as stage:
        assert len(write_sharded_safetensors(stage.path, items(STATE), {}, 16)) == 3
    old = set(os.listdir(folder))
    (folder / "pytorch_model.bin").write_text("old")
    (folder / "optimizer.pt").write_text("mine")
    with staged(folder, True) as stage:
        assert write_sharded_safetensors(stage.path, items(STATE), {}, 1000) == ["model.safetensors"]
        assert set(os.listdir(folder)) > old
    assert sorted(os.listdir(folder)) == ["model.safetensors", "optimizer.pt"]
    assert stage.removed == sorted([*old, "pytorch_model.bin"])
    with staged(folder, True) as stage:
        write_torch(stage.path / "model.pt", items(STATE), "model", {})
    assert stage.removed == ["model.safetensors"]
    assert open_checkpoint(folder).entries.keys() == {"model"}
    with staged(folder, True) as stage:
        (stage.path / "README.md").write_text("no weights at all")
    assert stage.removed == []


def test_a_directory_where_a_file_has_to_go(tmp_path: Path):
    (tmp_path / "out" / "config.json").mkdir(parents=True)
    before = tree(tmp_path)
    with pytest.raises(CannotWrite, match=r"config\.json is a directory"), fill(tmp_path / "out", overwrite=True):
        pass
    assert tree(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_input_is_never_the_output(overwrite: bool, tmp_path: Path):
    (tmp_path / "in.pt").write_text("input")
    os.link(tmp_path / "in.pt", tmp_path / "same.pt")
    (tmp_path / "link.pt").symlink_to("in.pt")
    for name in ("in.pt", "same.pt", "link.pt"):
        with (
            pytest.raises(OutputExists, match="--overwrite" if not overwrite else "is the input itself"),
            fill(tmp_path / name, overwrite, inputs=[tmp_path / "in.pt"]),
        ):
            pass
    with pytest.raises(OutputExists), fill(tmp_path, overwrite, inputs=[tmp_path / "in.pt"]):
        pass
    assert (tmp_path / "in.pt").read_text() == "input"


def test_links_stay_links(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "real.pt").write_text("old")
    (tmp_path / "x.pt").symlink_to("elsewhere/real.pt")
    (tmp_path / "new.pt").symlink_to("elsewhere/made.pt")
    (tmp_path / "folder").symlink_to("elsewhere/made", target_is_directory=True)
    with pytest.raises(OutputExists), fill(tmp_path / "x.pt"):
        pass
    for name in ("x.pt", "new.pt", "folder"):
        with fill(tmp_path / name, overwrite=True):
            pass
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "elsewhere" / "real.pt").read_text() == "new"
    assert (tmp_path / "elsewhere" / "made.pt").read_text() == "new"
    assert tree(tmp_path / "elsewhere" / "made") == NEW


def test_places_that_cannot_be_written_to(tmp_path: Path):
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "file").write_text("old")
    os.mkfifo(tmp_path / "fifo.pt")
    cases = {
        tmp_path / "none" / "x.pt": "there is no folder",
        tmp_path / "file" / "x": "there is no folder",
        tmp_path / "folder.pt": "is a directory",
        tmp_path / "file": r"must end in \.pt or \.safetensors",
        tmp_path / "fifo.pt": "not a regular file",
        Path("/dev/null"): r"must end in \.pt",
        tmp_path / ("x" * 300 + ".pt"): "can't be written",
        Path("/proc/x.pt"): "can't be written",
    }
    before = tree(tmp_path)
    for path, told in cases.items():
        with pytest.raises(CannotWrite, match=told), fill(path, overwrite=True):
            pass
    assert tree(tmp_path) == before


def test_too_little_space_is_told_before_anything_is_written(tmp_path: Path):
    told = r"no space left on .*: needs 1,152,921,504,606,846,976 bytes, has [\d,]+"
    with pytest.raises(CannotWrite, match=told), staged(tmp_path / "x.pt", False, need=1 << 60):
        raise Stop
    assert os.listdir(tmp_path) == []


def test_an_overwritten_file_gets_the_usual_mode(tmp_path: Path):
    (tmp_path / "x.pt").write_text("old")
    os.chmod(tmp_path / "x.pt", 0o600)
    old = os.umask(0o022)
    try:
        with fill(tmp_path / "x.pt", overwrite=True):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x.pt").stat().st_mode) == 0o644


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_file_system_without_renames_that_replace_nothing(
    as_folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(renames, "_rename", cannot_swap)
    name = "out" if as_folder else "x.pt"
    with fill(tmp_path / name):
        pass
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(OutputExists), fill(tmp_path / f"2{name}"):
        (tmp_path / f"2{name}").write_text("theirs")
    assert (tmp_path / f"2{name}").read_text() == "theirs"


def test_errors_tell_the_name_that_was_asked_for(tmp_path: Path):
    told = "out/deep/x can't be written: No such file or directory"
    with pytest.raises(CannotWrite, match=told) as caught, staged(tmp_path / "out", False) as stage:
        write_file(stage.path / "deep" / "x", b"new")
    assert ".ckptconv" not in caught.value.message
    assert caught.value.path == str(tmp_path / "out")


@pytest.mark.parametrize("fails", [None, "write", "replace"])
def test_what_goes_beside_a_file_comes_right_after_it(
    fails: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "x.pt").write_text("old")
    (tmp_path / "x.json").write_text("old")
    real = os.replace

    def failing(source: Path, place: Path) -> None:
        if place.name == "x.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, place)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    told = {"write": "no space left", "replace": r"x\.pt is there, but its folder can't be written to the end"}
    with ExitStack() as expected:
        if fails:
            expected.enter_context(pytest.raises(CannotWrite, match=told[fails]))
            expected.enter_context(monkeypatch.context()).setattr(os, fails, {"write": full, "replace": failing}[fails])
        with staged(tmp_path / "x.pt", True) as stage:
            stage.path.write_text("new")
            stage.beside[tmp_path / "x.json"] = b"new"
    there = {"write": ("old", "old"), "replace": ("new", "old"), None: ("new", "new")}[fails]
    assert ((tmp_path / "x.pt").read_text(), (tmp_path / "x.json").read_text()) == there
    assert sorted(os.listdir(tmp_path)) == ["x.json", "x.pt"]
