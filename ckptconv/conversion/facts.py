"""What a plan must know of the values, read off the bytes: equal keys, zeros, the numbers of constants."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ckptconv.containers.checkpoint import StateDict, Tensor
from ckptconv.containers.read import Reader
from ckptconv.plan import Facts, ask
from ckptconv.tables.fit import Fit


def read_facts(fit: Fit, state_dict: StateDict, reader: Reader) -> Facts:
    """Compare the keys of every tie line, test what may be dropped only as zeros, read the constants."""
    groups, zeros, consts = ask(fit)
    equal: dict[str, str] = {}
    for group in groups:
        equal |= equal_keys(group, state_dict, reader)
    return Facts(
        equal,
        frozenset(key for key in zeros if _all_zeros(state_dict[key], reader)),
        {key: _number(state_dict[key], reader) for key in consts if state_dict[key].numel},
    )


def equal_keys(keys: Sequence[str], state_dict: StateDict, reader: Reader) -> dict[str, str]:
    """Each key that has the same bytes as an earlier one → the earliest such key."""
    distinct: list[str] = []
    equal: dict[str, str] = {}
    for key in keys:
        same = next((one for one in distinct if reader.equal(state_dict[one], state_dict[key])), None)
        if same is None:
            distinct.append(key)
        else:
            equal[key] = same
    return equal


def _all_zeros(tensor: Tensor, reader: Reader) -> bool:
    return not any(any(chunk) for chunk in reader.chunks(tensor))


def _number(tensor: Tensor, reader: Reader) -> float:
    """The first element; NaN where the dtype is no float."""
    first = b"".join(reader.chunks(tensor, 0, tensor.dtype.itemsize))
    if tensor.dtype.name == "BF16":
        first = b"\0\0" + first  # a bfloat16 is the upper half of a float32
    code = {"F16": "<e", "BF16": "<f", "F32": "<f", "F64": "<d"}.get(tensor.dtype.name)
    return float(struct.unpack(code, first)[0]) if code else float("nan")
