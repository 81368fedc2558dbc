"""What killed runs left behind is removed, what living ones write is not."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import pytest

from ckptconv.containers.writing import temporary
from ckptconv.containers.writing.temporary import remove_stale
from ckptconv.errors import CannotWrite
from tests.containers.staging import NEW, fill, tree


def leave(folder: Path, name: str, inside: str | None = "model.pt") -> Path:
    path = folder / name
    if inside is None:
        path.write_text("half")
    else:
        path.mkdir()
        (path / inside).write_text("half")
    return path


@pytest.mark.parametrize("output", ["x.pt", "out", "there"])
def test_what_killed_runs_left_is_removed(output: str, tmp_path: Path):
    (tmp_path / "there").mkdir()
    leave(tmp_path, ".ckptconv-123-0123456789ab", None)
    leave(tmp_path, ".ckptconv-1-ba9876543210")
    others = (".ckptconv-1-ba987654321", ".ckptconv-x-ba9876543210", "x.ckptconv")
    kept = [leave(tmp_path, name, None) for name in others]
    (tmp_path / ".ckptconv-7-ba9876543210").symlink_to("there")
    if output == "there":
        leave(tmp_path / "there", ".ckptconv-1-ba9876543210")
    with fill(tmp_path / output):
        pass
    names = {".ckptconv-7-ba9876543210", "there", output, *(path.name for path in kept)}
    assert set(os.listdir(tmp_path)) == names
    assert tree(tmp_path / "there") == (NEW if output == "there" else {})


def test_what_a_living_run_writes_is_left_alone(tmp_path: Path):
    (tmp_path / "there").mkdir()
    with fill(tmp_path / "a.pt") as file, fill(tmp_path / "there") as folder:
        with fill(tmp_path / "b.pt"), fill(tmp_path / "new"):
            pass
        assert file.path.is_file()
        assert folder.path.is_dir()
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "b.pt", "new", "there"]


@pytest.mark.parametrize(("name", "call"), [("x.pt", "open"), ("out", "open"), ("out", "mkdir")])
def test_one_that_is_removed_before_it_is_locked_is_made_again(
    name: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real, cleaned = getattr(os, call), []

    def then_another_run_cleans_up(path: Path, *more: object, **options: object) -> object:
        made = real(path, *more, **options)
        if temporary.is_temporary(os.path.basename(path)) and not cleaned:
            cleaned.append(path)
            remove_stale(tmp_path)
            assert not os.path.lexists(path)
        return made

    monkeypatch.setattr(os, call, then_another_run_cleans_up)
    with fill(tmp_path / name):
        pass
    assert cleaned
    assert os.listdir(tmp_path) == [name]


def test_what_belongs_to_others_is_left_alone(tmp_path: Path):
    """As far as this user can tell: root may remove anybody's."""
    path = leave(tmp_path, ".ckptconv-123-0123456789ab", None)
    real = os.geteuid()
    os.chmod(tmp_path, 0o777)
    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            if real == 0:
                os.setuid(65534)
            remove_stale(tmp_path)
        os._exit(0)
    os.waitpid(pid, 0)
    assert path.exists() == (real == 0)


def test_a_folder_that_another_program_has_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").write_text("old")
    monkeypatch.setattr(temporary, "_PATIENCE", 0.1)
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(CannotWrite, match="another program has it locked: wait"), fill(folder, overwrite=True):
        pass
    os.close(fd)
    assert tree(folder) == {"config.json": "old"}
