"""Elements as numpy sees them, against torch and numpy."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from ckptconv.arrays import converted, element_type
from ckptconv.dtypes import BY_NAME, DType

HALVES = np.arange(1 << 16, dtype="<u2")


@pytest.mark.parametrize("dtype", BY_NAME.values(), ids=str)
def test_types_are_those_that_torch_means(dtype: DType):
    known = element_type(dtype)
    if known is None:
        assert dtype.name == "C32" or dtype.name.startswith(("BITS", "F4"))
        return
    assert known.itemsize == dtype.itemsize
    some = np.arange(dtype.itemsize, dtype="u1") % 2
    theirs = torch.from_numpy(some).view(getattr(torch, dtype.torch)).to(torch.complex128)
    assert complex(some.view(known)[0]) == theirs.item()


@pytest.mark.parametrize("target", ["<f4", "<f8"])
def test_every_half_float_is_widened_as_numpy_does(target: str):
    halves = HALVES.view("<f2")
    found = converted(halves[::-1], np.dtype(target))
    assert found.dtype == target
    assert found.tobytes() == halves[::-1].astype(target).tobytes()
    assert np.array_equal(found[::-1], torch.from_numpy(halves).to(torch.float64).numpy(), equal_nan=True)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64", "I64"])
@pytest.mark.parametrize("target", ["F16", "BF16", "F32", "F64"])
def test_others_are_converted_as_numpy_does(dtype: str, target: str):
    values, to = np.array([0.1, -3, 70000, 1e-7]).astype(element_type(BY_NAME[dtype])), element_type(BY_NAME[target])
    with np.errstate(over="ignore"):
        assert converted(values, to).tobytes() == values.astype(to).tobytes()
    assert (converted(values, to) is values) == (dtype == target)


def test_importing_it_imports_no_numpy():
    program = "import sys, ckptconv.arrays\nassert not {'numpy', 'ml_dtypes'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
