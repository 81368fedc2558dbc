"""A source that changes while it is read: the conversion is refused, and the output is as it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptconv import Options, convert
from ckptconv.errors import CkptconvError, Damaged
from tests.faults.cases import NUMBERS, temporaries, tree


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewritten(path: Path) -> None:
    """The same size, other bytes."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(1000))


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    other.rename(path)


@pytest.fixture(params=["torch", "safetensors"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the trained model that may be spoiled."""
    if request.param == "torch":
        shutil.copytree(NUMBERS, tmp_path / "source")
    else:
        convert(NUMBERS, tmp_path / "source", Options(to="deltalm/hf"))
    return tmp_path / "source"


def weights(source: Path) -> Path:
    return max(source.iterdir(), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("moment", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("change", [truncated, emptied, longer, rewritten])
def test_a_changed_source_is_refused(source: Path, change: Callable[[Path], None], moment: float, tmp_path: Path):
    output = tmp_path / "out"
    convert(source, output, Options(to="same", dtype="bf16"))
    before = tree(output)
    changed = []

    def progress(done: int, total: int) -> None:
        if done >= moment * total and not changed:
            changed.append(done)
            change(weights(source))

    with pytest.raises(Damaged, match=r"was changed while it was being read: start again|ends at byte"):
        convert(source, output, Options(to="same", overwrite=True), progress=progress)
    assert changed
    assert tree(output) == before
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize("change", [removed, replaced])
def test_a_source_that_is_replaced_is_read_to_its_end_or_refused(
    source: Path, change: Callable[[Path], None], tmp_path: Path
):
    """The file that was opened is still there, and whole; whoever opens it again is told."""
    output, expected = tmp_path / "x.safetensors", tmp_path / "expected.safetensors"
    convert(source, expected, Options(to="same"))
    changed = []

    def progress(done: int, total: int) -> None:
        if not changed:
            changed.append(done)
            change(weights(source))

    try:
        convert(source, output, Options(to="same"), progress=progress)
    except CkptconvError:
        assert not output.exists()
    else:
        assert output.read_bytes() == expected.read_bytes()
    assert changed
    assert temporaries(tmp_path) == []
