"""What our readers find equals what torch and safetensors load, bit for bit."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ckptconv import dtypes
from ckptconv.containers import open_checkpoint, stored_bytes, tensors_in
from ckptconv.containers.read import Reader, check_growth
from ckptconv.errors import CkptconvError, Damaged, NotACheckpoint, Unsafe, Unsupported
from tests.containers.oracle import DTYPES, GOLDEN, assert_same, bits, state_dicts, storage_of, views

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reading")


# ---- against torch


@QUICK
@given(state=state_dicts(), zipped=st.booleans())
def test_torch_files(state: dict[str, torch.Tensor], zipped: bool, folder: Path):
    path = folder / "any.pt"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    opened = open_checkpoint(path)
    assert opened.container == ("torch zip" if zipped else "torch legacy")
    assert_same(opened, "", state)
    views_of = {key: tensor.untyped_storage().data_ptr() for key, tensor in state.items() if tensor.numel()}
    for a in views_of:
        for b in views_of:
            shared = opened.entries[""][a].storage == opened.entries[""][b].storage
            assert shared == (views_of[a] == views_of[b])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("zipped", [True, False])
def test_every_dtype_that_torch_saves(dtype: dtypes.DType, zipped: bool, tmp_path: Path):
    whole = storage_of(dtype, bytes(range(48)))
    numel = 48 // dtype.itemsize
    state = {
        "plain": whole,
        "every other": whole[::2],
        "offset": whole[1:],
        "expanded": whole[:1].expand(3),
        "scalar": whole[0],
        "empty": whole[:0],
        "transposed": whole[: numel // 3 * 3].view(3, -1).t(),
    }
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    assert_same(open_checkpoint(tmp_path / "x.pt"), "", state)


@QUICK
@given(state=state_dicts(lambda dtype: dtype.in_safetensors))
def test_safetensors_files(state: dict[str, torch.Tensor], folder: Path):
    state = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
    state.pop("__metadata__", None)
    save_file(state, folder / "any.safetensors", metadata={"é": "\n"})
    opened = open_checkpoint(folder / "any.safetensors")
    assert_same(opened, "", state)
    assert opened.metadata == {"é": "\n"}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_files_of_the_real_software(path: Path):
    opened = open_checkpoint(path)
    if path.suffix == ".safetensors":
        assert_same(opened, "", load_file(path))
        return
    truth = _torch_load(path)
    for entry in opened.entries:
        inside = truth[entry] if entry else truth
        assert_same(opened, entry, {key: value for key, value in inside.items() if torch.is_tensor(value)})
    rest = {key for key in truth if key not in opened.entries and not torch.is_tensor(truth[key])}
    assert "" in opened.entries or rest <= opened.other.keys()


def _torch_load(path: Path) -> dict:
    """torch's own view of a file; classes that no longer exist become empty shells."""

    class Shell:
        def __init__(self, *args: object) -> None: ...

        def __setstate__(self, state: object) -> None: ...

    class Tolerant(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            if module.startswith(("fairseq", "omegaconf")):
                return Shell
            return super().find_class(module, name)

    class Module:
        Unpickler, load, dumps = Tolerant, pickle.load, pickle.dumps

    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=Module)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(protocol: int, tmp_path: Path):
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(True)}
    for zipped in (True, False):
        torch.save({"model": state}, tmp_path / "x", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        assert_same(open_checkpoint(tmp_path / "x"), "model", state)


def test_a_legacy_pickle_longer_than_the_first_read_is_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Wherever the first read cuts the pickles."""
    from ckptconv.containers import torch_legacy

    state = {"a": torch.arange(3), "b": torch.arange(300.0)[::2]}
    other = {"weights": state, "numbers": [1, 300, 70_000, 1 << 40, 0.5], "texts": ("é", b"x", None, True)}
    torch.save(other, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    for first in range(1, 900):
        monkeypatch.setattr(torch_legacy, "_FIRST_READ", first)
        opened = open_checkpoint(tmp_path / "x.pt")
        assert opened.other.keys() == {"numbers", "texts"}
    assert_same(opened, "weights", state)


def test_parameters_subclasses_and_modules_metadata(tmp_path: Path):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    labelled = torch.nn.Parameter(torch.ones(2))
    labelled.note = "attributes are kept by another function"
    state = OrderedDict(module.state_dict())
    state._metadata = module.state_dict()._metadata
    state.update(parameter=torch.nn.Parameter(torch.zeros(2)), labelled=labelled, buffer=torch.nn.Buffer(torch.ones(1)))
    torch.save(state, tmp_path / "x.pt")
    assert_same(open_checkpoint(tmp_path / "x.pt"), "", state)


def test_other_devices_and_a_missing_byte_order(tmp_path: Path):
    torch.save({"w": torch.arange(4.0)}, tmp_path / "x.pt")
    change_zip(
        tmp_path / "x.pt", {"data.pkl": lambda data: data.replace(b"\3\0\0\0cpu", b"\6\0\0\0cuda:3"), "byteorder": None}
    )
    assert_same(open_checkpoint(tmp_path / "x.pt"), "", {"w": torch.arange(4.0)})


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype.itemsize > 1], ids=str)
def test_big_endian(dtype: dtypes.DType, tmp_path: Path):
    whole = storage_of(dtype, bytes(range(96)))
    state = {"w": whole, "v": whole[: 96 // dtype.itemsize // 2 * 2].view(-1, 2).t()}
    torch.save(state, tmp_path / "x.pt")
    part = dtype.itemsize // 2 if dtype.name.startswith("C") else dtype.itemsize

    def turn(data: bytes) -> bytes:
        return b"".join(data[at : at + part][::-1] for at in range(0, len(data), part))

    change_zip(tmp_path / "x.pt", {"byteorder": lambda _: b"big", "data/0": turn})
    assert_same(open_checkpoint(tmp_path / "x.pt"), "", state)


def test_deflated_records(tmp_path: Path):
    state = {"w": torch.arange(100_000), "zero": torch.zeros(3, 1000), "t": torch.arange(60.0).view(6, 10).t()}
    torch.save(state, tmp_path / "x.pt")
    change_zip(tmp_path / "x.pt", {}, zipfile.ZIP_DEFLATED)
    assert_same(open_checkpoint(tmp_path / "x.pt"), "", state)


def test_files_without_checksums_are_told(tmp_path: Path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(4.0)}, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    opened = open_checkpoint(tmp_path / "x.pt")
    assert_same(opened, "", {"w": torch.arange(4.0)})
    assert any("without checksums" in note for note in opened.notes)


def test_a_storage_that_is_a_part_of_another(tmp_path: Path):
    """torch before 0.4: the sixth part of a persistent id is (key, offset, numel)."""
    data = io.BytesIO()
    torch.save({"w": torch.arange(10.0)}, data, _use_new_zipfile_serialization=False)
    raw = data.getvalue()
    at = raw.index(b"Ntq")  # None, the end of the tuple, the memo
    part = b"(X\1\0\0\0vK\3K\4t"
    shape = raw.index(b"K\x0a\x85", at)
    changed = raw[:at] + part + raw[at + 1 : shape] + b"K\x04\x85" + raw[shape + 3 :]
    (tmp_path / "x.pt").write_bytes(changed)
    assert_same(open_checkpoint(tmp_path / "x.pt"), "", torch.load(io.BytesIO(changed), weights_only=False))
    assert torch.load(io.BytesIO(changed), weights_only=False)["w"].tolist() == [3.0, 4.0, 5.0, 6.0]


def change_zip(path: Path, changes: dict, method: int = zipfile.ZIP_STORED) -> None:
    """Rewrites a zip with Python's own library; a change of None drops the record."""
    with zipfile.ZipFile(path) as old:
        contents = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w", method) as new:
        for name, data in contents.items():
            change = changes.get(name.partition("/")[2], lambda same: same)
            if change is not None:
                new.writestr(name, change(data))


# ---- what can't be converted is named


def _unsupported() -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = torch.eye(3)
        return {
            "sparse": dense.to_sparse(),
            "compressed": dense.to_sparse_csr(),
            "quantised": torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8),
            "meta": dense.to("meta"),
            "nested": torch.nested.nested_tensor([dense, dense[:2]]),
            "conjugated": torch.zeros(2, dtype=torch.complex64).conj(),
            "negated": torch.zeros(2, dtype=torch.complex64).conj().imag,
        }


@pytest.mark.parametrize("kind", _unsupported())
def test_tensors_that_are_not_strided_are_named(kind: str, tmp_path: Path):
    torch.save({"fine": torch.zeros(2), "odd.\x1b[31mone": _unsupported()[kind]}, tmp_path / "x.pt")
    with pytest.raises(Unsupported, match=r"odd\.\\x1b\[31mone"):
        open_checkpoint(tmp_path / "x.pt")
    torch.save({"model": {"fine": torch.zeros(2)}, "optimizer": {"state": _unsupported()[kind]}}, tmp_path / "y.pt")
    assert_same(open_checkpoint(tmp_path / "y.pt"), "model", {"fine": torch.zeros(2)})


# ---- entries and others


def test_which_entries_are_state_dicts(tmp_path: Path):
    weights = {"a": torch.ones(2), "b": torch.ones(3), "note": "x"}
    whole = {
        "model": weights,
        "ema": OrderedDict(weights),
        "optimizer": {"exp_avg": torch.ones(2)},
        "last_optimizer_state": {"0": torch.ones(2)},
        "by number": {0: torch.ones(2)},
        "empty": {},
        "epoch": 3,
        "loss": torch.tensor(1.0),
    }
    torch.save(whole, tmp_path / "x.pt")
    opened = open_checkpoint(tmp_path / "x.pt")
    assert {entry: list(tensors) for entry, tensors in opened.entries.items()} == {
        "model": ["a", "b"],
        "ema": ["a", "b"],
    }
    others = {"optimizer", "last_optimizer_state", "by number", "empty", "epoch", "loss", "model.note", "ema.note"}
    assert opened.other.keys() == others
    everything = [*opened.entries["model"].values()] + [
        tensor for node in opened.other.values() for tensor in tensors_in(node)
    ]
    assert stored_bytes(everything) == 4 * (2 + 3 + 2 + 2 + 2 + 1)


def test_a_checkpoint_that_is_no_dict_has_no_entries(tmp_path: Path):
    torch.save([torch.zeros(3), torch.zeros(4)], tmp_path / "x.pt")
    opened = open_checkpoint(tmp_path / "x.pt")
    assert opened.entries == {}
    assert [tensor.shape for tensor in tensors_in(opened.other[""])] == [(3,), (4,)]


# ---- the reader


@QUICK
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_any_part_of_a_tensor(data: st.DataObject, dtype: dtypes.DType, folder: Path):
    tensor = data.draw(views(dtype))
    torch.save({"w": tensor}, folder / "part.pt")
    opened = open_checkpoint(folder / "part.pt")
    truth = bits(tensor)
    start = data.draw(st.integers(0, len(truth)))
    stop = data.draw(st.integers(start, len(truth)))
    with Reader(opened) as reader:
        assert b"".join(reader.chunks(opened.entries[""]["w"], start, stop)) == truth[start:stop]


@pytest.mark.parametrize("name", ["transposed", "sliced", "column", "permuted", "expanded", "overlapping", "far apart"])
def test_large_views_come_in_pieces(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Small limits, so that every way of cutting is taken."""
    from ckptconv.containers import files, gather, read

    monkeypatch.setattr(read, "BOX", 20_000)
    monkeypatch.setattr(read, "PIECE", 4096)
    monkeypatch.setattr(gather, "_READ", 3000)
    monkeypatch.setattr(gather, "_GAP", 700)
    whole = torch.randn(120, 210)
    view = {
        "transposed": whole.t(),
        "sliced": whole[:, ::2],
        "column": whole[:, 3:4],
        "permuted": whole.view(120, 21, 10).permute(2, 0, 1),
        "expanded": whole[:1].expand(300, 210),
        "overlapping": whole.view(-1).unfold(0, 50, 7),
        "far apart": whole.view(2, 60, 210)[:, ::30, 1::100],
    }[name]
    torch.save({"w": view}, tmp_path / "x.pt")
    opened = open_checkpoint(tmp_path / "x.pt")
    read_at_once: list[int] = []
    plain_read = files.Source.read
    monkeypatch.setattr(
        files.Source, "read", lambda self, start, count: (read_at_once.append(count), plain_read(self, start, count))[1]
    )
    with Reader(opened) as reader:
        pieces = list(reader.chunks(opened.entries[""]["w"]))
        assert b"".join(pieces) == bits(view)
        assert max(map(len, pieces)) <= 4096
        assert max(read_at_once) <= 4096
        part = b"".join(reader.chunks(opened.entries[""]["w"], 21, view.numel() * 4 - 3))
        assert part == bits(view)[21:-3]


def test_equal_compares_bits(tmp_path: Path):
    nan = float("nan")
    state = {"a": torch.tensor([0.0, nan]), "b": torch.tensor([0.0, nan]), "c": torch.tensor([-0.0, nan])}
    state |= {"d": state["a"].view(1, 2), "e": torch.tensor([0.0, nan], dtype=torch.float64)}
    state |= {"i": torch.zeros(2), "j": torch.zeros(2, dtype=torch.int32)}
    state |= {"f": torch.arange(600_000).view(2, -1).t(), "g": torch.arange(600_000).view(2, -1).t().contiguous()}
    torch.save(state, tmp_path / "x.pt")
    opened = open_checkpoint(tmp_path / "x.pt")
    found = opened.entries[""]
    with Reader(opened) as reader:
        assert reader.equal(found["a"], found["b"])
        assert reader.equal(found["a"], found["a"])
        assert reader.equal(found["f"], found["g"])
        assert not reader.equal(found["i"], found["j"])
        assert not any(reader.equal(found["a"], found[other]) for other in "cde")


@pytest.mark.parametrize("view", ["whole", "part", "strided"])
def test_a_flipped_bit_is_found(view: str, tmp_path: Path):
    whole = torch.arange(1000.0)
    torch.save({"w": {"whole": whole, "part": whole[:3], "strided": whole[:3:2]}[view]}, tmp_path / "x.pt")
    opened = open_checkpoint(tmp_path / "x.pt")
    damaged = bytearray((tmp_path / "x.pt").read_bytes())
    damaged[opened.entries[""]["w"].storage.start + 3999] ^= 1
    (tmp_path / "x.pt").write_bytes(damaged)
    opened = open_checkpoint(tmp_path / "x.pt")
    with Reader(opened) as reader, pytest.raises(Damaged, match="checksum"):
        reader.read(opened.entries[""]["w"])


@pytest.mark.parametrize("before", [True, False])
def test_a_file_that_changes_is_noticed(before: bool, tmp_path: Path):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.arange(1000.0)}, path)
    opened = open_checkpoint(path)
    with Reader(opened) as reader:
        if not before:
            reader.read(opened.entries[""]["w"])
        torch.save({"w": torch.arange(1001.0)}, tmp_path / "y.pt")
        if before:
            (tmp_path / "y.pt").replace(path)
        else:
            path.write_bytes((tmp_path / "y.pt").read_bytes())
        with pytest.raises(Damaged, match="changed"):
            reader.read(opened.entries[""]["w"])


def test_a_tensor_far_larger_than_its_file_is_refused_on_request(tmp_path: Path):
    torch.save({"w": torch.zeros(1).expand(1 << 40)}, tmp_path / "x.pt")
    opened = open_checkpoint(tmp_path / "x.pt")
    with pytest.raises(Unsafe, match="4,398,046,511,104"):
        check_growth(opened, opened.entries[""].values())
    check_growth(opened, [])


# ---- shards and folders


def _shards(folder: Path, container: str) -> dict[str, torch.Tensor]:
    state = {"a": torch.ones(2), "b": torch.arange(3), "c": torch.zeros(0)}
    name = f"model-{{}}.{container}" if container == "safetensors" else f"pytorch_model-{{}}.{container}"
    save = save_file if container == "safetensors" else torch.save
    save({"a": state["a"], "c": state["c"]}, folder / name.format(1))
    save({"b": state["b"]}, folder / name.format(2))
    weight_map = {"a": name.format(1), "b": name.format(2), "c": name.format(1)}
    stem = "model.safetensors" if container == "safetensors" else "pytorch_model.bin"
    (folder / f"{stem}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return state


@pytest.mark.parametrize("container", ["safetensors", "bin"])
def test_shards(container: str, tmp_path: Path):
    state = _shards(tmp_path, container)
    opened = open_checkpoint(tmp_path)
    assert opened.container == ("sharded safetensors" if container == "safetensors" else "sharded torch")
    assert_same(opened, "", state)
    assert {path.name for path in opened.files} == {path.name for path in tmp_path.iterdir()}
    assert opened.notes == ()


def test_shards_may_be_links_as_in_the_hub_cache(tmp_path: Path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    state = _shards(tmp_path / "blobs", "safetensors")
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(Path("../blobs") / path.name)
    assert_same(open_checkpoint(tmp_path / "snapshot"), "", state)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda m: m | {"d": "model-1.safetensors"}, Damaged, "lacks d"),
        (lambda m: {k: v for k, v in m.items() if k != "a"}, Damaged, "has a, which"),
        (lambda m: m | {"a": "model-2.safetensors"}, Damaged, "lacks a"),
        (lambda m: m | {"a": "../model-1.safetensors"}, Unsafe, "plain file name"),
        (lambda m: m | {"a": "/etc/passwd"}, Unsafe, "plain file name"),
        (lambda m: m | {"a": "model-1.bin"}, Unsafe, "index's own kind"),
        (lambda m: m | {"a": "model-3.safetensors"}, NotACheckpoint, "No such file"),
        (lambda m: m | {"a": 3}, Damaged, "other than files"),
        (lambda m: {}, NotACheckpoint, "no weight_map"),
    ],
)
def test_indexes_that_lie(change, error: type[CkptconvError], told: str, tmp_path: Path):
    _shards(tmp_path, "safetensors")
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": change(content["weight_map"])}))
    with pytest.raises(error, match=told):
        open_checkpoint(tmp_path)


def test_which_file_of_a_folder_is_taken(tmp_path: Path):
    torch.save({"w": torch.zeros(1)}, tmp_path / "mine.pt")
    torch.save({"w": torch.zeros(1)}, tmp_path / "training_args.bin")
    assert open_checkpoint(tmp_path).path.name == "mine.pt"
    torch.save({"w": torch.zeros(2)}, tmp_path / "yours.pt")
    with pytest.raises(NotACheckpoint, match=r"mine\.pt, yours\.pt"):
        open_checkpoint(tmp_path)
    save_file({"w": torch.zeros(3)}, tmp_path / "model.safetensors")
    torch.save({"w": torch.zeros(4)}, tmp_path / "checkpoint_last.pt")
    opened = open_checkpoint(tmp_path)
    assert opened.path.name == "model.safetensors"
    assert opened.notes == (
        "the directory has several weight files: took model.safetensors, not checkpoint_last.pt, mine.pt, yours.pt",
    )


def test_tied_keys_are_restored_and_lies_ignored(tmp_path: Path):
    state = {"a": torch.ones(2), "b": torch.zeros(3)}
    tied = {"alias": "a", "b": "a", "nowhere": "c", "number": 3}
    save_file(state, tmp_path / "x.safetensors", metadata={"ckptconv.tied": json.dumps(tied)})
    assert_same(open_checkpoint(tmp_path / "x.safetensors"), "", {**state, "alias": state["a"]})
    for lie in ("[", "[]", "3", '"a"', "[" * 100_000):
        save_file(state, tmp_path / "x.safetensors", metadata={"ckptconv.tied": lie})
        assert_same(open_checkpoint(tmp_path / "x.safetensors"), "", state)


def test_unaligned_safetensors_data(tmp_path: Path):
    """The public xlm-roberta-base file has a header of 24,532 bytes: its tensors begin at no multiple of 8."""
    header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  '[:-1]
    assert (8 + len(header)) % 8
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1, 2))
    assert_same(open_checkpoint(tmp_path / "x"), "", {"w": torch.tensor([1.0, 2.0])})
