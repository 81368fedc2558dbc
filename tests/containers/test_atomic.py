"""Output appears whole or not at all, and what was there before stays unless it is to be overwritten."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ckptconv.containers import open_checkpoint, staged, write_sharded_safetensors, write_torch
from ckptconv.containers.atomic import Stage
from ckptconv.errors import CannotWrite, CkptconvError, OutputExists
from tests.containers.oracle import items

STATE = {"a": torch.arange(4.0), "b": torch.arange(6.0)}


class Stop(Exception):
    """A failure in the middle."""


def tree(folder: Path) -> dict[str, str | None]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def fill(dst: Path, overwrite: bool = False, **more: object) -> Iterator[Stage]:
    """Writes "new" as a file, or three files as a directory."""
    with staged(dst, overwrite, **more) as stage:
        if stage.path.is_dir():
            (stage.path / "config.json").write_text("new")
            (stage.path / "sub").mkdir()
            (stage.path / "sub" / "deep").write_text("new")
            (stage.path / "model.safetensors").write_text("new")
        else:
            stage.path.write_text("new")
        yield stage


NEW = {"config.json": "new", "model.safetensors": "new", "sub": None, "sub/deep": "new"}


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


@pytest.mark.parametrize("name", ["x.pt", "folder", "there"])
@pytest.mark.parametrize("call", ["fsync", "replace", "link", "rename", "open", "mkdir", "unlink"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_every_system_call_may_fail(name: str, call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whichever call fails, and however late: old or new output, whole, or for a directory that exists a mixture of
    whole files, and nothing temporary is left where it can be removed."""
    real = getattr(os, call)
    for nth in range(4):
        folder = tmp_path / str(nth)
        folder.mkdir()
        if name == "there":
            (folder / name).mkdir()
            (folder / name / "model.safetensors").write_text("old")
        calls = []

        def failing(*args: object, nth: int = nth, calls: list[object] = calls, **more: object) -> object:
            calls.append(args)
            if len(calls) == nth + 1:
                raise OSError(code, os.strerror(code))
            return real(*args, **more)

        with monkeypatch.context() as patched:
            patched.setattr(os, call, failing)
            try:
                with fill(folder / name, overwrite=name == "there"):
                    pass
            except CkptconvError as problem:
                told = "no space left" if code != errno.EIO else "can't be written"
                assert told in problem.message, problem.message  # noqa: PT017
        texts = {text for text in tree(folder).values() if text is not None}
        assert texts <= {"new", "old"}
        assert name != "there" or (folder / name / "model.safetensors").is_file()
        if call != "unlink":
            assert not list(folder.rglob(".ckptconv-*"))


@pytest.mark.parametrize("nth", range(4))
def test_a_file_that_can_not_be_moved_brings_the_others_back(nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "there"
    target.mkdir()
    old = {"config.json": "old", "model.safetensors": "old", "mine.txt": "old"}
    for name, text in old.items():
        (target / name).write_text(text)
    real, moved = os.replace, []

    def failing(source: str, place: str) -> None:
        if os.path.dirname(place) == str(target) and not str(source).endswith(".old"):
            moved.append(place)
            if len(moved) == nth + 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, place)

    def write() -> None:
        with staged(target, True) as stage:
            for name in ("config.json", "model.safetensors", "new.json", "tokenizer.json"):
                (stage.path / name).write_text("new")

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(CannotWrite):
        write()
    assert {path.name: path.read_text() for path in target.iterdir()} == old
