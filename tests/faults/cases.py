"""What is converted, to what, over what: each case once as a new output, once over an old one."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptconv import Options, convert
from ckptconv.containers.writing.temporary import is_temporary
from ckptconv.conversion.prepare import Prepared, prepare
from ckptconv.conversion.write import write

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = ROOT / "examples" / "deltalm-numbers" / "finetuned"
GOLDEN = ROOT / "tests" / "golden"
XLMR = GOLDEN / "hf_xlmr_mlm_transformers-5.23.safetensors"
ROBERTA = GOLDEN / "fairseq-0.9.0_roberta_mlm.pt"

Tree = dict[str, tuple[str, int]]


@dataclass(frozen=True)
class Output:
    """source: a function of a scratch folder. new, old: options of the conversion and of the one that came before."""

    name: str
    source: Callable[[Path], Path]
    new: dict[str, Any]
    old: dict[str, Any]


def _hf_dir(scratch: Path) -> Path:
    made = scratch / "hf"
    if not made.exists():
        convert(ROBERTA, made, Options(**_HF))
    return made


def _hf_numbers(scratch: Path) -> Path:
    made = scratch / "hf-numbers"
    if not made.exists():
        convert(NUMBERS, made, Options(to="deltalm/hf"))
    return made


_SAME: dict[str, Any] = {"to": "same"}
_HF: dict[str, Any] = {"to": "xlmr/hf", "dictionaries": (GOLDEN / "xlmr-dict.txt",)}
_FAIRSEQ = {"to": "xlmr/fairseq"}
_NUMBERS = {"to": "deltalm/hf"}
# Small ones, of which every call is tried, and a trained DeltaLM with its tokenizer and code.
OUTPUTS = {
    "pt": Output("x.pt", lambda scratch: XLMR, _SAME, {**_SAME, "dtype": "bf16"}),
    "safetensors": Output("x.safetensors", lambda scratch: XLMR, _SAME, {**_SAME, "dtype": "bf16"}),
    "hf": Output("out", lambda scratch: ROBERTA, _HF, {**_HF, "max_shard_size": 30_000, "dtype": "bf16"}),
    "hf-sharded": Output("out", lambda scratch: ROBERTA, {**_HF, "max_shard_size": 50_000}, _HF),
    "fairseq": Output("out", _hf_dir, _FAIRSEQ, {**_FAIRSEQ, "dtype": "bf16"}),
    "deltalm": Output("out", lambda scratch: NUMBERS, _NUMBERS, {**_NUMBERS, "max_shard_size": 700_000}),
    "deltalm-sharded": Output("out", lambda scratch: NUMBERS, {**_NUMBERS, "max_shard_size": 900_000}, _NUMBERS),
    "deltalm-fairseq": Output("out", _hf_numbers, {"to": "fairseq"}, {"to": "fairseq", "dtype": "bf16"}),
}
SMALL = ("pt", "safetensors", "hf", "hf-sharded", "fairseq")


@dataclass(frozen=True)
class Case:
    """One conversion, ready to be written again and again. before: the folder that every trial begins with.
    old, new: the output before (None: there is none) and after."""

    name: str
    output: str
    prepared: Prepared
    before: Path
    old: Tree | None
    new: Tree

    def write(self, folder: Path) -> None:
        """The conversion, with its output in the folder."""
        write(self.prepared, folder / self.output, lambda done, total: None)

    def start(self, folder: Path) -> None:
        """Brings the folder into the state before."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.before, folder, symlinks=True)


def make_case(name: str, over_old: bool, scratch: Path) -> Case:
    """A case in a scratch folder of its own."""
    wanted = OUTPUTS[name]
    source = wanted.source(scratch)
    prepared = prepare(source, Options(**wanted.new, overwrite=True))
    before = scratch / f"{name}-{over_old}-before"
    before.mkdir(parents=True)
    if over_old:
        convert(source, before / wanted.name, Options(**wanted.old))
        if (before / wanted.name).is_dir():
            add_foreign_files(before / wanted.name)
    after = scratch / f"{name}-{over_old}-after"
    shutil.copytree(before, after, symlinks=True)
    write(prepared, after / wanted.name, lambda done, total: None)
    old, new = tree(before / wanted.name), tree(after / wanted.name)
    assert new is not None
    assert old != new
    label = f"{name} over an old one" if over_old else f"{name}, new"
    return Case(label, wanted.name, prepared, before, old, new)


def add_foreign_files(folder: Path) -> None:
    """Files, folders and links that have nothing to do with the conversion."""
    (folder / "notes.txt").write_text("mine")
    (folder / "logs" / "deep").mkdir(parents=True)
    (folder / "logs" / "deep" / "train.log").write_text("mine too")
    (folder / "logs" / "empty").mkdir(mode=0o750)
    (folder / "latest").symlink_to("logs/deep")
    (folder / "dangling").symlink_to("nowhere")


def tree(path: Path) -> Tree | None:
    """Path → (what it holds, mode) of a file, or of all that is in a directory; None if nothing is there."""
    if not os.path.lexists(path):
        return None
    paths = [path, *path.rglob("*")] if path.is_dir() else [path]
    return {str(each.relative_to(path)): _node(each) for each in sorted(paths) if not is_temporary(each.name)}


def _node(path: Path) -> tuple[str, int]:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"-> {os.readlink(path)}", 0
    if stat.S_ISDIR(mode):
        return "folder", stat.S_IMODE(mode)
    return hashlib.sha256(path.read_bytes()).hexdigest(), stat.S_IMODE(mode)


def temporaries(folder: Path) -> list[Path]:
    """What ckptconv left in a folder, at any depth."""
    return [path for path in folder.rglob("*") if is_temporary(path.name)]
