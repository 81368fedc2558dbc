"""What the tests of diff share: every difference by its name, and files of a state dict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ckptconv import Difference


def differences(report: Difference) -> dict[str, Any]:
    """Everything that isn't the same, by what it is called in JSON."""
    return {
        "added": [each.key for each in report.added],
        "removed": [each.key for each in report.removed],
        "shapes": [pair.key for pair in report.shape_changed],
        "dtypes": [pair.key for pair in report.dtype_changed],
        "values": [pair.key for pair in report.pairs if pair.status == "differ"],
    }


NOTHING: dict[str, Any] = {"added": [], "removed": [], "shapes": [], "dtypes": [], "values": []}


def saved(path: Path, state: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file({key: tensor.clone().contiguous() for key, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def reasons(report: Difference) -> dict[str, str]:
    return {each.key: f"{each.side}: {each.reason}" for each in report.explained}
