"""Paddle's files: what we read equals what pickle and numpy load, and they load what we write."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptconv import dtypes
from ckptconv.containers import Checkpoint, latin1, open_checkpoint
from ckptconv.containers.checkpoint import shared_views
from ckptconv.containers.pickles import skim
from ckptconv.containers.plain import plain
from ckptconv.containers.read import Reader
from ckptconv.containers.writing import Item, write_paddle
from ckptconv.errors import CkptconvError, Damaged, NotACheckpoint, Unsafe, Unsupported
from tests.containers.oracle import ROOT, TESTS, items

GOLDEN = sorted((TESTS / "golden").glob("*.pdparams"))
QUICK = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
CODES = {"F16": "f2", "F32": "f4", "F64": "f8", "I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8", "BOOL": "b1"}
CODES |= {"U8": "u1", "BF16": "u2", "U32": "u4", "U64": "u8", "C64": "c8", "C128": "c16"}
PROTOCOLS = (2, 3, 4, 5)
NAMES = "StructuredToParameterName@@"
SLICES = "UnpackBigParamInfor@@"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paddle")


def assert_arrays(opened: Checkpoint, truth: dict[str, np.ndarray], entry: str = "") -> None:
    """These arrays, bit for bit, in this order."""
    found = opened.entries[entry]
    assert list(found) == list(truth)
    with Reader(opened) as reader:
        for key, array in truth.items():
            assert CODES[found[key].dtype.name] == array.dtype.str[1:], key
            assert found[key].shape == array.shape, key
            little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
            assert reader.read(found[key]) == little.tobytes(), key
            middle = found[key].nbytes // 2
            assert b"".join(reader.chunks(found[key], middle)) == little.tobytes()[middle:], key


def save(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


# ---- reading


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_files_that_paddle_wrote(path: Path):
    truth = pickle.loads(path.read_bytes())
    names = truth.pop(NAMES)
    opened = open_checkpoint(path)
    assert opened.container == "paddle"
    assert_arrays(opened, truth)
    assert plain(opened.other[NAMES]) == names
    assert opened.notes == ()


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Of any type, shape (0-d and empty too), memory order and byte order."""
    code = draw(st.sampled_from(sorted(CODES.values())))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    count = int(np.prod(shape)) * np.dtype(code).itemsize
    data = draw(st.binary(min_size=count, max_size=count))
    if code == "b1":
        data = bytes(byte & 1 for byte in data)
    array = np.frombuffer(data, code).reshape(shape, order=draw(st.sampled_from("CF")))
    if draw(st.booleans()):
        array = array.byteswap().view(array.dtype.newbyteorder(">"))
    how = draw(st.sampled_from(["", "every other", "reversed"]))
    if how and array.ndim:
        array = array[::2] if how == "every other" else array[::-1]
    return array


KEYS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12).filter(lambda key: key != SLICES)
STATES = st.dictionaries(KEYS, arrays(), min_size=1, max_size=5)


@QUICK
@given(state=STATES, protocol=st.sampled_from(PROTOCOLS))
def test_any_arrays(state: dict[str, np.ndarray], protocol: int, folder: Path):
    assert_arrays(open_checkpoint(save(folder / "any.pdparams", state, protocol)), state)


@QUICK
@given(state=STATES, protocol=st.sampled_from(PROTOCOLS), ordered=st.booleans())
def test_names_and_nested_state_dicts(state: dict[str, np.ndarray], protocol: int, ordered: bool, folder: Path):
    inner = OrderedDict(state) if ordered else state
    whole = {"model": inner, "epoch": 3, "names": dict.fromkeys(state, "p")}
    opened = open_checkpoint(save(folder / "nested.pdparams", whole, protocol))
    assert_arrays(opened, state, "model")
    assert plain(opened.other["epoch"]) == 3


class Tensor:
    """What `paddle.save` makes of a tensor outside of a state dict (`reduce_varbase`, `reduce_DenseTensor`)."""

    def __init__(self, array: np.ndarray, how: str) -> None:
        self.array = array
        self.how = how

    def __reduce__(self) -> tuple[Any, ...]:
        return (tuple, (("name_0", self.array),)) if self.how == "tuple" else (eval, ("data", {"data": self.array}))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("how", ["tuple", "eval"])
def test_tensors_outside_of_state_dicts(how: str, protocol: int, tmp_path: Path):
    state = {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(3, "f4")}
    save(tmp_path / "x.pdparams", {key: Tensor(array, how) for key, array in state.items()}, protocol)
    assert_arrays(open_checkpoint(tmp_path / "x.pdparams"), state)
    save(tmp_path / "x.pdparams", {"model": {key: ("p", array) for key, array in state.items()}}, protocol)
    assert_arrays(open_checkpoint(tmp_path / "x.pdparams"), state, "model")


def test_one_array_under_two_keys_is_tied_and_equal_ones_are_not(tmp_path: Path):
    shared, same = np.arange(300.0), np.zeros(4, "f4")
    for protocol in PROTOCOLS:
        state = {"a": shared, "b": shared, "c": same, "d": same.copy()}
        opened = open_checkpoint(save(tmp_path / "x.pdparams", state, protocol))
        assert_arrays(opened, state)
        assert shared_views(opened.entries[""]) == {"b": "a"}


def test_bytes_that_are_one_letter(tmp_path: Path):
    """Python has one object for every text of one letter, so that protocol 2 takes keys and such bytes for the same."""
    letters = [chr(code) for code in (98, 124, 60, 0, 127, 128, 233, 255)]
    state = {f"first {letter}": np.array([ord(letter)], "u1") for letter in letters}
    state |= {letter: np.array([ord(letter), 1], "u1") for letter in letters}
    state |= {f"last {letter}": np.array(ord(letter), "u1") for letter in letters}
    for protocol in PROTOCOLS:
        assert_arrays(open_checkpoint(save(tmp_path / "x", state, protocol)), state)


def sliced(state: dict[str, np.ndarray], most: int) -> dict[str, Any]:
    """As `_unpack_saved_dict` cuts arrays of more than `most` elements."""
    made: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for key, array in state.items():
        if array.size <= most:
            made[key] = array
            continue
        flat = array.flatten()
        parts = [flat[at : at + most] for at in range(0, array.size, most)]
        told[key] = {"OriginShape": array.shape, "slices": [f"{key}@@.{number}" for number in range(len(parts))]}
        made |= dict(zip(told[key]["slices"], parts, strict=True))
    return {**made, SLICES: told} if told else made


@QUICK
@given(state=STATES, protocol=st.sampled_from(PROTOCOLS), most=st.integers(1, 9))
def test_slices_are_joined(state: dict[str, np.ndarray], protocol: int, most: int, folder: Path):
    opened = open_checkpoint(save(folder / "sliced.pdparams", sliced(state, most), protocol))
    assert_arrays(opened, state)
    assert SLICES not in opened.other


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_arrays_stay_in_the_file(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Wherever windows and blocks of text end; strided, and across several blocks."""
    generator = np.random.default_rng(1)
    state = {f"k{n}": generator.integers(0, 256, 70_000 + n, dtype="u1") for n in range(3)}
    state["f"] = np.asfortranarray(generator.standard_normal((130, 70)))
    save(tmp_path / "x.pdparams", state, protocol)
    assert_arrays(open_checkpoint(tmp_path / "x.pdparams"), state)
    monkeypatch.setattr(skim, "_WINDOW", skim._SHORT + 1)
    for block in (2, 3, 1001):
        monkeypatch.setattr(latin1, "_BLOCK", block if protocol == 2 else 1 << 20)
        small = {key: array[:500] for key, array in state.items()} if block < 10 else state
        assert_arrays(open_checkpoint(save(tmp_path / "x.pdparams", small, protocol)), small)


_MEASURED = """
import resource, sys
from ckptconv.containers import open_checkpoint
from ckptconv.containers.read import Reader
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
opened = open_checkpoint(sys.argv[1])
with Reader(opened) as reader:
    total = sum(len(piece) for tensor in opened.entries[""].values() for piece in reader.chunks(tensor))
assert total == 48 << 20, total
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
assert not {"pickle", "torch"} & sys.modules.keys()
"""


@pytest.mark.parametrize("protocol", [2, 4])
def test_memory_does_not_grow_with_the_arrays(protocol: int, tmp_path: Path):
    state = {"a": np.full(40 << 20, 200, "u1"), "b": np.zeros(1 << 20, "f8")}
    save(tmp_path / "x.pdparams", state, protocol)
    command = [sys.executable, "-c", _MEASURED, tmp_path / "x.pdparams"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 << 10  # KiB


def test_uint16_is_bfloat16_and_told(tmp_path: Path):
    opened = open_checkpoint(save(tmp_path / "x", {"w": np.zeros(2, "u2"), "v": np.zeros(2, "f4")}))
    assert opened.notes == ("1 tensors are stored as uint16, which is how Paddle stores bfloat16: read as that",)
    assert opened.entries[""]["w"].dtype.name == "BF16"


def test_other_values_are_shown(tmp_path: Path):
    state = {"w": np.zeros(2, "f4"), "v": np.zeros(2, "f4"), "u": np.ones(1), "scale": np.float32(1.5), "step": 3}
    for protocol in PROTOCOLS:
        opened = open_checkpoint(save(tmp_path / "x", state, protocol))
        assert {name: plain(node) for name, node in opened.other.items()} == {"scale": 1.5, "step": 3}


def test_a_folder_with_paddles_names(tmp_path: Path):
    (tmp_path / "model_state.pdparams").write_bytes(GOLDEN[0].read_bytes())
    (tmp_path / "other.pdparams").write_bytes(b"")
    assert open_checkpoint(tmp_path).container == "paddle"


def test_a_safetensors_file_that_begins_like_a_pickle(tmp_path: Path):
    """Its header has 0x0280 to 0x0580 bytes."""
    for length in range(0x0280, 0x0680, 0x0100):
        header = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
        (tmp_path / "x").write_bytes(struct.pack("<Q", length) + header.ljust(length) + b"\0")
        assert open_checkpoint(tmp_path / "x").container == "safetensors"


# ---- what is refused


OPTIMIZER = {
    "linear_0.w_0_moment1_0": np.ones(3),
    "linear_0.w_0_moment2_0": np.ones(3),
    "linear_0.w_0_beta1_pow_acc_0": np.ones(1),
    "linear_0.w_0_beta2_pow_acc_0": np.ones(1),
}


@pytest.mark.parametrize(
    "value",
    [
        OPTIMIZER,
        {**OPTIMIZER, NAMES: {}, "LR_Scheduler": {"last_epoch": 1}},
        {"master_weights": {"linear_0.w_0": np.ones(3)}, **OPTIMIZER},
        {"master_weights": {"linear_0.w_0": np.ones(3)}, "LR_Scheduler": {"last_epoch": 1}},
        {"LR_Scheduler": {"last_epoch": 1}},
        {"opt": OPTIMIZER, "epoch": 3},
        {"linear_0.w_0_velocity_0": np.ones(3)},
    ],
)
def test_optimizer_states_are_no_models(value: object, tmp_path: Path):
    with pytest.raises(Unsupported, match=r"state of a Paddle optimizer, not a model: give the \.pdparams file"):
        open_checkpoint(save(tmp_path / "x.pdopt", value))


def test_a_model_beside_an_optimizer(tmp_path: Path):
    weights = {"linear.weight": np.ones(3), "linear.bias": np.ones(3)}
    opened = open_checkpoint(save(tmp_path / "x.pdparams", {"model": weights, "opt": OPTIMIZER}))
    assert_arrays(opened, weights, "model")
    assert list(opened.entries) == ["model"]
    assert plain(opened.other["opt"]).keys() == OPTIMIZER.keys()


@pytest.mark.parametrize("value", [{}, [1, 2], {"a": 1}, "text", np.ones(3), {"a": [np.ones(3)]}, ("w", np.ones(3))])
def test_other_pickles_are_told(value: object, tmp_path: Path):
    for protocol in PROTOCOLS:
        with pytest.raises(NotACheckpoint, match="not Paddle's"):
            open_checkpoint(save(tmp_path / "x.pkl", value, protocol))


@pytest.mark.parametrize(
    "array",
    [
        np.array([{}, 1], "O"),
        np.array(["a", "bc"]),
        np.array([b"a"]),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, [("a", "f4"), ("b", "i4")]),
        np.zeros(2, "V3"),
        np.zeros(2, "g"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_that_are_no_tensors_are_named(array: np.ndarray, tmp_path: Path):
    for protocol in PROTOCOLS:
        with pytest.raises(Unsupported, match=r"the tensor odd\.\\x1bone is of numpy's type"):
            open_checkpoint(save(tmp_path / "x", {"w": np.ones(2), "odd.\x1bone": array}, protocol))


class Calls:
    """Anything that a pickle can call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize(
    "value",
    [
        Calls(eval, "1 + 1"),
        Calls(eval, "data", {"data": 1}),
        Calls(eval, "data", {"data": np.ones(2), "more": 1}),
        Calls(eval, "data", {"other": np.ones(2)}),
        Calls(eval, "data", {"data": np.ones(2)}, {}),
        Calls(eval, "data.x", {"data": np.ones(2)}),
        Calls(eval, "data"),
        Calls(eval),
        Calls(eval, ["data"], {"data": np.ones(2)}),
        Calls(eval, "data", {"data": Calls(eval, "1")}),
        eval,
        [eval],
        Calls(exec, "data", {"data": np.ones(2)}),
        Calls(print, "x"),
    ],
)
def test_calls_are_refused(value: object, tmp_path: Path):
    good = Tensor(np.ones(3), "eval")
    for protocol in PROTOCOLS:
        with pytest.raises(Unsafe, match=r"names (builtins|__builtin__)\.(eval|exec|print)"):
            open_checkpoint(save(tmp_path / "x", {"w": np.ones(2), "good": good, "x": value}, protocol))
        with pytest.raises(Unsafe):
            open_checkpoint(tmp_path / "x", allow_unknown=True)


def test_eval_by_other_instructions_is_refused(tmp_path: Path):
    """NEWOBJ, OBJ and INST make calls as well; and names may be thrown away."""
    good = pickle.dumps({"w": np.ones(2), "v": Tensor(np.ones(2), "eval")}, 4)[:-1]
    for body in (
        b"cbuiltins\neval\n(X\4\0\0\0datat\x81",
        b"(cbuiltins\neval\nX\4\0\0\0datao",
        b"(X\4\0\0\0dataibuiltins\neval\n",
        b"cbuiltins\neval\n(X\4\0\0\0datat}\x92",
    ):
        (tmp_path / "x").write_bytes(good + b"X\1\0\0\0x" + body + b"s.")
        for allow in (False, True):
            with pytest.raises(Unsafe, match=r"builtins\.eval"):
                open_checkpoint(tmp_path / "x", allow)
    plain_one = pickle.dumps({"w": np.ones(2)}, 4)[:-1]
    (tmp_path / "x").write_bytes(plain_one + b"cbuiltins\neval\n0.")
    with pytest.raises(Unsafe, match=r"builtins\.eval"):
        open_checkpoint(tmp_path / "x")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_truncation_is_refused(protocol: int, tmp_path: Path):
    state = {"a": np.arange(40.0), "b": np.ones((2, 3), "f4"), "scale": np.float32(2), NAMES: {"a": "p", "b": "q"}}
    whole = pickle.dumps(state, protocol)
    for size in range(2, len(whole), 3):
        (tmp_path / "x").write_bytes(whole[:size])
        with pytest.raises(CkptconvError):
            open_checkpoint(tmp_path / "x")
    (tmp_path / "x").write_bytes(whole + b"N.")
    with pytest.raises(Damaged, match="bytes follow the end"):
        open_checkpoint(tmp_path / "x")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_flipped_bytes_give_values_or_one_sentence(protocol: int, tmp_path: Path):
    whole = pickle.dumps({"a": np.arange(9.0), "b": np.ones((2, 3), "f4"), "s": np.float32(2)}, protocol)
    for at in range(2, len(whole)):
        for value in (0x2E, 0x52, 0xFF):
            (tmp_path / "x").write_bytes(whole[:at] + bytes((value,)) + whole[at + 1 :])
            try:
                opened = open_checkpoint(tmp_path / "x")
            except CkptconvError:
                continue
            with Reader(opened) as reader:
                for tensors in opened.entries.values():
                    assert all(len(reader.read(tensor)) == tensor.nbytes for tensor in tensors.values())


def test_slices_that_lie(tmp_path: Path):
    base = {"a@@.0": np.arange(4.0), "a@@.1": np.arange(2.0), "w": np.ones(3), "odd": np.ones(2, "f4")}
    for told, message in (
        ({"slices": ["a@@.0", "a@@.1"], "OriginShape": (7,)}, "slices of 48 bytes together"),
        ({"slices": ["a@@.0", "a@@.2"], "OriginShape": (6,)}, "aren't all there"),
        ({"slices": ["a@@.0", "a@@.0"], "OriginShape": (8,)}, "in a way that Paddle doesn't"),
        ({"slices": ["a@@.0", "odd"], "OriginShape": (5,)}, "in a way that Paddle doesn't"),
        ({"slices": [], "OriginShape": (0,)}, "aren't all there"),
        ({"slices": "a@@.0", "OriginShape": (4,)}, "aren't all there"),
        ({"slices": [["a@@.0"]], "OriginShape": (4,)}, "aren't all there"),
        ({"slices": ["a@@.0"]}, "has sizes"),
        ({"slices": ["a@@.0"], "OriginShape": (-4,)}, "has sizes"),
        (3, "aren't all there"),
    ):
        with pytest.raises(Damaged, match=f"the tensor a .*{message}"):
            open_checkpoint(save(tmp_path / "x", {**base, SLICES: {"a": told}}))
    again = {"slices": ["a@@.0"], "OriginShape": (4,)}
    with pytest.raises(Damaged, match="aren't all there"):
        open_checkpoint(save(tmp_path / "x", {**base, SLICES: {"a": again, "b": dict(again)}}))
    with pytest.raises(Damaged, match="the key w twice"):
        open_checkpoint(save(tmp_path / "x", {**base, SLICES: {"w": {"slices": ["a@@.0"], "OriginShape": (4,)}}}))


# ---- writing


def tensor_items(state: dict[str, np.ndarray], tied: dict[str, str] | None = None) -> list[Item]:
    tensors = {key: torch.from_numpy(array.copy()) for key, array in state.items()}
    bfloat16 = {key: tensor.view(torch.bfloat16) for key, tensor in tensors.items() if tensor.dtype == torch.uint16}
    return items(tensors | bfloat16, tied)


@st.composite
def native(draw: st.DrawFn) -> np.ndarray:
    array = draw(arrays())
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))).reshape(array.shape)


@QUICK
@given(state=st.dictionaries(KEYS.filter(lambda key: "@@" not in key), native(), min_size=1, max_size=5))
def test_what_is_written_can_be_read(state: dict[str, np.ndarray], folder: Path):
    names = {key: f"p_{number}" for number, key in enumerate(state)}
    write_paddle(folder / "w.pdparams", tensor_items(state), names)
    found = pickle.loads((folder / "w.pdparams").read_bytes())
    assert found.pop(NAMES) == names
    assert list(found) == list(state)
    for key, array in state.items():
        assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape)
        assert found[key].dtype.isnative
        assert found[key].tobytes() == array.tobytes()
    opened = open_checkpoint(folder / "w.pdparams")
    assert_arrays(opened, state)
    first = (folder / "w.pdparams").read_bytes()
    write_paddle(folder / "w.pdparams", tensor_items(state), names)
    assert (folder / "w.pdparams").read_bytes() == first


def test_written_arrays_are_what_numpy_itself_would_have_made(tmp_path: Path):
    """Pickled again, our arrays and numpy's own give the same bytes."""
    state = {"a": np.ones((300, 2), "f4"), "b": np.array(3, "i8"), "c": np.zeros((0, 4), "f2"), "d": np.array([True])}
    write_paddle(tmp_path / "x", tensor_items(state))
    found = pickle.loads((tmp_path / "x").read_bytes())
    for key, array in state.items():
        assert pickle.dumps(found[key], 4) == pickle.dumps(array, 4)
        assert found[key].flags.writeable


def test_ties_and_the_absence_of_names(tmp_path: Path):
    state = {"b": np.arange(4.0), "a": np.arange(4.0), "c": np.arange(4.0), "d": np.ones(1)}
    write_paddle(tmp_path / "x", tensor_items(state, {"b": "a", "c": "a"}))
    found = pickle.loads((tmp_path / "x").read_bytes())
    assert list(found) == ["b", "a", "c", "d"]
    assert found["a"] is found["b"] is found["c"]
    opened = open_checkpoint(tmp_path / "x")
    assert_arrays(opened, state)
    assert shared_views(opened.entries[""]) == {"a": "b", "c": "b"}


def test_bfloat16_is_written_as_uint16(tmp_path: Path):
    write_paddle(tmp_path / "x", items({"w": torch.tensor([1.0, -2.0], dtype=torch.bfloat16)}))
    found = pickle.loads((tmp_path / "x").read_bytes())["w"]
    assert found.dtype == np.uint16
    assert found.tolist() == [0x3F80, 0xC000]


def test_what_cannot_be_written_is_named(tmp_path: Path):
    with pytest.raises(Unsupported, match=r"the tensor w: its type is F8_E4M3 .*, and numpy has no such type"):
        write_paddle(tmp_path / "x", items({"w": torch.zeros(2).to(torch.float8_e4m3fn)}))
    with pytest.raises(Unsupported, match=r"the tensor w: its type is U16 .*, and Paddle takes uint16 for bfloat16"):
        write_paddle(tmp_path / "x", items({"w": torch.zeros(2, dtype=torch.uint16)}))
    for key in (NAMES, SLICES, "w@@.0"):
        with pytest.raises(Unsupported, match="Paddle has another meaning for such keys"):
            write_paddle(tmp_path / "x", items({key: torch.zeros(2)}))
    assert not (tmp_path / "x").exists()
    short = Item("w", dtypes.F32, (2,), lambda: [b"1234"])
    with pytest.raises(Damaged, match="8 bytes; 4 came"):
        write_paddle(tmp_path / "x", [short])


def test_the_golden_file_can_be_written_back(tmp_path: Path):
    """The same arrays and names, read by plain pickle, from a file of ours as from Paddle's."""
    for path in GOLDEN:
        truth = pickle.loads(path.read_bytes())
        opened = open_checkpoint(path)
        with Reader(opened) as reader:
            made = [
                Item(key, tensor.dtype, tensor.shape, lambda tensor=tensor: reader.chunks(tensor))
                for key, tensor in opened.entries[""].items()
            ]
            write_paddle(tmp_path / "x", made, truth[NAMES])
        found = pickle.loads((tmp_path / "x").read_bytes())
        assert found.keys() == truth.keys()
        assert all(np.array_equal(found[key], truth[key]) for key in truth if key != NAMES)
        assert found[NAMES] == truth[NAMES]


def test_any_generation_of_numpy_reads_it(tmp_path: Path):
    """The names are numpy 1's, which numpy 2 takes without a warning."""
    write_paddle(tmp_path / "x", tensor_items({"w": np.ones((2, 3), "f4")}), {"w": "p"})
    program = (
        "import pickle, sys, warnings, numpy\nwarnings.simplefilter('error')\n"
        "found = pickle.load(open(sys.argv[1], 'rb'))\n"
        "assert found['w'].tolist() == [[1.0] * 3] * 2 and found['w'].dtype == numpy.float32"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    opened = open_checkpoint(tmp_path / "x")
    assert set(opened.globals) == {"numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"}
