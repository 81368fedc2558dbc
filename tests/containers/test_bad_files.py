"""Files that are no checkpoint, are damaged or lie: one sentence each, quickly, and nothing hangs."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from ckptconv.containers import open_checkpoint
from ckptconv.containers.read import Reader
from ckptconv.errors import CkptconvError, Damaged, NotACheckpoint, Unsafe, Unsupported
from ckptconv.text import printable
from tests.containers.oracle import TESTS, bits

STATE = {"a": torch.arange(10.0), "b": torch.ones(3, 4), "c": torch.tensor(7)}


def saved(zipped: bool = True) -> bytes:
    data = io.BytesIO()
    torch.save(STATE, data, _use_new_zipfile_serialization=zipped)
    return data.getvalue()


WHOLE = {"zip": saved(), "legacy": saved(False), "safetensors": save(STATE)}


def refused(data: bytes, folder: Path, error: type[CkptconvError] = CkptconvError) -> str:
    """The sentence that the file gets."""
    path = folder / "bad"
    path.write_bytes(data)
    with pytest.raises(error) as caught:
        open_checkpoint(path)
    assert caught.value.path == str(path)
    assert caught.value.message.startswith(str(path))
    assert_harmless(caught.value)
    return caught.value.message


def assert_harmless(problem: CkptconvError) -> None:
    """Nothing in the sentence that a terminal would obey."""
    assert printable(problem.message, 1 << 20) == problem.message


# ---- no checkpoint


def _tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as made:
        made.addfile(tarfile.TarInfo("storages"))
    return data.getvalue()


def _npz() -> bytes:
    data = io.BytesIO()
    np.savez(data, a=np.zeros(3))
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is an empty file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a git-lfs pointer, not the weights: run git lfs",
        ),
        (b"\n<!DOCTYPE html><html>", "is an HTML page"),
        (b"<html>", "is an HTML page"),
        (_tar(), "is a tar archive"),
        (_npz(), "is a zip file, but not one of torch's"),
        (b"PK\5\6" + bytes(18), "is an empty zip file"),
        (b"\x1f\x8b" + bytes(20), "gzip"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "zstd"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"GGUF" + bytes(20), "GGUF"),
        (b"\x93NUMPY\1\0", "numpy"),
        (bytes(100_000), "nothing but zeros"),
        (b"hello, world\n", "is a text file"),
        (b'{"a": 1}', "no weight_map"),
        (b'{"a": {"b": 1}', "is not JSON"),
        (b"\xde\xad\xbe\xef" * 10, "is no torch, safetensors or sharded checkpoint"),
    ],
)
def test_what_a_file_is_is_told(data: bytes, told: str, tmp_path: Path):
    assert told in refused(data, tmp_path)


@pytest.mark.parametrize(
    "data", [b"\x80\x04\x95\x02\0\0\0\0\0\0\0}.", b"\x80\x02}.", b"\x80\x03N.", b"\x80\x05].", b"\x80\x02K\1."]
)
def test_bare_pickles_without_arrays_are_told(data: bytes, tmp_path: Path):
    assert "not Paddle's" in refused(data, tmp_path, NotACheckpoint)


def test_whole_pickled_modules_are_refused_by_name(tmp_path: Path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(Unsafe, match=r"torch\.nn\.modules\.linear\.Linear"):
        open_checkpoint(tmp_path / "x.pt")


def test_paths_that_cannot_be_opened(tmp_path: Path):
    for path, told in ((tmp_path / "none", "No such file"), (tmp_path / "a\nb\x1b[31m", r"a\\x0ab\\x1b\[31m")):
        with pytest.raises(NotACheckpoint, match=told):
            open_checkpoint(path)
    with pytest.raises(NotACheckpoint, match="no weights"):
        open_checkpoint(tmp_path)
    with pytest.raises(NotACheckpoint):
        open_checkpoint(str(tmp_path / "x") + "\0")


@pytest.mark.parametrize("path", ["fifo", "/dev/zero", "/dev/tty", "socket"])
def test_files_that_would_hang_are_refused_at_once(path: str, tmp_path: Path):
    program = "import sys\nfrom ckptconv.containers import open_checkpoint\nopen_checkpoint(sys.argv[1])"
    if path == "fifo":
        os.mkfifo(tmp_path / path)
    if path == "socket":
        import socket

        socket.socket(socket.AF_UNIX).bind(str(tmp_path / path))
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / path], capture_output=True, timeout=20, check=False
    )
    assert b"NotACheckpoint" in done.stderr


# ---- damaged


@pytest.mark.parametrize("kind", WHOLE)
def test_every_truncation_is_refused(kind: str, tmp_path: Path):
    whole = WHOLE[kind]
    for cut in (*range(0, len(whole) - 200, 5), *range(len(whole) - 200, len(whole))):
        refused(whole[:cut], tmp_path)
    for sentence in (refused(whole[:-1], tmp_path), refused(whole[: len(whole) // 2], tmp_path)):
        assert any(word in sentence for word in ("truncated", "cut off", "damaged"))


@pytest.mark.parametrize("kind", WHOLE)
def test_bytes_behind_the_end_are_refused(kind: str, tmp_path: Path):
    for more in (b"\0", b"PK\5\6", WHOLE[kind]):
        refused(WHOLE[kind] + more, tmp_path, Damaged)


@pytest.mark.parametrize("kind", WHOLE)
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_change_is_an_error_or_the_right_shape(kind: str, data: st.DataObject, tmp_path: Path):
    """Some bytes replaced anywhere: a sentence, or tensors whose bytes can be read."""
    changed = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + 8] = data.draw(st.binary(min_size=1, max_size=8))
    (tmp_path / "x").write_bytes(changed)
    try:
        opened = open_checkpoint(tmp_path / "x")
        with Reader(opened) as reader:
            for tensors in opened.entries.values():
                for tensor in tensors.values():
                    if tensor.nbytes < 1 << 20:
                        assert len(reader.read(tensor)) == tensor.nbytes
    except CkptconvError as problem:
        assert_harmless(problem)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(head=st.sampled_from([b"", *[whole[:40] for whole in WHOLE.values()]]), data=st.binary(max_size=300))
def test_random_bytes(head: bytes, data: bytes, tmp_path: Path):
    refused(head + data, tmp_path)


# ---- safetensors that lie


def header(told: object, data: bytes = bytes(8), length: int | None = None) -> bytes:
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: object, end: object, shape: object = (1,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("data", "error", "told"),
    [
        (header({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)), Damaged, "overlaps"),
        (header({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)), Damaged, "overlaps"),
        (header({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), Damaged, "leaves 4 unused bytes"),
        (header({"a": entry(4, 8)}), Damaged, "leaves 4 unused bytes"),
        (header({"a": entry(0, 4)}), Damaged, "4 bytes follow"),
        (header({"a": entry(0, 16, [4])}), Damaged, "truncated"),
        (header({"a": entry(0, 8)}), Damaged, "takes 4 bytes, it has 8"),
        (header({"a": entry(8, 0)}), Damaged, "takes 4 bytes, it has -8"),
        (header({"a": entry(0, 8, [1 << 62, 1 << 62])}), Damaged, "takes"),
        (header({"a": entry(0, 8, [1 << 64])}), Damaged, "shape"),
        (header({"a": entry(0, 8, [-1])}), Damaged, "shape"),
        (header({"a": entry(0, 8, [2.0])}), Damaged, "shape"),
        (header({"a": entry(0, 8, [True, 2])}), Damaged, "shape"),
        (header({"a": entry(0, 8, "2")}), Damaged, "shape"),
        (header({"a": entry(0, None)}), Damaged, "offsets"),
        (header({"a": entry(0, 8, dtype="F31")}), Unsupported, "unknown type F31"),
        (header({"a": entry(0, 8, dtype=["F32"])}), Damaged, "type that is no text"),
        (header({"a": entry(0, 8, dtype="C128")}), Unsupported, "unknown type C128"),
        (header({"a": entry(0, 8, [16], "F4")}), Unsupported, "packed type F4"),
        (header({"a": 3}), Damaged, "no JSON object"),
        (header({"__metadata__": {"a": 1}, "a": entry(0, 8, [2])}), Damaged, "__metadata__"),
        (header({"__metadata__": [], "a": entry(0, 8, [2])}), Damaged, "__metadata__"),
        (header(b"[]"), NotACheckpoint, "is no torch"),
        (header(b'{"a":1,"a":2}'), Damaged, "the key 'a' twice"),
        (header(b'{"a":{"dtype":"F32","dtype":"F32"}}'), Damaged, "the key 'dtype' twice"),
        (header(b'{"a":1,"\\u0061":2}'), Damaged, "twice"),
        (header(b"{} {}"), Damaged, "is not JSON"),
        (header(b"{"), Damaged, "is not JSON"),
        (header(b'{"\xff":1}'), Damaged, "is not UTF-8"),
        (header(b'{"a":' + b"[" * 100_000), Damaged, "nested too deeply"),
        (header(b'{"a":' + b"1" * 5000 + b"}"), Damaged, "number of 5000 digits"),
        (header(b'{"a":[' + b"[]," * 3_000_000), Damaged, "more values"),
        (header({}, length=200_000_000), Damaged, "claims 200,000,000 bytes"),
        (header({}, length=2000), Damaged, "truncated"),
        (header({}, length=(1 << 64) - 1), Damaged, "claims"),
    ],
)
def test_headers_that_lie(data: bytes, error: type[CkptconvError], told: str, tmp_path: Path):
    assert told in refused(data, tmp_path, error)


# ---- zips that lie


def rezip(change: dict[str, bytes | None], name: str = "archive/") -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(WHOLE["zip"])) as old, zipfile.ZipFile(data, "w") as new:
        contents = {info.filename.partition("/")[2]: old.read(info) for info in old.infolist()}
        for record, content in {**contents, **change}.items():
            if content is not None:
                new.writestr(name + record, content)
    return data.getvalue()


def test_zips_without_what_they_need(tmp_path: Path):
    assert "lacks" in refused(rezip({"data/1": None}), tmp_path, Damaged)
    assert "of which the file has 3" in refused(rezip({"data/0": b"abc"}), tmp_path, Damaged)
    assert "byte order is middle" in refused(rezip({"byteorder": b"middle"}), tmp_path, Damaged)
    assert "several data.pkl" in refused(rezip({"more/data.pkl": b"N."}), tmp_path, Damaged)
    flipped = WHOLE["zip"].replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3")
    assert "checksum of its record" in refused(flipped, tmp_path, Damaged)
    pickled = WHOLE["zip"][WHOLE["zip"].index(b"\x80\x02}") :]
    pickled = pickled[: pickled.index(b"PK\7\10")]
    assert "bytes follow" in refused(rezip({"data.pkl": pickled + b"x"}), tmp_path, Damaged)


def test_two_records_of_one_name(tmp_path: Path):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        made.writestr("archive/data.pkl", b"N.")
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr("archive/data.pkl", b"N.")
    assert "two records named archive/data.pkl" in refused(data.getvalue(), tmp_path, Damaged)


def _patched(at: int, value: bytes, data: bytes | None = None) -> bytes:
    made = bytearray(WHOLE["zip"] if data is None else data)
    made[at : at + len(value)] = value
    return bytes(made)


def test_headers_that_contradict_the_directory(tmp_path: Path):
    plain = rezip({})
    record = plain.index(b"archive/data/0") - 30  # its local header; its name comes again in the directory
    central = plain.rindex(b"archive/data/0") - 46
    assert "contradicts" in refused(_patched(record + 8, b"\x08\0", plain), tmp_path, Damaged)  # method
    assert "contradicts" in refused(_patched(record + 14, b"abcd", plain), tmp_path, Damaged)  # checksum
    assert "contradicts" in refused(_patched(record + 18, b"\1\0\0\0", plain), tmp_path, Damaged)  # size
    assert "has no record" in refused(_patched(record + 30, b"brchive", plain), tmp_path, Damaged)  # name
    (place,) = struct.unpack_from("<I", plain, central + 42)
    moved = _patched(central + 42, struct.pack("<I", place + 1), plain)
    assert "has no record" in refused(moved, tmp_path, Damaged)
    assert "two sizes" in refused(_patched(central + 20, b"\1\0\0\0", plain), tmp_path, Damaged)
    assert "encrypted" in refused(_patched(central + 8, b"\1", plain), tmp_path, Unsupported)
    assert "unusual way" in refused(_patched(central + 10, b"\x0c", plain), tmp_path, Unsupported)
    assert "contradicts" in refused(_patched(central + 16, b"abcd", plain), tmp_path, Damaged)
    sizes = _patched(central + 20, struct.pack("<2I", 1 << 30, 1 << 30), plain)
    assert "runs into the directory" in refused(sizes, tmp_path, Damaged) or "contradicts" in refused(sizes, tmp_path)


def test_a_local_extra_length_that_lies_shows_in_the_checksum(tmp_path: Path):
    """torch reads other bytes silently."""
    whole = WHOLE["zip"]
    record = whole.index(b"archive/data/0") - 30
    (extra,) = struct.unpack_from("<H", whole, record + 28)
    changed = _patched(record + 28, struct.pack("<H", extra - 4))
    (tmp_path / "x.pt").write_bytes(changed)
    opened = open_checkpoint(tmp_path / "x.pt")
    assert bits(torch.load(tmp_path / "x.pt", weights_only=True)["a"]) != bits(STATE["a"])
    with Reader(opened) as reader, pytest.raises(Damaged, match="checksum"):
        reader.read(opened.entries[""]["a"])


def test_records_that_overlap(tmp_path: Path):
    """Two names for the same bytes, as in a zip bomb that reuses one record."""
    plain = rezip({})
    first, second = (plain.rindex(name) - 46 for name in (b"archive/data/0", b"archive/data/1"))
    (place,) = struct.unpack_from("<I", plain, first + 42)
    assert "overlaps" in refused(_patched(second + 42, struct.pack("<I", place), plain), tmp_path, Damaged)


def test_zip_bombs(tmp_path: Path):
    for size, error in ((10 << 20, Unsafe), (100 << 20, Unsupported)):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("archive/data.pkl", bytes(size))
        refused(data.getvalue(), tmp_path, error)


def test_directories_that_lie(tmp_path: Path):
    whole = rezip({})
    end = len(whole) - 22
    for at, value in ((8, b"\7\0"), (10, b"\x07\0\x07\0"), (12, b"\1\0\0\0"), (16, b"\1\0\0\0"), (20, b"\1\0")):
        refused(_patched(end + at, value, whole), tmp_path, Damaged)
    assert "isn't where its end record says" in refused(whole[:end] + b"junk" + whole[end:], tmp_path, Damaged)
    wide = len(WHOLE["zip"]) - 22 - 20 - 56
    for at in (0, 4, 24, 32, 40, 48, 56 + 8, 56 + 16):
        refused(_patched(wide + at, b"\x55\x55"), tmp_path, CkptconvError)


# ---- legacy files that lie


def test_legacy_lists_and_sizes_that_lie(tmp_path: Path):
    legacy = WHOLE["legacy"]
    keys = legacy.rindex(b"]q\0(")
    key = legacy.index(b"X", keys)
    digit = key + 6
    assert "list of storages" in refused(_patched(digit, b"x", legacy), tmp_path, Damaged)
    numel = legacy.index(b".", keys) + 1
    assert "elements in the" in refused(_patched(numel, b"\x0b", legacy), tmp_path, Damaged)


def test_an_omitted_storage_is_not_read_from_the_heap(tmp_path: Path):
    """torch returns uninitialised memory for a storage that the key list leaves out."""
    legacy = WHOLE["legacy"]
    keys = legacy.rindex(b"]q\0(")
    changed = legacy[:keys] + b"]q\0."
    assert "list of storages" in refused(changed, tmp_path, Damaged)


# ---- views that lie


@pytest.mark.parametrize(
    ("size", "stride", "offset", "good"),
    [
        ("(10,)", "(1,)", "0", True),
        ("(11,)", "(1,)", "0", False),
        ("(10,)", "(1,)", "1", False),
        ("(2,)", "(9,)", "0", True),
        ("(2,)", "(10,)", "0", False),
        ("(0,)", "(99,)", "99", True),
        ("()", "()", "9", True),
        ("()", "()", "10", False),
        ("(1 << 40,)", "(0,)", "0", True),
        ("(1 << 62, 1 << 62)", "(1, 1)", "0", False),
        ("(2,)", "(-1,)", "1", False),
        ("(-1,)", "(1,)", "0", False),
        ("(2,)", "(1,)", "-1", False),
        ("(2,)", "(1, 1)", "0", False),
        ("(True,)", "(1,)", "0", False),
        ("(2.0,)", "(1,)", "0", False),
        ("[2]", "(1,)", "0", False),
        ("(1,) * 65", "(1,) * 65", "0", False),
        ("None", "(1,)", "0", False),
        ("(2,)", "(1,)", "None", False),
        ("(2,)", "(1 << 100,)", "0", False),
    ],
)
def test_views_are_checked_against_their_storage(size: str, stride: str, offset: str, good: bool, tmp_path: Path):
    import pickle

    class View:
        def __reduce__(self) -> tuple[object, ...]:
            import collections

            told = (Storage(), eval(offset), eval(size), eval(stride), False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, told

    class Storage: ...

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", 10) if isinstance(obj, Storage) else None

    data = io.BytesIO()
    Pickler(data, 2).dump({"some.key": View()})
    changed = rezip({"data.pkl": data.getvalue()})
    if good:
        (tmp_path / "x").write_bytes(changed)
        assert open_checkpoint(tmp_path / "x").entries[""]["some.key"].shape == eval(size)
    else:
        assert "the tensor after key 'some.key'" in refused(changed, tmp_path, Damaged)


@pytest.mark.parametrize(
    "pid",
    [
        "'text'",
        "('storage',)",
        "('module', torch.FloatStorage, '0', 'cpu', 10)",
        "('storage', torch.float32, '0', 'cpu', 10)",
        "('storage', 'FloatStorage', '0', 'cpu', 10)",
        "('storage', torch.FloatStorage, 0, 'cpu', 10)",
        "('storage', torch.FloatStorage, '9', 'cpu', 10)",
        "('storage', torch.FloatStorage, '../0', 'cpu', 10)",
        "('storage', torch.FloatStorage, '0', 'cpu', -1)",
        "('storage', torch.FloatStorage, '0', 'cpu', True)",
        "('storage', torch.FloatStorage, '0', 'cpu', 11)",
        "('storage', torch.FloatStorage, '0', 'cpu', 10, 'view')",
    ],
)
def test_persistent_ids_that_lie(pid: str, tmp_path: Path):
    import pickle

    class Storage: ...

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return eval(pid) if isinstance(obj, Storage) else None

    data = io.BytesIO()
    Pickler(data, 2).dump({"some.key": Storage()})
    refused(rezip({"data.pkl": data.getvalue()}), tmp_path, Damaged)


def test_a_key_twice_is_refused(tmp_path: Path):
    pickled = b"\x80\x02}(X\1\0\0\0aK\1X\1\0\0\0aK\2u."
    assert "the key a twice" in refused(rezip({"data.pkl": pickled}), tmp_path, Damaged)


# ---- what reading touches


_WATCHED = """
import sys
import ckptconv.containers.torch_legacy, ckptconv.containers.torch_zip  # else imported by whom they are for
from ckptconv.containers import open_checkpoint
from ckptconv.containers.read import Reader
from ckptconv.containers.plain import plain
seen = []
sys.addaudithook(lambda event, args: seen.append((event, args)))
opened = open_checkpoint(sys.argv[1])
with Reader(opened) as reader:
    for tensors in opened.entries.values():
        for tensor in tensors.values():
            reader.read(tensor)
for node in opened.other.values():
    plain(node)
opens = {str(args[0]) for event, args in seen if event == "open"}
assert opens == {sys.argv[1]}, opens
kinds = ("socket", "subprocess", "os.system", "os.exec", "os.posix_spawn", "pickle", "exec", "compile", "import")
found = [event for event, _ in seen if event.startswith(kinds)]
assert not found, found
unwanted = {"torch", "numpy", "pickle", "_pickle", "subprocess", "socket", "fairseq", "safetensors", "zipfile"}
assert not unwanted & sys.modules.keys(), unwanted & sys.modules.keys()
"""


@pytest.mark.parametrize("name", ["fairseq-0.8.0_roberta_mlm_fused.pt", "deltalm_finetuned_untied.pt"])
def test_reading_imports_and_opens_nothing_else(name: str):
    """Neither torch nor numpy nor an Unpickler, no socket, no process; no file but the argument."""
    command = [sys.executable, "-c", _WATCHED, TESTS / "golden" / name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
