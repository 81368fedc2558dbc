"""The interpreter says what pickle would have made, and refuses what pickle would have run."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import io
import os
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptconv.containers import open_checkpoint
from ckptconv.containers.inert import walk
from ckptconv.containers.pickles import read_pickle
from ckptconv.containers.plain import plain
from ckptconv.errors import CkptconvError, Damaged, Unsafe, Unsupported
from tests.containers.oracle import TESTS

ATOMS = st.none() | st.booleans() | st.integers(-(1 << 100), 1 << 100) | st.floats(allow_nan=False) | st.text()
KEYS = st.text() | st.integers(-(1 << 50), 1 << 50)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner) | st.lists(inner).map(tuple),
    max_leaves=30,
)


def said(data: bytes) -> Any:
    """What a pickle says, in plain values."""
    return plain(read_pickle(data, "x").root)


@settings(max_examples=150, deadline=None)
@given(value=VALUES, protocol=st.integers(0, 5))
def test_plain_values(value: Any, protocol: int):
    assert said(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
def test_common_objects(protocol: int):
    namespace = argparse.Namespace(arch="deltalm", lr=[0.1], nested=argparse.Namespace(a=1))
    value = {
        "args": namespace,
        "ordered": collections.OrderedDict(a=1, b=2),
        "default": collections.defaultdict(list, {"x": [1]}),
        "counter": collections.Counter("aab"),
        "f64": np.float64(2.5),
        "i32": np.int32(-7),
        "array": np.arange(3),
        "bytes": b"\x00\xff",
        "set": {1},
        "frozen": frozenset({"a"}),
        "when": datetime.date(2021, 8, 1),
        "where": Path("a") / "b",
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "type": collections.OrderedDict,
        "complex": 1j,
        (1, 2): "a key of another kind",
        1 << 70: "a large key",
        None: "no key",
        True: "a true key",
    }
    path = "<pathlib.PosixPath>" if sys.version_info < (3, 13) else "<pathlib._local.PosixPath>"
    assert said(pickle.dumps(value, protocol)) == {
        "args": {"arch": "deltalm", "lr": [0.1], "nested": {"a": 1}},
        "ordered": {"a": 1, "b": 2},
        "default": {"x": [1]},
        "counter": {"a": 2, "b": 1},
        "f64": 2.5,
        "i32": -7,
        "array": f"<numpy._core.{'numeric._frombuffer' if protocol == 5 else 'multiarray._reconstruct'}>",
        "bytes": "<2 bytes>",
        "set": [1],
        "frozen": ["a"],
        "when": "<datetime.date>",
        "where": path,
        "size": [2, 3],
        "device": "<torch.device>",
        "dtype": "<torch.float16>",
        "type": "<collections.OrderedDict>",
        "complex": "<builtins.complex>" if protocol > 2 else "<__builtin__.complex>",
        "<tuple>": "a key of another kind",
        str(1 << 70): "a large key",
        "None": "no key",
        "True": "a true key",
    }


def test_what_fairseq_pickled_with_omegaconf():
    """DictConfig, ListConfig, AnyNode and a Namespace inside one, without omegaconf; facts from the fairseq source."""
    opened = open_checkpoint(TESTS / "golden" / "fairseq-fc2840de_2021-03_DictConfig_mlm.pt")
    config = plain(opened.other["cfg"])
    assert config["model"]["arch"] == "roberta_base"
    assert config["model"]["encoder_embed_dim"] == 32
    assert config["optimization"]["lr"] == [0.0005]
    assert config["optimizer"]["adam_betas"] == "(0.9, 0.98)"
    assert config["common"]["seed"] == 1
    assert "omegaconf.dictconfig.DictConfig" in opened.globals


def test_namespaces_equal_torchs():
    path = TESTS / "golden" / "deltalm_finetuned_untied.pt"
    truth = torch.load(path, weights_only=False)
    opened = open_checkpoint(path)
    assert plain(opened.other["cfg"])["model"] == vars(truth["cfg"]["model"])
    assert plain(opened.other["optimizer_history"]) == truth["optimizer_history"]


def test_classes_of_other_packages_are_told_once_and_enums_are_values(tmp_path: Path):
    data = b"\x80\x02}(X\1\0\0\0acmine.meters\nMeter\n)\x81}X\1\0\0\0nK\3sbX\1\0\0\0bcmine\nColour\nX\3\0\0\0red\x85Ru."
    assert said(data) == {"a": "<mine.meters.Meter>", "b": "red"}
    write_zip(tmp_path / "x.pt", data)
    assert open_checkpoint(tmp_path / "x.pt").notes == (
        "names classes of other packages, read as inert data: mine.meters.Meter, mine.Colour",
    )


def test_cycles_and_shared_values_are_legal():
    loop: list[Any] = [1]
    loop.append(loop)
    assert said(pickle.dumps(loop)) == [1, "<cycle>"]
    shared = {"x": 1}
    assert said(pickle.dumps([shared, shared])) == [shared, shared]


def test_depth_and_breadth_are_bounded():
    deep: Any = 0
    for _ in range(300):
        deep = [deep]
    assert "<…>" in repr(said(pickle.dumps(deep)))
    laughs: list[Any] = ["ha"]
    for _ in range(100):
        laughs = [laughs, laughs]
    shown = plain(read_pickle(pickle.dumps(laughs), "x").root, limit=1000)
    assert len(repr(shown)) < 100_000
    assert sum(1 for _ in walk(read_pickle(pickle.dumps(laughs), "x").root)) < 500
    data = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    assert plain(read_pickle(data, "x").root) is not None


# ---- refused by name, never run


def write_zip(path: Path, pickled: bytes) -> None:
    """A torch zip with that pickle."""
    import zipfile

    with zipfile.ZipFile(path, "w") as made:
        made.writestr("archive/data.pkl", pickled)
        made.writestr("archive/version", "3\n")


def _short(text: str) -> bytes:
    return b"\x8c" + bytes((len(text),)) + text.encode()


def attacks(module: str, name: str, command: str) -> dict[str, bytes]:
    """Every way of making pickle call module.name(command)."""
    glob = f"c{module}\n{name}\n".encode()
    stacked = _short(module) + _short(name) + b"\x93"
    text = _short(command)
    return {
        "GLOBAL REDUCE": b"\x80\x02" + glob + text + b"\x85R.",
        "STACK_GLOBAL REDUCE": b"\x80\x04" + stacked + text + b"\x85R.",
        "memoised": b"\x80\x04" + stacked + b"\x940h\0" + text + b"\x85R.",
        "INST": b"(" + text + f"i{module}\n{name}\n.".encode(),
        "OBJ": b"(" + glob + text + b"o.",
        "NEWOBJ": b"\x80\x02" + glob + text + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04" + stacked + text + b"\x85}\x92.",
        "BUILD": b"\x80\x02" + glob + b"}" + _short("x") + text + b"sb.",
        "popped": b"\x80\x02" + glob + text + b"\x85R0N.",
        "only named": b"\x80\x02" + glob + b".",
        "inside": b"\x80\x02}" + _short("w") + b"]" + glob + text + b"\x85Ras.",
        "a reconstructor's class": b"\x80\x02ccopy_reg\n_reconstructor\n" + glob + b"c__builtin__\nobject\nN\x87R.",
        "a factory": b"\x80\x02ccollections\ndefaultdict\n" + glob + b"\x85R.",
        "an append": b"\x80\x02" + glob + text + b"a.",
        "a set item": b"\x80\x02" + glob + text + text + b"s.",
    }


@pytest.mark.parametrize("how", attacks("os", "system", ""))
@pytest.mark.parametrize("container", ["zip", "legacy", "legacy header"])
def test_os_system_is_refused_by_name_and_never_called(how: str, container: str, tmp_path: Path):
    attack = attacks("os", "system", f"touch {tmp_path}/ran")[how]
    if container == "zip":
        write_zip(tmp_path / "x.pt", attack)
    else:
        buffer = io.BytesIO()
        torch.save({}, buffer, _use_new_zipfile_serialization=False)
        head = buffer.getvalue()[: buffer.getvalue().index(b"}q\x00.")]
        head = head if container == "legacy" else head[: head.index(b".", 14) + 1]
        (tmp_path / "x.pt").write_bytes(head + attack + attack)
    with pytest.raises(Unsafe, match=r"names os\.system"):
        open_checkpoint(tmp_path / "x.pt")
    assert os.listdir(tmp_path) == ["x.pt"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"),
        ("nt", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("__builtin__", "execfile"),
        ("builtins", "getattr"),
        ("subprocess", "Popen"),
        ("pickle", "loads"),
        ("_pickle", "Unpickler"),
        ("functools", "partial"),
        ("operator", "attrgetter"),
        ("importlib", "import_module"),
        ("runpy", "_run_code"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch._C", "_jit_compile"),
        ("torch.jit", "load"),
        ("torch.serialization", "load"),
        ("torch.utils._config_module", "load_config"),
        ("numpy", "load"),
        ("numpy.f2py", "compile"),
        ("numpy.testing._private.utils", "runstring"),
        ("typing", "get_type_hints"),
        ("pip", "main"),
        ("os", "system.__call__"),
        ("os.path", "join"),
        ("mine", "a.b"),
        ("", ""),
        ("mine", ""),
        ("..", "x"),
        ("mіne", "Homoglyph"),
    ],
)
def test_names_that_no_checkpoint_needs(module: str, name: str):
    with pytest.raises(Unsafe):
        read_pickle(b"\x80\x04" + b"".join(map(_text, (module, name))) + b"\x93.", "x")


def _text(text: str) -> bytes:
    data = text.encode()
    return b"\x8c" + bytes((len(data),)) + data


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"cmine\nfunction\n)R.", Unsafe),
        (b"ccollections\nOrderedDict\n)R)R.", Unsafe),
        (b"ccollections\nOrderedDict\n}b.", Unsafe),
        (b"ccollections\nOrderedDict\n]R.", Damaged),
        (b"ccollections\nOrderedDict\n)R}b}b.", Damaged),
        (b"c_codecs\nencode\n" + _text("x") + _text("rot13") + b"\x86R.", Unsafe),
        (b"(" + _text("x") + b"o.", Unsafe),
        (b"K\1K\2a.", Damaged),
        (b"}K\1K\2K\3(K\1us.", Damaged),
        (b"\x82\1.", Unsafe),
        (b"\x83\1\0.", Unsafe),
        (b"\x84\1\0\0\0.", Unsafe),
        (b"\x97.", Unsafe),
        (b"Pid\n.", Unsafe),
        (_text("id") + b"Q.", Damaged),
        (b"\x80\x06.", Unsupported),
        (b"\xff.", Damaged),
        (b"N", Damaged),
        (b"", Damaged),
        (b".", Damaged),
        (b"NN.", Damaged),
        (b"(N.", Damaged),
        (b"t.", Damaged),
        (b"\x86.", Damaged),
        (b"0.", Damaged),
        (b"h\0.", Damaged),
        (b"j\0\0\0\0.", Damaged),
        (b"g7\n.", Damaged),
        (b"gx\n.", Damaged),
        (b"p99999999999\n.", Damaged),
        (b"X\xff\xff\xff\xff.", Damaged),
        (b"B\xff\xff\xff\x7f.", Damaged),
        (b"\x8e" + b"\xff" * 8 + b".", Damaged),
        (b"\x96" + b"\xff" * 8 + b".", Damaged),
        (b"\x8d" + b"\xff" * 8 + b".", Damaged),
        (b"\x95" + b"\xff" * 8 + b"N.", Damaged),
        (b"T\xff\xff\xff\xff.", Damaged),
        (b"\x8b\xff\xff\xff\xff.", Damaged),
        (b"\x8a\x11" + b"\1" * 17 + b".", Damaged),
        (b"I" + b"1" * 41 + b"\n.", Damaged),
        (b"L" + b"1" * 5000 + b"\n.", Damaged),
        (b"Ix\n.", Damaged),
        (b"Fx\n.", Damaged),
        (b"Sx\n.", Damaged),
        (b"S'\\x'\n.", Damaged),
        (b"X\1\0\0\0\xff.", Damaged),
        (b"V\\ud8\n.", Damaged),
        (b"\x8c\1", Damaged),
        (b"G\0\0", Damaged),
        (b"cos", Damaged),
    ],
)
def test_malformed_pickles(data: bytes, error: type[CkptconvError]):
    with pytest.raises(error):
        read_pickle(data, "x")


BOMBS = {
    "a memo number": b"Nr\xff\xff\xff\x0f.",
    "memo entries": b"N" + b"\x94" * 8_000_000,
    "marks": b"(" * 8_000_000,
    "lists": b"]" * 8_000_000,
    "dicts": b"}" * 8_000_000,
    "values": b"N" * (60 << 20),
    "integers": b"M\xff\xff" * (16 << 20),
    "short texts": b"\x8c\x02\xd7\x90" * 8_000_000,
    "doubled": b"]q\0(" + b"N" * 1000 + b"e" + b"(h\0h\0e" * 2_000_000 + b".",
    "tuples": b"N" + b"\x85" * 8_000_000,
    "colliding keys": b"}("
    + b"".join(b"\x8a\x10" + (k * ((1 << 61) - 1)).to_bytes(16, "little") + b"N" for k in range(90_000))
    + b"u.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_stay_small(name: str):
    """Time is bounded by pytest's patience; memory is measured in a process of its own, in bytes of peak growth."""
    import subprocess

    program = (
        "import sys\n"
        "from ckptconv.containers.pickles import read_pickle\nfrom ckptconv.containers.plain import plain\n"
        "from ckptconv.errors import CkptconvError\n"
        "data = sys.stdin.buffer.read()\n"
        "try:\n    plain(read_pickle(data, 'x').root)\nexcept CkptconvError as problem:\n    print(problem)\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=BOMBS[name], capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout.split()[-1]) < 256 << 10, done.stdout  # KiB, the interpreter and the input included


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=80), cut=st.integers(0, 400), at=st.integers(0, 400))
def test_any_bytes_end_in_a_value_or_one_sentence(data: bytes, cut: int, at: int):
    buffer = io.BytesIO()
    pickle.dump(
        {"a": [1, 2.5, "x", (None, True)], "b": collections.OrderedDict(c=argparse.Namespace(d=1 << 60))}, buffer, 2
    )
    whole = buffer.getvalue()
    for attempt in (data, whole[:cut], whole[:at] + data + whole[at:], whole[:at] + data + whole[at + len(data) :]):
        with contextlib.suppress(CkptconvError):
            plain(read_pickle(attempt, "x").root)


def test_struct_of_the_table():
    """Every opcode that pickletools knows is either interpreted or refused by name; none falls through."""
    import pickletools

    from ckptconv.containers.pickles.opcodes import HANDLERS, _unknown

    known = {ord(opcode.code) for opcode in pickletools.opcodes}
    assert {code for code in range(256) if HANDLERS[code] is not _unknown} == known
    assert struct.calcsize("<Q") == 8


def test_a_wide_value_seen_often_is_not_repeated_for_ever():
    wide = pickle.dumps([[1] * 1000])[:-1]  # then memo 1, the inner list, 100,000 times more
    shown = plain(read_pickle(wide + b"(" + b"h\1" * 100_000 + b"e.", "x").root)
    assert shown[0] == [1] * 1000
    assert shown[-1] == "<…>"
    assert len(repr(shown)) < 3_000_000
