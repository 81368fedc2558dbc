"""TorchScript archives: what we read without running anything equals what torch.jit.load gives."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaForTokenClassification, XLMRobertaModel

from ckptconv import dtypes
from ckptconv.containers import open_checkpoint
from ckptconv.containers.plain import plain
from ckptconv.containers.read import Reader
from ckptconv.errors import CkptconvError, Damaged, Unsupported
from tests.containers.oracle import DTYPES, TESTS, assert_same, bits, dtype_of, state_dicts, storage_of, views

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
GOLDEN = TESTS / "golden"
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
CONFIG = XLMRobertaConfig(
    vocab_size=45,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=34,
    type_vocab_size=1,
)
IDS = torch.tensor([[0, 5, 9, 11, 2], [0, 7, 8, 2, 1]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torchscript")


def loaded(path: Path) -> dict[str, torch.Tensor]:
    """All parameters and buffers as torch reads them, in its order."""
    module = torch.jit.load(path, map_location="cpu")
    return dict(module.state_dict())


def assert_like_torch(path: Path, attributes: tuple[str, ...] = ()) -> None:
    """The same keys and bits; `attributes`: tensors that are plain attributes, which torch's state dict leaves out."""
    opened = open_checkpoint(path)
    truth = loaded(path)
    assert opened.container == "torchscript"
    assert list(opened.entries) == [""]
    found = opened.entries[""]
    assert {key for key in found if key not in attributes} == truth.keys()
    with Reader(opened) as reader:
        for key, tensor in truth.items():
            assert (found[key].dtype, found[key].shape) == (dtype_of(tensor), tuple(tensor.shape)), key
            assert reader.read(found[key]) == bits(tensor), key
    assert shared(found) == {key: shared_with(key, truth) for key in truth if truth[key].numel()} | {
        key: key for key in attributes
    }


def shared(found: Any) -> dict[str, str]:
    """For every key that isn't empty, the first one (in the order of the alphabet) with the same storage."""
    keys = sorted(key for key in found if found[key].numel)
    return {key: next(other for other in keys if found[other].storage == found[key].storage) for key in keys}


def shared_with(key: str, truth: dict[str, torch.Tensor]) -> str:
    place = truth[key].untyped_storage().data_ptr()
    return min(other for other in truth if truth[other].numel() and truth[other].untyped_storage().data_ptr() == place)


# ---- real models


@pytest.mark.parametrize("model", [XLMRobertaModel, XLMRobertaForTokenClassification, XLMRobertaForMaskedLM])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_traced_models(model: type, dtype: torch.dtype, tmp_path: Path):
    torch.manual_seed(1)
    made = model(CONFIG).to(dtype).eval()
    traced = torch.jit.trace(made, IDS, check_trace=False, strict=False)
    torch.jit.save(traced, tmp_path / "x.pt")
    assert_like_torch(tmp_path / "x.pt")
    found = open_checkpoint(tmp_path / "x.pt").entries[""]
    assert found.keys() >= made.state_dict().keys()
    assert {key.rpartition(".")[2] for key in found.keys() - made.state_dict().keys()} <= {
        "position_ids",
        "token_type_ids",
    }


def test_the_golden_archive():
    assert_like_torch(GOLDEN / "ts_tokcls_5.23.0.torchscript")
    opened = open_checkpoint(GOLDEN / "ts_tokcls_5.23.0.torchscript")
    assert len(opened.entries[""]) == 41
    assert list(opened.other) == ["constants.pkl"]
    assert opened.notes == ()


class Block(torch.nn.Module):
    """Shared weights, shared modules, buffers of both kinds, containers, a script class, values of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.tied = torch.nn.Linear(3, 4)
        self.tied.weight = self.first.weight
        self.same = self.first
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)])
        self.by_name = torch.nn.ModuleDict({"a": torch.nn.Linear(1, 1), "b": torch.nn.Embedding(3, 2)})
        self.register_buffer("transposed", torch.arange(6).view(2, 3).t(), persistent=False)
        self.register_buffer("none", None)
        self.register_buffer("expanded", torch.ones(1).expand(4))
        self.names = torch.jit.Attribute(["a", "b"], list[str])
        self.numbers = torch.jit.Attribute({"x": 1}, dict[str, int])
        self.listed = torch.jit.Attribute([torch.ones(2)], list[torch.Tensor])
        self.mapped = torch.jit.Attribute({"q": torch.ones(2)}, dict[str, torch.Tensor])
        self.paired = torch.jit.Attribute((torch.ones(1), 2), tuple[torch.Tensor, int])
        self.floats = torch.jit.Attribute([1.5, 2.5], list[float])
        self.plain = torch.ones(5)
        self.device, self.dtype, self.text, self.complex = torch.device("cpu"), torch.float32, "x", 1 + 2j

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.tied(x) + self.same(x) + torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_scripted_modules(tmp_path: Path):
    torch.jit.save(torch.jit.script(Block()), tmp_path / "x.pt")
    assert_like_torch(tmp_path / "x.pt", ("plain",))
    opened = open_checkpoint(tmp_path / "x.pt")
    shown = {name: plain(node) for name, node in opened.other.items() if name != "constants.pkl"}
    assert shown == {
        "names": ["a", "b"],
        "numbers": {"x": 1},
        "listed": ["<tensor F32 [2]>"],
        "mapped": {"q": "<tensor F32 [2]>"},
        "paired": ("<tensor F32 [1]>", 2),
        "floats": [1.5, 2.5],
        "device": "<torch.device>",
        "dtype": 6,
        "text": "x",
        "complex": "<builtins.complex>",
    }


def test_scripted_functions_hold_no_state_dict(tmp_path: Path):
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    torch.jit.save(torch.jit.script(function), str(tmp_path / "x.pt"))
    opened = open_checkpoint(tmp_path / "x.pt")
    assert (opened.container, opened.entries, opened.other) == ("torchscript", {}, {})


def test_extra_files_and_archives_for_mobiles(tmp_path: Path):
    scripted = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3)))
    scripted.save(tmp_path / "x.pt", _extra_files={"data.pkl.txt": b"not a pickle"})
    assert_like_torch(tmp_path / "x.pt")
    scripted._save_for_lite_interpreter(str(tmp_path / "x.ptl"))
    found = open_checkpoint(tmp_path / "x.ptl")
    assert_same(found, "", dict(scripted.state_dict()))


# ---- tensors of every kind


class Holder(torch.nn.Module):
    """A module with any buffers."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        for number, tensor in enumerate(tensors):
            self.register_buffer(f"t{number}", tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype.name not in ("BITS2X4", "BITS4X2")], ids=str)
def test_every_dtype(dtype: dtypes.DType, tmp_path: Path):
    whole = storage_of(dtype, bytes(range(48)))
    count = 48 // dtype.itemsize
    tensors = [whole, whole[::2], whole[1:], whole[:1].expand(3), whole[0], whole[:0]]
    tensors.append(whole[: count // 3 * 3].view(3, -1).t())
    torch.jit.save(torch.jit.script(Holder(tensors)), tmp_path / "x.pt")
    assert_like_torch(tmp_path / "x.pt")


@QUICK
@given(st.data())
def test_any_buffers(folder: Path, data: st.DataObject):
    """Views of any stride, some of them of one storage."""
    tensors = list(data.draw(state_dicts(lambda dtype: not dtype.name.startswith("BITS"))).values())
    torch.jit.save(torch.jit.script(Holder(tensors)), folder / "any.pt")
    opened = open_checkpoint(folder / "any.pt")
    assert_same(opened, "", {f"t{number}": tensor for number, tensor in enumerate(tensors)})


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> torch.nn.Module:
    """Modules in modules, some of them in two places."""
    made = Holder([draw(views(draw(st.sampled_from([dtypes.F32, dtypes.F16]))))] if draw(st.booleans()) else [])
    inner: list[torch.nn.Module] = []
    for number in range(draw(st.integers(0, 2 if depth else 0))):
        again = inner and draw(st.booleans())
        inner.append(draw(st.sampled_from(inner)) if again else draw(trees(depth - 1)))
        made.add_module(f"m{number}", inner[-1])
    return made


@QUICK
@given(tree=trees())
def test_any_modules_in_modules(tree: torch.nn.Module, folder: Path):
    torch.jit.save(torch.jit.script(tree), folder / "tree.pt")
    truth = loaded(folder / "tree.pt")
    opened = open_checkpoint(folder / "tree.pt")
    if truth:
        assert_like_torch(folder / "tree.pt")
    else:
        assert opened.entries == {}


def test_an_archive_without_a_byte_order_or_with_another_root(tmp_path: Path):
    """As torch wrote them before 2.1, and as people name them."""
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), tmp_path / "x.pt")
    truth = loaded(tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as old, zipfile.ZipFile(tmp_path / "y.pt", "w") as new:
        for name in old.namelist():
            if not name.endswith(("byteorder", "serialization_id")):
                new.writestr("other" + name[1:], old.read(name))
    assert_same(open_checkpoint(tmp_path / "y.pt"), "", truth)


# ---- what can't be read is named


def _frozen_golden(path: Path) -> None:
    path.write_bytes((GOLDEN / "ts_frozen_4.30.2.torchscript").read_bytes())


class Scaled(torch.nn.Module):
    """Uses its weights, so that freezing keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.register_buffer("kept", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * 2.5


def _frozen_but_for_one(path: Path) -> None:
    torch.jit.save(torch.jit.freeze(torch.jit.script(Scaled().eval()), preserved_attrs=["kept"]), path)


def _optimised(path: Path) -> None:
    torch.jit.save(torch.jit.optimize_for_inference(torch.jit.script(Scaled().eval())), path)


def _traced_function(path: Path) -> None:
    weights = torch.ones(3, 3)
    torch.jit.save(torch.jit.trace(lambda x: x @ weights, torch.ones(1, 3)), str(path))


def _quantised(path: Path) -> None:
    module = torch.ao.quantization.quantize_dynamic(Scaled(), {torch.nn.Linear}, dtype=torch.qint8)
    torch.jit.save(torch.jit.script(module), path)


def _holding(make: Callable[[], torch.Tensor]) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        torch.jit.save(torch.jit.script(Holder([torch.ones(2), make()])), path)

    return save


class OwnState(torch.nn.Module):
    """Stores itself in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.ones(2)

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weight = state[0]
        self.training = state[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight


def _own_state(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Sequential(OwnState())), path)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            _frozen_golden,
            "frozen TorchScript archive (torch.jit.freeze): its 25 constant tensors have lost",
        ),
        (_frozen_but_for_one, "frozen TorchScript archive (torch.jit.freeze): its"),
        (_optimised, "frozen TorchScript archive"),
        (_traced_function, "its 1 constant tensors have lost their names"),
        (_quantised, "linear._packed_params._packed_params (__torch__.torch.classes.quantized.Linear"),
        (_holding(lambda: torch.eye(3).to_sparse()), "the tensor t1 is sparse"),
        (_holding(lambda: torch.eye(3).to_sparse_csr()), "the tensor t1 is sparse"),
        (_holding(lambda: torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8)), "the tensor t1 is quantised"),
        (_holding(lambda: torch.ones(3, device="meta")), "the tensor t1 is on the meta device"),
        (_holding(lambda: torch.zeros(2, dtype=torch.complex64).conj()), "the tensor t1 is a lazily conjugated"),
        (_holding(lambda: torch.zeros(2, dtype=torch.complex64).conj().imag), "the tensor t1 is a lazily conjugated"),
        (_own_state, "what the tensors in 0 (__torch__"),
    ],
)
def test_what_cannot_be_read_is_named(make: Callable[[Path], None], told: str, tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make(tmp_path / "x.pt")
    torch.jit.load(tmp_path / "x.pt")
    with pytest.raises(Unsupported) as caught:
        open_checkpoint(tmp_path / "x.pt")
    assert told in caught.value.message


class Shifted(torch.nn.Module):
    """Weights with names, and a tensor that tracing leaves among the constants."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + torch.tensor([1.0, 2.0, 3.0])


def test_constants_are_no_sign_of_freezing(tmp_path: Path):
    torch.jit.save(torch.jit.trace(Shifted(), torch.ones(1, 3)), tmp_path / "x.pt")
    assert_like_torch(tmp_path / "x.pt")
    assert "constants.pkl" in open_checkpoint(tmp_path / "x.pt").other


# ---- damage


def changed(path: Path, changes: dict[str, Callable[[bytes], bytes] | None]) -> Path:
    """The archive with records changed or, by None, left out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(path.with_suffix(".changed"), "w") as new:
        for name in old.namelist():
            change = changes.get(name.partition("/")[2], lambda same: same)
            if change is not None:
                new.writestr(name, change(old.read(name)))
    return path.with_suffix(".changed")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    torch.jit.save(torch.jit.trace(Shifted(), torch.ones(1, 3)), tmp_path / "x.pt")
    return tmp_path / "x.pt"


def test_what_is_never_read_may_be_anything(archive: Path):
    """The code, its debug records, what was traced, extra files."""
    truth = loaded(archive)
    with zipfile.ZipFile(archive) as made:
        unread = [name.partition("/")[2] for name in made.namelist() if "/code/" in name or name.endswith("version")]
    assert any(name.endswith("debug_pkl") for name in unread)
    assert_same(open_checkpoint(changed(archive, dict.fromkeys(unread, lambda _: b"cos\nsystem\n."))), "", truth)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data/0": None}, "lies in storage 0, which the file lacks"),
        ({"constants/0": None}, "lies in storage 0, which the file lacks"),
        ({"data/0": lambda data: data[:-1]}, "of which the file has 35"),
        ({"data.pkl": lambda data: data + b"N."}, "bytes follow the end of its pickle"),
        ({"constants.pkl": lambda data: data + b"N."}, "bytes follow the end of its pickle"),
        ({"data.pkl": lambda _: b"\x80\x02}."}, "and no module"),
        (
            {"data.pkl": lambda data: data.replace(b"X\6\0\0\0weight", b"X\4\0\0\0bias")},
            "the key linear.bias twice",
        ),
        ({"data.pkl": lambda data: data.replace(b"X\6\0\0\0weight", b"X\0\0\0\0")}, "is no module that torch writes"),
    ],
)
def test_damaged_archives(changes: dict[str, Any], told: str, archive: Path):
    with pytest.raises(Damaged) as caught:
        open_checkpoint(changed(archive, changes))
    assert told in caught.value.message


def test_every_truncation_is_refused(archive: Path):
    whole = archive.read_bytes()
    for size in range(0, len(whole), 37):
        archive.write_bytes(whole[:size])
        with pytest.raises(CkptconvError):
            open_checkpoint(archive)


def test_archives_before_torch_1_4_are_named(tmp_path: Path):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        made.writestr("x/model.json", b"{}")
        made.writestr("x/tensors/0", b"")
    (tmp_path / "x.pt").write_bytes(data.getvalue())
    with pytest.raises(Unsupported, match=r"TorchScript archive of torch 1\.3 or older"):
        open_checkpoint(tmp_path / "x.pt")


def test_neither_torch_nor_anything_else_is_imported():
    """Reading an archive loads no torch."""
    program = (
        "import sys\nfrom ckptconv.containers import open_checkpoint\nopen_checkpoint(sys.argv[1])\n"
        "assert not {'torch', 'pickle', 'numpy', 'zipfile'} & sys.modules.keys()"
    )
    path = GOLDEN / "ts_tokcls_5.23.0.torchscript"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
