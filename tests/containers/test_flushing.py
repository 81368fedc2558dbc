"""What is written goes to the disk meanwhile: by another thread, each error told, never after the file is closed."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from ckptconv.containers.writing import output as module
from ckptconv.containers.writing.output import Output
from ckptconv.errors import CannotWrite

MIB = 1 << 20


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FLUSH", MIB)


def write(path: Path, count: int = 16) -> None:
    with Output(path, count * MIB) as output:
        output.write_all(bytes([number]) * MIB for number in range(count))


def test_the_bytes_are_those_that_were_written(tmp_path: Path):
    write(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"".join(bytes([number]) * MIB for number in range(16))


def test_another_thread_flushes_while_this_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    flushed: list[threading.Thread] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (flushed.append(threading.current_thread()), real(fd)))
    before = threading.active_count()
    write(tmp_path / "x")
    assert flushed
    assert threading.main_thread() not in flushed
    assert threading.active_count() == before


def test_one_flush_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: (calls.append(fd), time.sleep(0.5)))
    start = time.monotonic()
    with Output(tmp_path / "x", 8 * MIB) as output:
        output.write_all(bytes(MIB) for _ in range(8))
        assert time.monotonic() - start < 0.4  # nobody waited
    assert len(calls) == 1


def test_only_what_has_come_together_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []
    monkeypatch.setattr(os, "fdatasync", calls.append)
    monkeypatch.setattr(module, "_FLUSH", 4 * MIB)
    write(tmp_path / "x")
    assert 1 <= len(calls) <= 4


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_an_error_of_any_flush_is_told_though_the_last_one_succeeds(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    results = iter([OSError(code, os.strerror(code))])

    def flush(_: int) -> None:
        problem = next(results, None)
        if problem:
            raise problem

    monkeypatch.setattr(os, "fdatasync", flush)
    with pytest.raises(CannotWrite, match="no space left" if code == errno.ENOSPC else os.strerror(code)):
        write(tmp_path / "x")


def test_the_file_isnt_closed_under_a_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its descriptor would be another file's by then."""
    done: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: (time.sleep(0.3), done.append(os.fstat(fd).st_ino)))
    output = Output(tmp_path / "x", 8 * MIB)
    output.write(bytes(2 * MIB))
    output.close()
    assert done == [(tmp_path / "x").stat().st_ino]


def test_a_system_without_fdatasync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "fdatasync")
    write(tmp_path / "x")
    assert (tmp_path / "x").stat().st_size == 16 * MIB
