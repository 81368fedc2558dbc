"""A tensor read in runs, by several threads: the same bytes, and checksums that are verified all the same."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptconv.containers import files, open_checkpoint, read
from ckptconv.containers.checkpoint import Tensor
from ckptconv.containers.read import Reader, Run
from ckptconv.errors import Damaged
from tests.containers.oracle import bits, state_dicts

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
SIZE = 1000


def data(run: Run) -> bytes:
    return b"".join(run.chunks())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@QUICK
@given(state=state_dicts(), size=st.integers(1, 100), order=st.randoms(use_true_random=False), zipped=st.booleans())
def test_runs_are_the_tensor(
    state: dict[str, torch.Tensor], size: int, order: random.Random, zipped: bool, folder: Path
):
    """Of any dtype, strides and sharing, read in any order."""
    torch.save(state, folder / "any.pt", _use_new_zipfile_serialization=zipped)
    opened = open_checkpoint(folder / "any.pt")
    with Reader(opened) as reader:
        for key, tensor in opened.entries[""].items():
            runs = reader.runs(tensor, size)
            found = {at: data(runs[at]) for at in order.sample(range(len(runs)), len(runs))}
            assert [len(found[at]) for at in range(len(runs))] == [run.nbytes for run in runs]
            assert b"".join(found[at] for at in range(len(runs))) == bits(state[key])
            if len(runs) > 1:
                assert {run.nbytes for run in runs[:-1]} == {size}
                assert runs[-1].nbytes <= size


def stored(folder: Path, flipped: int | None = None) -> tuple[Reader, Tensor, bytes]:
    """A tensor of ten runs, with a bit of one of its bytes turned."""
    path, whole = folder / "x.pt", torch.randn(SIZE * 10 // 4)
    torch.save({"w": whole}, path)
    raw = bits(whole)
    if flipped is not None:
        saved = bytearray(path.read_bytes())
        saved[saved.index(raw) + flipped] ^= 1
        path.write_bytes(saved)
    opened = open_checkpoint(path)
    return Reader(opened), opened.entries[""]["w"], raw


@pytest.mark.parametrize("flipped", [0, SIZE - 1, 5 * SIZE, 10 * SIZE - 1])
@pytest.mark.parametrize("order", [list, reversed, lambda runs: random.Random(1).sample(runs, 10)])
def test_a_flipped_bit_is_found_by_who_reads_the_last_run(
    flipped: int, order: Callable[[list[Run]], list[Run]], tmp_path: Path
):
    reader, tensor, _ = stored(tmp_path, flipped)
    with reader:
        *before, last = order(reader.runs(tensor, SIZE))
        for run in before:
            data(run)
        with pytest.raises(Damaged, match="checksum"):
            data(last)


@pytest.mark.parametrize("flipped", [None, 3 * SIZE])
def test_the_same_by_several_threads_at_once(flipped: int | None, tmp_path: Path):
    reader, tensor, raw = stored(tmp_path, flipped)
    together = Barrier(10, timeout=20)

    def at_once(run: Run) -> bytes:
        together.wait()
        return data(run)

    with reader, ThreadPoolExecutor(10) as pool:
        made = [pool.submit(at_once, run) for run in reader.runs(tensor, SIZE)]
        failed = [future.exception() for future in made if future.exception()]
        assert bool(failed) == (flipped is not None)
        assert all(isinstance(problem, Damaged) for problem in failed)
        if not failed:
            assert b"".join(future.result() for future in made) == raw


def test_runs_read_nothing_twice_and_verify_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reader, tensor, raw = stored(tmp_path)
    counts: list[int] = []
    plain = files.Source.read
    monkeypatch.setattr(
        files.Source, "read", lambda self, start, count: (counts.append(count), plain(self, start, count))[1]
    )
    checked: list[int] = []
    verdict = Reader._check
    monkeypatch.setattr(Reader, "_check", lambda self, *found: (checked.append(1), verdict(self, *found))[1])
    with reader:
        for _ in range(2):
            assert b"".join(map(data, reader.runs(tensor, SIZE))) == raw
        assert (sum(counts), len(checked)) == (2 * len(raw), 1)
    counts.clear()
    reader, tensor, raw = stored(tmp_path)
    with reader:
        counts.clear()
        assert b"".join(map(data, reader.runs(tensor, len(raw)))) == raw
        assert (sum(counts), len(checked)) == (len(raw), 2)


@pytest.mark.parametrize("flipped", [None, 0])
def test_runs_of_a_part_of_a_storage_are_verified_with_all_of_it(flipped: int | None, tmp_path: Path):
    reader, tensor, raw = stored(tmp_path, flipped)
    part = tensor._replace(shape=(SIZE,), offset=SIZE)  # the flipped byte is none of its own
    with reader:
        runs = reader.runs(part, SIZE)
        assert len(runs) == 4
        if flipped is None:
            assert b"".join(map(data, runs)) == raw[4 * SIZE : 8 * SIZE]
        else:
            with pytest.raises(Damaged, match="checksum"):
                data(runs[2])


def test_what_must_be_inflated_or_gathered_is_one_run(tmp_path: Path):
    whole = torch.randn(50, 40)
    torch.save({"w": whole, "t": whole.t()}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as old, zipfile.ZipFile(tmp_path / "y.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED if "data/" in name else zipfile.ZIP_STORED)
    for name, key in (("x.pt", "t"), ("y.pt", "w"), ("y.pt", "t")):
        opened = open_checkpoint(tmp_path / name)
        with Reader(opened) as reader:
            (run,) = reader.runs(opened.entries[""][key], SIZE)
            assert data(run) == bits(whole if key == "w" else whole.t())


def test_who_reads_has_its_file_open_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The file that nobody has used for longest is closed first."""
    monkeypatch.setattr(read, "_OPEN_LIMIT", 3)
    opened = []
    for number in range(6):
        torch.save({"w": torch.full((SIZE,), float(number))}, tmp_path / f"{number}.pt")
        opened.append(open_checkpoint(tmp_path / f"{number}.pt"))
    tensors = [each.entries[""]["w"] for each in opened]
    with Reader(*opened) as reader:
        monkeypatch.setattr(read, "PIECE", 400)
        first = reader.chunks(tensors[0])
        pieces = []
        for number in range(1, 6):
            pieces.append(next(first))
            assert reader.read(tensors[number]) == bits(torch.full((SIZE,), float(number)))
            assert len(reader._sources) <= 3
            assert tmp_path / "0.pt" in reader._sources
        assert b"".join([*pieces, *first]) == bits(torch.zeros(SIZE))
