"""What the commands cost on full-size files: wall time as a ratio to `cp`, peak memory above the interpreter's.

Each figure is the median of several runs, each run a process of its own; the files and floors belong to the same run of
this script, so that the ratios compare like with like. The page cache is warm.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RENAME_WITH_TORCH = """
import sys, torch
from safetensors.torch import save_file
state = torch.load(sys.argv[1], weights_only=False)["model"]
save_file({"model." + key: value.clone() for key, value in state.items() if "version" not in key}, sys.argv[2])
"""


@dataclass(frozen=True)
class Figure:
    """seconds: median wall time. peak: largest resident set of any run, MB."""

    seconds: float
    peak: float


def once(command: Sequence[str]) -> Figure:
    start = time.perf_counter()
    pid = os.posix_spawnp(
        command[0], list(command), os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    )
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return Figure(time.perf_counter() - start, usage.ru_maxrss / 1024)


def measure(command: Sequence[str], output: Path, runs: int) -> Figure:
    """The median of `runs` runs; the output is removed before each."""
    figures = []
    for _ in range(runs):
        if output.is_dir():
            shutil.rmtree(output)
        output.unlink(missing_ok=True)
        figures.append(once(command))
    return Figure(statistics.median(figure.seconds for figure in figures), max(figure.peak for figure in figures))


def inputs(folder: Path) -> dict[str, Path]:
    """Full-size files, made once."""
    made = {}
    for name, options in {
        "DeltaLM base": ["--layout", "deltalm/fairseq"],
        "the same with optimizer": ["--layout", "deltalm/fairseq", "--optimizer"],
        "DeltaLM base, pretrained": ["--layout", "deltalm/pretrained"],
        "DeltaLM large": ["--layout", "deltalm/fairseq", "--size", "large"],
        "xlmr.large as published (legacy, fused, fp16)": ["--layout", "xlmr/fairseq-0.8", "--size", "large", "--half"],
        "XLM-R XL, fp16": ["--layout", "xlmr/fairseq", "--size", "XL", "--half"],
    }.items():
        made[name] = folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.pt"
        if not made[name].exists():
            subprocess.run([sys.executable, ROOT / "scripts" / "full_size.py", made[name], *options], check=True)
    return made


def rows(files: dict[str, Path], folder: Path, runs: int) -> list[str]:
    ckptconv = [sys.executable, "-m", "ckptconv"]
    bare = measure([sys.executable, "-c", "pass"], folder / "none", runs)
    lines = [
        "| job | file | seconds | floor | ratio | peak memory above the interpreter |",
        "|---|---|---|---|---|---|",
    ]

    def add(job: str, name: str, command: Sequence[str], output: Path, floor: Figure, floor_name: str) -> None:
        found = measure(command, output, runs)
        size = f"{files[name].stat().st_size / 1e9:.2f} GB" if name in files else ""
        lines.append(
            f"| {job} | {name}, {size} | {found.seconds:.2f} | {floor_name} {floor.seconds:.2f} s | "
            f"{found.seconds / floor.seconds:.2f} × | {found.peak - bare.peak:.0f} MB |"
        )
        print(lines[-1], flush=True)

    weights = files["DeltaLM base"]
    for name, path in files.items():
        # What is written is the weights; for the file with optimizer state, that is the plain file's size.
        model = weights if "optimizer" in name else path
        copied = measure(["cp", str(model), str(folder / "copy")], folder / "copy", runs)
        hf = folder / "hf"
        add("convert to hf", name, [*ckptconv, "convert", str(path), str(hf), "--to", "hf"], hf, copied, "cp")
        add("inspect", name, [*ckptconv, "inspect", str(path)], folder / "none", bare, "python -c pass")
        (folder / "copy").unlink()
    path = weights
    copied = measure(["cp", str(path), str(folder / "copy")], folder / "copy", runs)
    for dtype in ("fp16", "bf16"):
        out = folder / "hf"
        command = [*ckptconv, "convert", str(path), str(out), "--to", "hf", "--dtype", dtype]
        add(f"convert to hf, {dtype}", "DeltaLM base", command, out, copied, "cp")
    once([*ckptconv, "convert", str(path), str(folder / "source"), "--to", "hf", "--overwrite"])
    out = folder / "back"
    command = [*ckptconv, "convert", str(folder / "source"), str(out), "--to", "fairseq"]
    add("convert back to fairseq", "DeltaLM base", command, out, copied, "cp")
    out = folder / "peer.safetensors"
    peer = [sys.executable, "-c", RENAME_WITH_TORCH, str(path), str(out)]
    add("torch.load + rename + save_file", "DeltaLM base", peer, out, copied, "cp")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "bench", help="where the files go")
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    table = rows(inputs(asked.folder), asked.folder, asked.runs)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    head = (
        f"# What it costs\nMade by `scripts/bench` on {date.today()} ({machine}); medians of {asked.runs} runs, "
        "warm page cache.\n"
    )
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join([head, *table, ""]))


if __name__ == "__main__":
    main()
