"""SHA-256 of outputs as they grow: the same as of the finished files, whatever was patched on the way."""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ckptconv.containers import open_checkpoint
from ckptconv.containers.writing import (
    Item,
    write_paddle,
    write_safetensors,
    write_sharded_safetensors,
    write_torch,
)
from ckptconv.containers.writing.output import write_file
from ckptconv.conversion import hashing as module
from ckptconv.conversion.hashing import Hashing, hashing
from ckptconv.dtypes import BY_NAME
from ckptconv.errors import Damaged

SIZES = (0, 5, 1 << 20, 9 << 20, 17 << 20)  # of tensors: smaller and larger than what is hashed at a time


@pytest.fixture
def hashes(tmp_path: Path) -> Iterator[Hashing]:
    torch.save({"a": torch.ones(3)}, tmp_path / "source.pt")
    with hashing(open_checkpoint(tmp_path / "source.pt")) as made:
        yield made


def items() -> list[Item]:
    def chunks(size: int) -> Iterator[bytes]:
        data = hashlib.shake_128(str(size).encode()).digest(min(size, 1 << 20))
        for start in range(0, size, 1 << 20):
            yield data[: size - start]

    return [Item(f"t{size}", BY_NAME["U8"], (size,), lambda size=size: chunks(size)) for size in SIZES]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("m.pt", lambda path, create: write_torch(path, items(), "model", {"args": None}, create)),
        ("m.safetensors", lambda path, create: write_safetensors(path, items(), {}, create)),
        ("m.pdparams", lambda path, create: write_paddle(path, items(), None, create)),
        ("config.json", lambda path, create: write_file(path, b"{}", create)),
        ("empty", lambda path, create: write_file(path, b"", create)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_hash_is_that_of_the_file(name: str, write, hashes: Hashing, tmp_path: Path):
    write(tmp_path / name, hashes.create)
    (made,) = hashes.written({"as named": tmp_path / name})
    data = (tmp_path / name).read_bytes()
    assert (made.name, made.size, made.sha256) == ("as named", len(data), hashlib.sha256(data).hexdigest())


def test_every_shard_has_its_own(hashes: Hashing, tmp_path: Path):
    names = write_sharded_safetensors(tmp_path, items(), {}, 10 << 20, hashes.create)
    assert len(names) > 2
    for made in hashes.written({name: tmp_path / name for name in names}):
        assert made.sha256 == hashlib.sha256((tmp_path / made.name).read_bytes()).hexdigest()


def test_a_torch_file_is_followed_record_by_record(hashes: Hashing, tmp_path: Path):
    kept = []
    write_torch(tmp_path / "m.pt", items(), None, {}, lambda *given: kept.append(hashes.create(*given)) or kept[0])
    assert len(kept[0]._steps) > 2


def test_nobody_waits_for_the_hash_of_a_source_when_the_writing_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save({"a": torch.ones(3)}, tmp_path / "source.pt")
    monkeypatch.setattr(module, "_source_hashes", lambda checkpoint, stop: stop.wait(20))
    start = time.monotonic()
    with pytest.raises(KeyError), hashing(open_checkpoint(tmp_path / "source.pt")):
        raise KeyError
    assert time.monotonic() - start < 10


def test_the_source_is_hashed_meanwhile(hashes: Hashing, tmp_path: Path):
    (made,) = hashes.sources()
    assert made.sha256 == hashlib.sha256((tmp_path / "source.pt").read_bytes()).hexdigest()


def test_a_failure_leaves_no_thread_and_no_hash(tmp_path: Path):
    torch.save({"a": torch.ones(3)}, tmp_path / "source.pt")
    before = threading.active_count()
    short = Item("a", BY_NAME["U8"], (20 << 20,), lambda: iter([bytes(10 << 20)]))
    with hashing(open_checkpoint(tmp_path / "source.pt")) as made:
        with pytest.raises(Damaged):
            write_torch(tmp_path / "m.pt", [short], None, {}, made.create)
        with pytest.raises(KeyError):
            made.written({"m.pt": tmp_path / "m.pt"})
    assert threading.active_count() == before
