"""Keys that look wrong, and views of one storage: what torch's own wrappers and views leave in real files."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ckptconv.containers.checkpoint import Checkpoint, Storage, Tensor
from ckptconv.containers.oddities import SharedStorage, odd_keys, overlap, shared_storages, unused_bytes
from ckptconv.containers.open import open_checkpoint
from ckptconv.dtypes import BY_NAME

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
KEY_LISTS = sorted((GOLDEN / "keys").glob("*.tsv"))
STORAGE = Storage(Path("x"), 0, 4096)
DTYPES = {"F32": "<f4", "F16": "<f2", "U8": "u1", "F64": "<f8"}


def saved(state: object, tmp_path: Path) -> Checkpoint:
    torch.save(state, tmp_path / "x.pt")
    return open_checkpoint(tmp_path / "x.pt")


def found(keys: list[str]) -> dict[str, tuple[str, ...]]:
    return {each.reason: each.keys for each in odd_keys(keys)}


@pytest.mark.parametrize("path", KEY_LISTS, ids=lambda path: path.stem)
def test_no_real_key_list_looks_wrong(path: Path):
    keys = [line.split("\t")[0] for line in path.read_text().splitlines()[1:]]
    assert len(keys) > 20
    assert odd_keys(keys) == ()


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("a.\x1b[31m.weight", "control or invisible characters"),
        ("a\u202eb.weight", "control or invisible characters"),
        ("a\ud800.weight", "control or invisible characters"),
        ("a\u200b.weight", "control or invisible characters"),
        ("a b.weight", "blanks"),
        (" a.weight", "blanks"),
        ("\u0430bc.weight", "characters outside of ASCII"),
        ("a..b", "an empty part"),
        (".a", "an empty part"),
        ("a.", "an empty part"),
        ("", "an empty part"),
    ],
)
def test_characters_and_parts(key: str, reason: str):
    assert found(["x.weight", key, "x.bias"]) == {reason: (key,)}


def test_keys_that_differ_in_case_only():
    reason = "equal but for upper and lower case"
    assert found(["a.LayerNorm.w", "a.layernorm.w", "a.b"]) == {reason: ("a.LayerNorm.w", "a.layernorm.w")}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([nn.Linear(2, 2) for _ in range(2)])
        self.decoder = nn.ModuleDict({"layers": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
        self.scale = nn.Parameter(torch.ones(1))


def test_what_torch_compile_leaves():
    keys = list(torch.compile(Model()).state_dict())
    assert found(keys) == {"`_orig_mod` left by torch.compile": tuple(keys)}
    inner = Model()
    inner.encoder[1] = torch.compile(inner.encoder[1])
    assert found(list(inner.state_dict())) == {
        "`_orig_mod` left by torch.compile": ("encoder.1._orig_mod.weight", "encoder.1._orig_mod.bias")
    }


def test_what_a_checkpoint_wrapper_leaves():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    wrapped = checkpoint_wrapper(nn.Linear(2, 2))
    assert (
        f"a.{next(name for name, _ in wrapped.named_modules() if name)}.weight" == "a._checkpoint_wrapped_module.weight"
    )
    assert list(found(["a._checkpoint_wrapped_module.weight"])) == [
        "`_checkpoint_wrapped_module` left by a checkpoint wrapper"
    ]


@pytest.mark.parametrize("part", ["encoder.0", "encoder", "decoder"])
def test_some_keys_under_the_prefix_of_data_parallel(part: str):
    keys = [f"module.{key}" if key.startswith(part) else key for key in Model().state_dict()]
    mixed = tuple(key for key in keys if key.startswith("module."))
    assert found(keys) == {"some begin with `module.`, others don't": mixed}


def test_parameters_are_no_modules():
    assert found(["a.weight", "a.bias", "weight.x", "bias.x"]) == {}


@pytest.mark.parametrize("prefix", ["model", "lf", "net"])
def test_a_model_with_and_without_a_prefix(prefix: str):
    """As when two state dicts were merged, all of one and some of the other."""
    plain = list(Model().state_dict())
    under = [f"{prefix}.{key}" for key in plain]
    reason = f"some begin with `{prefix}.`, others don't"
    assert found(plain + under) == {reason: tuple(under)}
    assert found([key for key in plain if key.endswith("bias")] + under) == {reason: tuple(under)}
    assert found(plain + [key for key in under if key.endswith("bias")]) == {
        reason: tuple(key for key in under if key.endswith("bias"))
    }


@pytest.mark.parametrize(
    "wrapper", [nn.DataParallel, lambda model: torch.optim.swa_utils.AveragedModel(model), lambda model: model]
)
def test_a_prefix_on_all_keys_is_not_mixed(wrapper):
    assert odd_keys(list(wrapper(Model()).state_dict())) == ()


def test_equal_modules_in_two_halves_are_not_mixed():
    keys = ["encoder.layers.0.w", "encoder.norm.w", "decoder.layers.0.w", "decoder.norm.w", "norm.w"]
    assert odd_keys(keys) == ()
    # as in transformers' convnext
    assert odd_keys([f"{name}.w" for name in ("a.patch.x", "a.norm.x", "a.bias.x", "norm.x", "bias.x", "b.x")]) == ()
    assert odd_keys(["subsampling.layers.0.w", "layers.0.w", "head.w"]) == ()  # as in transformers' parakeet_encoder


# ---- views of one storage


def test_views_that_overlap_and_views_side_by_side(tmp_path: Path):
    fused, flat = torch.randn(6, 4), torch.randn(100)
    opened = saved(
        {
            "qkv": fused,
            "q": fused[:2],
            "tied": fused,
            "a": flat[:40].view(5, 8),
            "b": flat[40:100],
            "alone": torch.ones(3),
        },
        tmp_path,
    )
    assert shared_storages(opened.entries[""]) == (
        SharedStorage(("qkv", "q"), 96, ("q", "qkv")),
        SharedStorage(("a", "b"), 400, ()),
    )


def test_columns_of_one_matrix_do_not_overlap(tmp_path: Path):
    matrix = torch.randn(50, 60)
    columns = {f"c{number}": matrix[:, number] for number in range(60)}
    (shared,) = shared_storages(saved(columns, tmp_path).entries[""])
    assert (shared.keys, shared.overlapping) == (tuple(columns), ())
    assert set(shared_storages(saved({**columns, "row": matrix[7]}, tmp_path).entries[""])[0].overlapping) == {
        "c0",
        "row",
    }


def test_ties_and_empty_views_are_no_shared_storage(tmp_path: Path):
    weight = nn.Parameter(torch.ones(3, 2))
    state = {"a": weight, "b": weight, "e": weight[:0], "f": weight[:, 1:1]}
    assert shared_storages(saved(state, tmp_path).entries[""]) == ()
    assert shared_storages(open_checkpoint(GOLDEN / "deltalm_finetuned_share_all.pt").entries["model"]) == ()


VIEWS = st.tuples(
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0, 1, 2, 3, 5, 6, 12, 20])), max_size=3),
    st.integers(0, 60),
)


@given(VIEWS, VIEWS)
@settings(max_examples=1500)
def test_overlap_is_what_numpy_says(one: tuple, other: tuple):
    """numpy.shares_memory solves the same problem exactly."""
    buffer = np.zeros(4096, "u1")
    tensors, arrays = [], []
    for name, axes, offset in (one, other):
        shape, strides = tuple(size for size, _ in axes), tuple(stride for _, stride in axes)
        size = BY_NAME[name].itemsize
        tensors.append(Tensor(BY_NAME[name], shape, strides, offset, STORAGE))
        arrays.append(np.ndarray(shape, DTYPES[name], buffer, offset * size, tuple(size * step for step in strides)))
    assert overlap(*tensors) == np.shares_memory(*arrays)


def test_hostile_views_are_given_up_on_quickly():
    storage = Storage(Path("x"), 0, 1 << 62)
    strides = tuple(2 * prime for prime in (10007, 10009, 10037, 10039, 10061, 10067, 10069, 10079, 10091, 10093))
    views = {f"v{number}": Tensor(BY_NAME["U8"], (900,) * 10, strides, 2 * number, storage) for number in range(300)}
    odd = Tensor(BY_NAME["U8"], (900,) * 10, strides, 10**7 + 1, storage)
    endless = [Tensor(BY_NAME["U8"], (1 << 40,), (stride,), stride, storage) for stride in (2, 3)]
    start = time.perf_counter()
    assert overlap(*endless)
    overlap(views["v0"], odd)
    shared_storages(views)
    many = {f"c{number}": Tensor(BY_NAME["U8"], (9,), (100_000,), number, storage) for number in range(50_000)}
    (shared,) = shared_storages(many)
    assert len(shared.keys) == 50_000
    assert time.perf_counter() - start < 10


# ---- bytes that no key has


@pytest.mark.parametrize(
    ("tensors", "unused"),
    [
        ([torch.ones(10)], 0),
        ([torch.ones(1000)[:5]], 995 * 4),
        ([torch.ones(1000)[5:]], 5 * 4),
        ([torch.ones(10, 10)[:, 3]], (3 + 6) * 4),  # the gaps inside count as used
        ([torch.ones(4, 5).t()], 0),
        ([torch.ones(1).expand(9, 9)], 0),
        ([torch.ones(100)[:0]], 400),
        ([torch.ones(5, 20)[:, :0]], 400),
        ([torch.empty(0)], 0),
    ],
)
def test_bytes_without_a_key(tensors: list[torch.Tensor], unused: int, tmp_path: Path):
    opened = saved({str(number): tensor for number, tensor in enumerate(tensors)}, tmp_path)
    assert unused_bytes(opened.entries[""].values()) == unused


def test_views_together_use_what_they_view(tmp_path: Path):
    flat = torch.ones(100)
    opened = saved({"a": flat[10:30], "b": flat[20:50], "c": flat[80:90]}, tmp_path)
    assert unused_bytes(opened.entries[""].values()) == (10 + 30 + 10) * 4
