from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands.conftest import FINETUNED, run


@pytest.fixture
def hf_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HF directory of the trained model that the test may spoil."""
    made = tmp_path_factory.mktemp("spoil") / "hf"
    run(FINETUNED, made, "hf")
    copy = made.parent / "copy"
    shutil.copytree(made, copy)
    return copy
