"""Places that can't be written to, or only in part, as the system makes them: full, limited, read-only, mounted."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.faults.calls import Calls
from tests.faults.cases import Case, make_case, temporaries, tree
from tests.faults.trials import REFUSED, disturbed, ended, forked


@pytest.fixture(params=[("safetensors", False), ("safetensors", True), ("hf-sharded", False), ("hf-sharded", True)])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    made = make_case(*request.param, tmp_path)
    made.start(tmp_path / "trial")
    return made


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """mount(*arguments, place): mounts, and unmounts at the end. Skips, and says so, where nobody may mount."""
    with ExitStack() as undo:

        def mounted(*arguments: object) -> None:
            done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
            undo.callback(subprocess.run, ["umount", "--lazy", str(arguments[-1])], check=True)

        yield mounted


def refused(case: Case, folder: Path, spoil: Callable[[], None] = lambda: None) -> str:
    """What is said when a conversion is refused; nothing changed, and nothing is left."""

    def work() -> None:
        spoil()
        case.write(folder)

    end, said = ended(*forked(work))
    assert end == REFUSED, (end, said)
    assert tree(folder / case.output) == case.old
    assert temporaries(folder) == []
    assert ".ckptconv" not in said
    return said


@pytest.mark.parametrize("limit", [0, 100, 40_000])
def test_no_file_may_be_that_long(case: Case, limit: int, tmp_path: Path):
    said = refused(case, tmp_path / "trial", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert "no space left" in said


@pytest.mark.parametrize("files", range(1, 7))
def test_no_more_files_may_be_open(case: Case, files: int, tmp_path: Path):
    """Where even removing needs more, the temporary folder stays until the next run."""
    folder, used = tmp_path / "trial", len(os.listdir("/dev/fd"))

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + files, used + files))
        case.write(folder)

    end, said = ended(*forked(work))
    assert tree(folder / case.output) == (case.new if end == "done" else case.old)
    assert end == "done" or "Too many open files" in said
    case.write(folder)
    assert tree(folder / case.output) == case.new
    assert temporaries(folder) == []


@pytest.mark.parametrize("kilobytes", [28, 60, 100, 140])
def test_a_small_disk(case: Case, kilobytes: int, tmp_path: Path, mount: Callable[..., None]):
    """Whatever fits is written, whatever doesn't is refused."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", f"size={kilobytes}k,mode=755", "none", disk)
    for path in (tmp_path / "trial").iterdir():
        try:
            shutil.copytree(path, disk / path.name, symlinks=True) if path.is_dir() else shutil.copy(path, disk)
        except (OSError, shutil.Error):
            return  # not even the old output fits
    end, said = ended(*forked(lambda: case.write(disk)))
    assert tree(disk / case.output) == (case.new if end == "done" else case.old), said
    assert end == "done" or "no space left" in said
    assert temporaries(disk) == []


def test_a_full_device_is_no_output(case: Case, tmp_path: Path):
    (tmp_path / "full.pt").symlink_to("/dev/full")
    (tmp_path / "full").symlink_to("/dev/full")
    from ckptconv.conversion.write import write
    from ckptconv.errors import CannotWrite

    for name in ("full.pt", "full"):
        with pytest.raises(CannotWrite, match=r"is not a regular file|is there and is no directory"):
            write(case.prepared, tmp_path / name, lambda done, total: None)
        assert (tmp_path / name).is_symlink()


def powerless() -> None:
    """Root, to whom modes mean nothing, becomes a user like others: it loses its capabilities (capset(2))."""
    if os.getuid() == 0:
        header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)  # _LINUX_CAPABILITY_VERSION_3, this process
        assert ctypes.CDLL(None).capset(header, none) == 0


@contextmanager
def only_readable(*folders: Path) -> Iterator[None]:
    modes = [stat.S_IMODE(folder.stat().st_mode) for folder in folders]
    for folder in folders:
        folder.chmod(0o555)
    try:
        yield
    finally:
        for folder, mode in zip(folders, modes, strict=True):
            folder.chmod(mode)


def test_a_folder_that_may_only_be_read(case: Case, tmp_path: Path):
    folder = tmp_path / "trial"
    inside = [path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()]
    before = tree(folder)
    with only_readable(folder, *inside):
        end, said = ended(*forked(lambda: (powerless(), case.write(folder))))
    assert (end, "can't be written: Permission denied" in said) == (REFUSED, True), said
    assert tree(folder) == before


def test_a_directory_in_a_folder_that_may_only_be_read_is_filled_file_by_file(tmp_path: Path):
    """Nothing can be put beside it, so it is written inside."""
    case = make_case("hf-sharded", True, tmp_path)
    folder = tmp_path / "trial"
    case.start(folder)
    with only_readable(folder):
        end, said = ended(*forked(lambda: (powerless(), case.write(folder))))
    assert end == "done", said
    assert tree(folder / case.output) == case.new
    assert temporaries(folder) == []


def test_a_read_only_disk(case: Case, tmp_path: Path, mount: Callable[..., None]):
    folder = tmp_path / "trial"
    mount("-o", "bind,ro", folder, folder)
    assert "can't be written: Read-only file system" in refused(case, folder)


def test_a_mount_point_is_filled_file_by_file(tmp_path: Path, mount: Callable[..., None]):
    """It can't be swapped for another directory, nor can anything be moved out of it."""
    case = make_case("hf", True, tmp_path)
    folder = tmp_path / "trial"
    case.start(folder)
    mount("--bind", folder / case.output, folder / case.output)
    end, said = ended(*forked(lambda: case.write(folder)))
    assert end == "done", said
    assert tree(folder / case.output) == case.new
    assert temporaries(folder) == []


def test_a_mount_point_inside_is_left_alone(tmp_path: Path, mount: Callable[..., None]):
    case = make_case("hf", True, tmp_path)
    folder = tmp_path / "trial"
    case.start(folder)
    mount("--bind", folder / case.output / "logs" / "deep", folder / case.output / "logs" / "empty")
    end, said = ended(*forked(lambda: case.write(folder)))
    assert end == "done", said
    there = tree(folder / case.output)
    assert there is not None
    assert there.items() >= {name: node for name, node in case.new.items() if name != "logs/empty"}.items()
    assert "logs/empty/train.log" in there
    assert temporaries(folder) == []


def test_the_first_trial_of_a_series_is_one(tmp_path: Path):
    """The helpers of these tests find nothing wrong with what nothing disturbs."""
    case = make_case("hf", True, tmp_path)
    figures = disturbed(case, tmp_path / "trial", Calls())
    assert not figures.bad, figures.told
