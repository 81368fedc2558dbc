"""The same input gives the same bytes, under other hash seeds, locales, time zones, umasks and folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ckptconv
from tests.faults.cases import OUTPUTS, tree

PACKAGE = Path(ckptconv.__file__).parent.parent
SURROUNDINGS = (
    {"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "COLUMNS": "40"},
    {"PYTHONHASHSEED": "2", "TZ": "America/St_Johns", "LC_ALL": "C", "PYTHONUTF8": "0", "NO_COLOR": "1"},
    {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "tr_TR.UTF-8", "PYTHONOPTIMIZE": "2", "HOME": "/nowhere"},
)


def arguments(options: dict[str, object]) -> list[str]:
    """The command line's form of a case's options."""
    made = ["--to", str(options["to"])]
    for path in options.get("dictionaries", ()):  # type: ignore[attr-defined]
        made += ["--dict", str(path)]
    if "max_shard_size" in options:
        made += ["--max-shard-size", str(options["max_shard_size"])]
    return made


@pytest.mark.parametrize("name", ["pt", "safetensors", "hf-sharded", "fairseq", "deltalm-sharded", "deltalm-fairseq"])
def test_the_same_bytes_everywhere(name: str, tmp_path: Path):
    wanted = OUTPUTS[name]
    source, made = wanted.source(tmp_path), []
    for number, surroundings in enumerate(SURROUNDINGS):
        folder = tmp_path / f"folder {number}" / "é"
        folder.mkdir(parents=True)
        there = os.path.relpath(source, folder) if number else source
        done = subprocess.run(
            [sys.executable, "-m", "ckptconv", "convert", there, wanted.name, *arguments(wanted.new), "--quiet"],
            env={**os.environ, "PYTHONPATH": str(PACKAGE), **surroundings},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        made.append(tree(folder / wanted.name))
    assert made[0] is not None
    assert made[0] == made[1] == made[2]
