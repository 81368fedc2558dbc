"""Wheel and editable install both find the tables and the modeling code; the base install is light."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_works_from_its_own_files(wheel: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    program = (
        f"import sys; sys.path = [p for p in sys.path if p != {str(ROOT)!r}]\n"
        "sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]\n"
        f"import ckptconv; assert ckptconv.__file__.startswith({str(tmp_path / 'site')!r}), ckptconv.__file__\n"
        "from ckptconv.tables.catalog import folder; assert folder().parent.name == 'ckptconv', folder()\n"
        "from ckptconv.cli import main; main(sys.argv[1:])\n"
    )
    source = ROOT / "examples" / "deltalm-numbers" / "finetuned"
    command = [sys.executable, "-c", program, "convert", str(source), str(tmp_path / "hf"), "--to", "hf"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "hf" / "modeling_deltalm.py").is_file()
    assert (tmp_path / "hf" / "tokenizer.json").is_file()


def test_the_source_tree_finds_its_tables_beside_the_package():
    from ckptconv.tables.catalog import folder

    assert folder() == ROOT / "mappings"


def test_the_base_install_is_light():
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    required = config["options"]["install_requires"].lower()
    assert not [name for name in ("torch", "transformers", "fairseq", "safetensors") if name in required]
    assert {"hf", "fairseq", "all"} <= set(config["options.extras_require"])


def test_both_ways_to_start_it():
    starts = [[sys.executable, "-m", "ckptconv"], [sys.executable, "-c", "from ckptconv.cli import main; main()"]]
    for command in starts:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout.startswith("ckptconv, version ")
