"""Damaged files: an error, or the very tensors that torch or safetensors read from the damaged file; nothing else."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ckptconv.containers import open_checkpoint
from ckptconv.containers.read import Reader
from ckptconv.errors import CkptconvError
from tests.containers.oracle import bits, dtype_of, state_dicts


def saved(zipped: bool) -> Callable[[dict[str, torch.Tensor]], bytes]:
    def save(state: dict[str, torch.Tensor]) -> bytes:
        data = io.BytesIO()
        torch.save(state, data, _use_new_zipfile_serialization=zipped)
        return data.getvalue()

    return save


def loaded(data: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(data), weights_only=True)


KINDS: dict[str, tuple[Callable[..., bytes], Callable[[bytes], Any]]] = {
    "zip": (saved(True), loaded),
    "legacy": (saved(False), loaded),
    "safetensors": (
        lambda state: safetensors.torch.save({key: each.clone().contiguous() for key, each in state.items()}),
        safetensors.torch.load,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_never_other_values(kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    write, read = KINDS[kind]
    state = data.draw(state_dicts(lambda dtype: kind != "safetensors" or dtype.in_safetensors))
    changed = bytearray(write(state))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        how = data.draw(st.sampled_from(["bit", "byte", "number", "cut", "twice"]))
        if how == "bit":
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "byte":
            changed[at] = data.draw(st.integers(0, 255))
        elif how == "number":
            changed[at : at + 4] = data.draw(st.integers(0, 99)).to_bytes(4, "little")
        elif how == "cut":
            del changed[at : at + data.draw(st.integers(1, 9))]
        else:
            changed[at:at] = changed[at : at + data.draw(st.integers(1, 9))]
        if not changed:
            return
    path = tmp_path_factory.mktemp("changed") / "x"
    path.write_bytes(changed)
    try:
        opened = open_checkpoint(path)
        with Reader(opened) as reader:
            ours = {
                key: (tensor.dtype, tensor.shape, reader.read(tensor))
                for tensors in opened.entries.values()
                for key, tensor in tensors.items()
            }
    except CkptconvError:
        event("an error")
        return
    try:
        theirs = read(bytes(changed))
    except Exception:
        event("read by us alone")  # the bytes that changed mean nothing to us: a field that torch checks
        return
    event("read by both")
    theirs = {key: each for key, each in theirs.items() if isinstance(each, torch.Tensor)}
    assert set(ours) == set(map(str, theirs))
    for key, tensor in theirs.items():
        assert ours[str(key)] == (dtype_of(tensor), tuple(tensor.shape), bits(tensor)), key
