"""What our writers write, torch, safetensors and our own readers read back, bit for bit."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import split_state_dict_into_shards_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save

from ckptconv import dtypes
from ckptconv.containers import open_checkpoint
from ckptconv.containers.plain import plain
from ckptconv.containers.writing import Item, write_safetensors, write_sharded_safetensors, write_torch
from ckptconv.errors import CannotWrite, Damaged, Unsupported
from tests.containers.oracle import DTYPES, TESTS, assert_equal_tensors, assert_same, items, state_dicts, storage_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 120), 1 << 120) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("writing")


# ---- torch


@QUICK
@given(state=state_dicts(), other=st.dictionaries(st.text(), VALUES, max_size=3), nested=st.booleans())
def test_torch_reads_what_we_write(state: dict[str, torch.Tensor], other: dict, nested: bool, folder: Path):
    path = folder / "x.pt"
    other = {key: value for key, value in other.items() if key not in ({"model"} if nested else state)}
    write_torch(path, items(state), "model" if nested else None, other)
    for mmap in (False, True):
        got = torch.load(path, weights_only=True, mmap=mmap)
        inside = got.pop("model") if nested else {key: got.pop(key) for key in list(got) if key not in other}
        assert_equal_tensors(inside, state)
        assert got == other
    if nested:
        opened = open_checkpoint(path)
        assert_same(opened, "model", state)
        assert {key: plain(node) for key, node in opened.other.items()} == other


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_as_torch(dtype: dtypes.DType, tmp_path: Path):
    state = {"w": storage_of(dtype, bytes(range(32))).view(2, -1), "empty": storage_of(dtype, b"")}
    write_torch(tmp_path / "x.pt", items(state), None, {})
    assert_equal_tensors(torch.load(tmp_path / "x.pt", weights_only=True), state)


def test_tied_keys_share_a_storage_aligned_to_64_bytes(tmp_path: Path):
    state = {"a": torch.arange(3.0), "b": torch.arange(5.0), "c": torch.arange(3.0)}
    write_torch(tmp_path / "x.pt", items(state, {"c": "a"}), "weights", {})
    got = torch.load(tmp_path / "x.pt", weights_only=True)["weights"]
    assert_equal_tensors(got, state)
    assert got["a"].untyped_storage().data_ptr() == got["c"].untyped_storage().data_ptr()
    found = open_checkpoint(tmp_path / "x.pt").entries["weights"]
    assert found["a"] == found["c"]
    assert all(tensor.storage.start % 64 == 0 for tensor in found.values())


def test_python_and_the_system_accept_the_zip(tmp_path: Path):
    import zipfile

    write_torch(tmp_path / "x.pt", items({"a": torch.arange(1000), "b": torch.zeros(0)}), "model", {"é": 1})
    with zipfile.ZipFile(tmp_path / "x.pt") as made:
        assert made.testzip() is None
        assert {info.compress_type for info in made.infolist()} == {zipfile.ZIP_STORED}


# ---- safetensors


@QUICK
@given(
    state=state_dicts(lambda dtype: dtype.in_safetensors),
    told=st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), st.text(st.characters(codec="utf-8"))),
)
def test_safetensors_reads_what_we_write(state: dict[str, torch.Tensor], told: dict[str, str], folder: Path):
    state.pop("__metadata__", None)
    write_safetensors(folder / "x.safetensors", items(state), told)
    assert_equal_tensors(load_file(folder / "x.safetensors"), state)
    with safe_open(folder / "x.safetensors", "pt") as opened:
        told.pop("ckptconv.tied", None)
        assert opened.metadata() == told | {"format": "pt"}
    assert_same(open_checkpoint(folder / "x.safetensors"), "", state)


@QUICK
@given(state=state_dicts(lambda dtype: dtype.in_safetensors))
def test_the_bytes_are_the_librarys(state: dict[str, torch.Tensor], folder: Path):
    state = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
    state.pop("__metadata__", None)
    write_safetensors(folder / "x.safetensors", items(state), {})
    assert (folder / "x.safetensors").read_bytes() == save(state, {"format": "pt"})


def test_all_dtypes_at_once_are_ordered_as_the_library_does(tmp_path: Path):
    known = [dtype for dtype in DTYPES if dtype.in_safetensors]
    state = {f"{place}": storage_of(dtype, bytes(range(32))) for place, dtype in enumerate(known)}
    write_safetensors(tmp_path / "x.safetensors", items(state), {})
    assert (tmp_path / "x.safetensors").read_bytes() == save(state, {"format": "pt"})


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if not dtype.in_safetensors], ids=str)
def test_dtypes_that_safetensors_lacks_are_named_before_anything_is_written(dtype: dtypes.DType, tmp_path: Path):
    state = {"fine": torch.zeros(2), "odd.key": storage_of(dtype, bytes(32))}
    with pytest.raises(Unsupported, match=rf"odd\.key.*{dtype.name}.*--dtype"):
        write_safetensors(tmp_path / "x.safetensors", items(state), {})
    with pytest.raises(Unsupported, match=r"odd\.key"):
        write_sharded_safetensors(tmp_path, items(state), {}, 1)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("key", ["__metadata__", "lone \ud800"])
def test_keys_that_safetensors_lacks(key: str, tmp_path: Path):
    with pytest.raises(Unsupported, match="has no such key"):
        write_safetensors(tmp_path / "x.safetensors", items({key: torch.zeros(1)}), {})


def test_tied_keys_are_stored_once_and_restored(tmp_path: Path):
    state = {"a": torch.arange(3.0), "b": torch.arange(5.0), "c": torch.arange(3.0)}
    write_safetensors(tmp_path / "x.safetensors", items(state, {"c": "a"}), {"ckptconv.tied": "stale"})
    assert load_file(tmp_path / "x.safetensors").keys() == {"a", "b"}
    assert_same(open_checkpoint(tmp_path / "x.safetensors"), "", state)


# ---- shards


@QUICK
@given(state=state_dicts(lambda dtype: dtype.in_safetensors), limit=st.integers(0, 300), tie=st.booleans())
def test_shards_are_cut_as_the_hub_cuts_them(state: dict[str, torch.Tensor], limit: int, tie: bool, tmp_path_factory):
    state = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
    state.pop("__metadata__", None)
    if not state:
        return
    folder = tmp_path_factory.mktemp("shards")
    kept = next(iter(state))
    tied = {"tied to it": kept} if tie and "tied to it" not in state else {}
    names = write_sharded_safetensors(
        folder, items({**state, **{a: state[b] for a, b in tied.items()}}, tied), {}, limit
    )
    truth = split_state_dict_into_shards_factory(
        state,
        get_storage_size=lambda tensor: tensor.numel() * tensor.element_size(),
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=limit,
    )
    assert set(names) - {"model.safetensors.index.json"} == truth.filename_to_tensors.keys()
    assert sorted(os.listdir(folder)) == sorted(names)
    for name, keys in truth.filename_to_tensors.items():
        assert_equal_tensors(load_file(folder / name), {key: state[key] for key in keys})
    assert_same(open_checkpoint(folder), "", {**state, **{alias: state[key] for alias, key in tied.items()}})
    if truth.is_sharded:
        assert names[-1] == "model.safetensors.index.json"
        index = json.loads((folder / names[-1]).read_text())
        assert index == {"metadata": truth.metadata, "weight_map": truth.tensor_to_filename}


# ---- all of them


WRITERS = {
    "torch": lambda path, given: write_torch(path, given, None, {}),
    "safetensors": lambda path, given: write_safetensors(path, given, {}),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("pieces", [[b"1234567"], [b"12345678", b"9"], [], [b"123456789"]])
def test_an_item_that_yields_other_bytes_than_its_shape_is_refused(writer: str, pieces: list[bytes], tmp_path: Path):
    item = Item("some.key", dtypes.F32, (2,), lambda: pieces)
    with pytest.raises(Damaged, match=r"some\.key of type F32 and shape \(2,\) takes 8 bytes"):
        WRITERS[writer](tmp_path / "x", [item])


@pytest.mark.parametrize("writer", WRITERS)
def test_contradictions_of_the_caller(writer: str, tmp_path: Path):
    one = items({"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(2)})
    for tied in ({"b": "a"}, {"a": "z"}, {"a": "c", "c": "a"}):
        with pytest.raises(ValueError, match="is tied to"):
            WRITERS[writer](tmp_path / "x", [Item(i.key, i.dtype, i.shape, i.chunks, tied.get(i.key)) for i in one])
    with pytest.raises(ValueError, match="the same key"):
        WRITERS[writer](tmp_path / "x", [*one, one[0]])
    with pytest.raises(ValueError, match="beside the state dict"):
        write_torch(tmp_path / "x", one, None, {"a": 1})
    with pytest.raises(TypeError, match="Path"):
        write_torch(tmp_path / "x", one, "model", {"cfg": {"deep": [Path()]}})


def test_the_same_input_gives_the_same_bytes(tmp_path: Path):
    """Under other hash seeds, locales, time zones and folders."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom ckptconv import dtypes\n"
        "from ckptconv.containers.writing import Item, write_safetensors, write_torch, write_sharded_safetensors\n"
        "given = [Item(key, dtypes.F32, (2,), lambda: [b'12345678']) for key in ('b', 'é', 'a')]\n"
        "given.append(Item('t', dtypes.F32, (2,), list, 'a'))\n"
        "folder = Path(sys.argv[1])\n"
        "write_torch(folder / 'x.pt', given, 'model', {'z': 1, 'y': {'b': 2, 'a': 3}})\n"
        "write_sharded_safetensors(folder, given, {'z': '1', 'a': '2'}, 8)\n"
    )
    made = []
    for number, settings_ in enumerate(
        ({"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo"}, {"PYTHONHASHSEED": "2", "LC_ALL": "C"})
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        environment = {**os.environ, **settings_}
        subprocess.run([sys.executable, "-c", program, folder], env=environment, cwd=TESTS.parent, check=True)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1]
    assert len(made[0]) == 5


def test_a_full_disk_is_told(tmp_path: Path):
    from ckptconv.containers.writing.output import Output

    with pytest.raises(CannotWrite, match="no space left"), Output(Path("/dev/full"), 4) as output:
        output.write(b"1234")
    limited = (
        "import resource, signal, sys\nfrom pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from ckptconv.containers.writing.output import Output\n"
        "Output(Path(sys.argv[1]), 5000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, tmp_path / "x"], capture_output=True, text=True, cwd=TESTS.parent, check=False
    )
    assert (
        "x can't be written: no space left for its 5,000 bytes, more than one file may have (ulimit -f" in done.stderr
    )


def test_a_write_that_writes_nothing_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from ckptconv.containers.writing.output import write_file

    monkeypatch.setattr(os, "write", lambda fd, data: 0)
    with pytest.raises(CannotWrite, match="x can't be written: Input/output error"):
        write_file(tmp_path / "x", b"1234")


def test_what_closing_says_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Behind an fsync; and Linux has closed the file, whatever it says."""
    from ckptconv.containers.writing.output import write_file

    real = os.close

    def interrupted(fd: int) -> None:
        real(fd)
        raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", interrupted)
        write_file(tmp_path / "x", b"1234")
    assert (tmp_path / "x").read_bytes() == b"1234"
