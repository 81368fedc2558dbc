"""What the commands cost, measured beside what nothing can beat and beside what people use instead.

The commands run as a user has them, installed in an environment of their own. Files of the real shapes are generated
once. Every job runs in turn with its floor, several times, each a process of its own in a warm page cache, after what
others wrote has reached the disk; told are the medians, and the median of the ratios of neighbours, so that a machine
that is busy for a while spoils both alike. `cp` leaves its copy in memory; ckptconv, as `cp, then sync`, is done when
all is on the disk.
Memory is the largest resident set, bytes are those that went through read and write calls (/proc/PID/io).
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
USER = ROOT / ".venv" / "bench" / "bin"  # as a user has it: installed, and nothing beside
CKPTCONV, PYTHON = [str(USER / "ckptconv")], str(USER / "python")
PEERS = ROOT / ".venv" / "peers" / "bin"
FILES = {
    "DeltaLM base": ("deltalm/fairseq",),
    "DeltaLM base with optimizer": ("deltalm/fairseq", "--optimizer"),
    "DeltaLM large": ("deltalm/fairseq", "--size", "large"),
    "DeltaLM base, pretrained": ("deltalm/pretrained",),
    "XLM-R base": ("xlmr/fairseq",),
    "xlmr.large as published (legacy, fused, fp16)": ("xlmr/fairseq-0.8", "--size", "large", "--half"),
    "XLM-R XL, fp16": ("xlmr/fairseq", "--size", "XL", "--half"),
}
BASE, LARGEST, LOOKS = "DeltaLM base", "XLM-R XL, fp16", "Look without reading"
SHOWN = {  # in the README
    *((BASE, job) for job in ("floor: cp", "cp, then sync", "convert to hf, no receipt", "convert to hf, bf16")),
    (BASE, "convert to hf, with its receipt (SHA-256 of all files)"),
    *((BASE, job) for job in ("convert back to fairseq, no receipt", "convert to hf, fp16")),
    *((BASE, job) for job in ("torch.load, rename, save_file", "the same with mmap=True")),
    *((LOOKS, job) for job in ("floor: import click, rich", "inspect: DeltaLM base with optimizer")),
    (LOOKS, "inspect --json: DeltaLM base with optimizer"),
    *(("Values", job) for job in ("floor: cat both (all values changed)", "diff --values, all values changed")),
    ("Values", "torch.load(mmap=True), largest difference"),
}
TORCH = """
import sys, torch
from safetensors.torch import save_file
state = torch.load(sys.argv[1], weights_only=False, mmap=MMAP)["model"]
save_file({"model." + key: value.clone() for key, value in state.items() if "version" not in key}, sys.argv[2])
"""
CAST = TORCH.replace("value.clone()", "value.to(torch.DTYPE)")
FROM_PRETRAINED = """
import sys
from transformers import AutoModelForMaskedLM
AutoModelForMaskedLM.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
"""
COMPARE = """
import sys, torch
a, b = (torch.load(path, weights_only=False, mmap=True)["model"] for path in sys.argv[1:])
print(max((a[key].double() - b[key].double()).abs().max().item() for key in a))
"""
CHANGED = """
import sys, torch
saved = torch.load(sys.argv[1], weights_only=False)
for tensor in {tensor.data_ptr(): tensor for tensor in saved["model"].values()}.values():
    tensor += 1e-3
torch.save(saved, sys.argv[2])
"""
CHANGED_SAFETENSORS = """
import sys
from safetensors.torch import load_file, save_file
save_file({key: tensor + 1e-3 for key, tensor in load_file(sys.argv[1]).items()}, sys.argv[2])
"""
STATES = """
import sys, torch
from ckptconv.tables.catalog import tables
from ckptconv.tables.fit import expected_keys
table = next(table for table in tables() if table.family == "xlmr")
dims = {"d": 8, "ffn": 8, "layers": int(sys.argv[2]) // 16, "positions": 10, "types": 1, "vocab": 11, "lm_head": True}
keys = expected_keys(table, "fairseq", dims)
torch.save({"model": {key: torch.full(shape, 3.0) if "version" in key else torch.randn(shape) for key, shape in keys}},
           sys.argv[1])
"""
STEPS = """
import gc, sys, time
gc.disable()
from ckptconv.containers.open import open_checkpoint
from ckptconv.detect import detect
from ckptconv.tables.catalog import tables
known, times = tables(), [time.perf_counter()]
checkpoint = open_checkpoint(sys.argv[1]); times.append(time.perf_counter())
found = detect(checkpoint, known); times.append(time.perf_counter())
assert found.fit.exact
print(*(later - before for before, later in zip(times, times[1:])))
"""


@dataclass(frozen=True)
class Run:
    """One process: wall time in seconds, peak resident set, bytes read and written in MB."""

    seconds: float
    peak: float
    read: float
    written: float


@dataclass(frozen=True)
class Job:
    """A command to measure. made: what it writes, removed before each run."""

    name: str
    command: Sequence[str | Path]
    made: Path | None = None


@dataclass
class Table:
    """Rows of a Markdown table, printed as they come. about: what SHOWN calls it."""

    about: str
    title: str
    columns: Sequence[str]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        print(f"\n## {self.title}", flush=True)

    def add(self, *cells: str) -> None:
        self.lines.append(f"| {' | '.join(cells)} |")
        print(self.lines[-1], flush=True)

    def text(self) -> str:
        head = [f"| {' | '.join(self.columns)} |", "|" + "---|" * len(self.columns)]
        return "\n".join([f"## {self.title}", "", *head, *self.lines, ""])


def once(job: Job) -> Run:
    """Runs it. Ends the script where it fails: a ratio to a job that wasn't done means nothing."""
    if job.made:
        remove(job.made)
    command = [str(part) for part in job.command]
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    os.sync()
    start = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=quiet)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    seconds = time.perf_counter() - start
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    _, status, usage = os.wait4(pid, 0)
    findings = {"diff", "audit"} & {*command}
    if os.waitstatus_to_exitcode(status) not in ((0, 1) if findings else (0,)):
        sys.exit(f"failed: {' '.join(command)}")
    return Run(seconds, usage.ru_maxrss / 1024, int(io["rchar"]) / 1e6, int(io["wchar"]) / 1e6)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def in_turn(jobs: Sequence[Job], runs: int) -> list[list[Run]]:
    """`runs` runs of each, one after the other in turn; one before that doesn't count."""
    for job in jobs:
        once(job)
    found: list[list[Run]] = [[] for _ in jobs]
    for _ in range(runs):
        for job, those in zip(jobs, found, strict=True):
            those.append(once(job))
    for job in jobs:
        if job.made:
            remove(job.made)
    return found


def measured(table: Table, floors: Sequence[Job], jobs: Sequence[Job], runs: int) -> None:
    """A row for each floor and each job, with its ratio to each floor."""
    found = in_turn([*floors, *jobs], runs)
    for job, those in zip([*floors, *jobs], found, strict=True):
        besides = [[run.seconds / floor.seconds for run, floor in zip(those, each, strict=True)] for each in found]
        table.add(
            job.name,
            f"{median(run.seconds for run in those):.2f}",
            *(f"{median(ratios):.2f} ×" for ratios in besides[: len(floors)]),
            f"{max(run.peak for run in those):,.0f}",
            f"{median(run.read for run in those):,.1f}",
            f"{median(run.written for run in those):,.1f}",
        )


def files(folder: Path) -> dict[str, Path]:
    """The generated files, made once."""
    made = {}
    for name, (layout, *options) in FILES.items():
        made[name] = folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.pt"
        if not made[name].exists():
            command = [sys.executable, ROOT / "scripts" / "full_size.py", made[name], "--layout", layout, *options]
            subprocess.run(command, check=True)
    return made


def convert(source: Path, out: Path, target: str, *options: str) -> list[str | Path]:
    return [*CKPTCONV, "convert", source, out, "--to", target, *options]


def cost(about: str, title: str, *besides: str) -> Table:
    ratios = [f"beside {each}" for each in besides or ("the floor",)]
    return Table(about, title, ["job", "seconds", *ratios, "peak memory, MB", "read, MB", "written, MB"])


def conversions(made: dict[str, Path], folder: Path, runs: int) -> Iterator[Table]:
    out, copy = folder / "out", folder / "copy"
    for name, path in made.items():
        # What is written is the weights: for the file with optimizer state, as much as for the one without.
        table = cost(name, f"Convert: {name}, {path.stat().st_size / 1e9:.2f} GB", "cp", "cp, then sync")
        model = made["DeltaLM base"] if "optimizer" in name else path
        jobs = [
            Job("convert to hf, no receipt", convert(path, out, "hf", "--no-receipt"), out),
            Job("convert to hf, with its receipt (SHA-256 of all files)", convert(path, out, "hf"), out),
        ]
        if name in (BASE, "XLM-R base"):
            jobs += list(ways(name, path, folder, out))
        if name == LARGEST:
            shown = shlex.join(map(str, convert(path, out, "hf", "--no-receipt")))
            told = "convert to hf, no receipt, in a terminal with its progress bar"
            jobs.append(Job(told, ["script", "-qec", shown, os.devnull], out))
        synced = ["sh", "-c", 'cp "$0" "$1" && sync "$1"', model, copy]
        measured(table, [Job("floor: cp", ["cp", model, copy], copy), Job("cp, then sync", synced, copy)], jobs, runs)
        yield table


def ways(name: str, path: Path, folder: Path, out: Path) -> Iterator[Job]:
    """Other directions and dtypes, and what people use instead."""
    family, one = name.split()[0].replace("-", "").lower(), folder / "out.safetensors"
    hf, python = folder / f"{family}-hf", [sys.executable, "-c"]
    once(Job("", convert(path, hf, "hf", "--overwrite")))
    yield Job("convert back to fairseq, no receipt", convert(hf, out, "fairseq", "--no-receipt"), out)
    for dtype in ("bf16", "fp16"):
        yield Job(f"convert to hf, {dtype}", convert(path, out, "hf", "--no-receipt", "--dtype", dtype), out)
    yield Job("torch.load, rename, save_file", [*python, TORCH.replace("MMAP", "False"), path, one], one)
    yield Job("the same with mmap=True", [*python, TORCH.replace("MMAP", "True"), path, one], one)
    yield Job("the same, to fp16", [*python, CAST.replace("MMAP", "True").replace("DTYPE", "float16"), path, one], one)
    if family == "xlmr":
        yield Job("transformers: from_pretrained, save_pretrained", [*python, FROM_PRETRAINED, hf, out], out)
        torch_bin = folder / "pytorch_model.bin"
        once(Job("", [*CKPTCONV, "convert", hf, folder / "flat.pt", "--to", "same", "--no-receipt", "--overwrite"]))
        (folder / "flat.pt").replace(torch_bin)
        (folder / "passthrough.yml").write_text(f"merge_method: passthrough\nmodels:\n  - model: {torch_bin}\n")
        yield from peers("convert", torch_bin, one)


def peers(job: str, path: Path, made: Path | None = None, *more: Path) -> Iterator[Job]:
    """What others offer for a job, where `scripts/setup peers` has installed it; checkpoint-tools refuses tied keys."""
    passthrough = path.with_name("passthrough.yml")
    commands: dict[str, dict[str, list[str | Path]]] = {
        "convert": {
            "sft-cli 0.2.2: sft convert": ["sft", "convert", path, "-o", made or ""],
            "mergekit 0.1.5: passthrough, lazily": ["mergekit-pytorch", passthrough, made or "", "--lazy-unpickle"],
        },
        "inspect": {
            "sft-cli 0.2.2: sft info": ["sft", "info", path],
            "safetensors-print 0.1.0": ["safetensors-print", path],
            "ckptkit 0.3.0: ckptkit info": ["ckptkit", "info", path],
            "checkpoint-tools 0.2.0: metadata": ["checkpoint-tools", "metadata", path],
        },
        "diff": {"sft-cli 0.2.2: sft diff --delta": ["sft", "diff", path, *more, "--delta"]},
        "stats": {"sft-cli 0.2.2: sft stat": ["sft", "stat", path], "sft check": ["sft", "check", path]},
    }
    for name, (program, *rest) in commands[job].items():
        if (PEERS / program).exists():
            yield Job(name, [PEERS / program, *rest], made)


def looks(made: dict[str, Path], folder: Path, runs: int) -> Table:
    """Commands that read no tensor."""
    table = cost(LOOKS, "Look without reading: `python -c 'import click, rich'` is the floor")
    python = [PYTHON, "-c"]
    jobs = [Job("python -c pass", [*python, "pass"])]
    jobs.append(Job("python -c 'import torch'", [sys.executable, "-c", "import torch"]))
    for name in ("DeltaLM base", "DeltaLM base with optimizer", "xlmr.large as published (legacy, fused, fp16)",
                 "XLM-R XL, fp16"):  # fmt: skip
        jobs.append(Job(f"inspect --json: {name}", [*CKPTCONV, "inspect", made[name], "--json"]))
        jobs.append(Job(f"inspect: {name}", [*CKPTCONV, "inspect", made[name]]))
    path, hf = made["DeltaLM base"], folder / "xlmr-hf" / "model.safetensors"
    jobs.append(Job("audit --against its layout, --json", [*CKPTCONV, "audit", path, "--against", "deltalm/fairseq",
                                                          "--json"]))  # fmt: skip
    jobs.append(Job("convert --dry-run --json", convert(path, folder / "none", "hf", "--dry-run", "--json")))
    jobs.append(Job("inspect --json: model.safetensors, XLM-R base", [*CKPTCONV, "inspect", hf, "--json"]))
    jobs += list(peers("inspect", hf))
    measured(table, [Job("floor: import click, rich", [*python, "import click, rich"])], jobs, 3 * runs)
    return table


def values(made: dict[str, Path], folder: Path, runs: int) -> Table:
    """Commands that read every tensor, of one file and of two."""
    table = cost("Values", "Values: reading the files once is the floor")
    path, other = made["DeltaLM base"], folder / "other.pt"
    peer = Job("torch.load(mmap=True), largest difference", [sys.executable, "-c", COMPARE, path, other])
    same = [*CKPTCONV, "convert", path, other, "--to", "same", "--no-receipt", "--overwrite"]
    for name, command, more in (
        ("equal files", ["cp", path, other], []),
        ("all values changed", [sys.executable, "-c", CHANGED, path, other], [peer]),
        ("bf16 beside fp32", [*same, "--dtype", "bf16"], []),
    ):
        once(Job("", command))
        jobs = [Job(f"diff --values, {name}", [*CKPTCONV, "diff", path, other, "--values", "--json"]), *more]
        both = ["sh", "-c", 'cat "$0" "$1" > /dev/null', path, other]
        measured(table, [Job(f"floor: cat both ({name})", both)], jobs, runs)
    other.unlink()
    for name in (BASE, LARGEST):
        job = Job(f"inspect --stats: {name}", [*CKPTCONV, "inspect", made[name], "--stats", "--json"])
        measured(table, [Job(f"floor: cat ({name})", ["sh", "-c", 'cat "$0" > /dev/null', made[name]])], [job], runs)
    measured_beside_peers(table, folder / "xlmr-hf" / "model.safetensors", folder / "other.safetensors", runs)
    return table


def measured_beside_peers(table: Table, path: Path, other: Path, runs: int) -> None:
    """The same for XLM-R base as safetensors, which the others read."""
    once(Job("", [sys.executable, "-c", CHANGED_SAFETENSORS, path, other]))
    both = ["sh", "-c", 'cat "$0" "$1" > /dev/null', path, other]
    jobs = [Job("diff --values, all changed", [*CKPTCONV, "diff", path, other, "--values", "--json"])]
    jobs += peers("diff", path, None, other)
    measured(table, [Job("floor: cat both (XLM-R base, safetensors)", both)], jobs, runs)
    jobs = [Job("inspect --stats", [*CKPTCONV, "inspect", path, "--stats", "--json"]), *peers("stats", path)]
    measured(table, [Job("floor: cat (XLM-R base)", ["sh", "-c", 'cat "$0" > /dev/null', path])], jobs, runs)
    other.unlink()


def scale(folder: Path, runs: int) -> Table:
    """Many tensors."""
    columns = ["tensors", "open, s", "detect, s", "convert --dry-run, s", "inspect --json, s", "inspect, s", "peak, MB"]
    table = Table("Scale", "Many tensors: XLM-R with so many layers", columns)
    for count in (500, 5_000, 50_000):
        path = folder / f"{count}.pt"
        if not path.exists():
            subprocess.run([sys.executable, "-c", STATES, path, str(count)], check=True)
        steps = [
            [float(part) for part in subprocess.check_output([sys.executable, "-c", STEPS, path]).split()]
            for _ in range(runs)
        ]
        inspect = [*CKPTCONV, "inspect", path]
        jobs = [convert(path, folder / "none", "hf", "--dry-run"), [*inspect, "--json"], inspect]
        found = in_turn([Job("", command) for command in jobs], runs)
        seconds = [*map(median, zip(*steps, strict=True)), *(median(run.seconds for run in those) for those in found)]
        peak = max(run.peak for those in found for run in those)
        table.add(f"{count:,}", *(f"{each:.3f}" for each in seconds), f"{peak:.0f}")
    return table


def starts(runs: int) -> Table:
    """How long each command takes to say how it is used."""
    table = cost("Starting", "Starting: `python -c 'import click, rich'` is the floor")
    jobs = [Job("python -c 'import ckptconv'", [PYTHON, "-c", "import ckptconv"])]
    jobs += [
        Job(f"ckptconv {name} --help", [*CKPTCONV, name, "--help"])
        for name in ("convert", "inspect", "diff", "audit", "validate", "verify")
    ]
    measured(table, [Job("floor: import click, rich", [PYTHON, "-c", "import click, rich"])], jobs, 3 * runs)
    return table


def summary(tables: Sequence[Table], stamp: str) -> str:
    """The rows for the README, each with the floor of its table."""
    lines = [f"Measured by `scripts/bench` on {stamp}; all of it: [docs/benchmarks.md](docs/benchmarks.md).", ""]
    lines += ["| job | seconds | beside the floor | peak memory, MB |", "|---|---|---|---|"]
    for table in tables:
        for line in table.lines:
            cells = dict(zip(table.columns, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
            if (table.about, cells[table.columns[0]]) in SHOWN:
                ratio = next(cells[name] for name in table.columns if name.startswith("beside"))
                lines.append(f"| {cells['job']} | {cells['seconds']} | {ratio} | {cells['peak memory, MB']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "bench", help="where the files go (30 GB)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", metavar="TEXT", default="", help="only files with this in their name; writes no docs")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: path for name, path in files(folder).items() if asked.only in name}
    tables = list(conversions(made, folder, asked.runs))
    if asked.only:
        return
    tables += [looks(made, folder, asked.runs), values(made, folder, asked.runs), scale(folder, asked.runs)]
    tables += [starts(asked.runs)]
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    stamp = f"{date.today()} ({machine}; medians of {asked.runs} runs)"
    head = f"# What it costs\n\nMade by `scripts/bench` on {stamp}. {' '.join(__doc__.split())}\n"
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join([head, *(table.text() for table in tables)]))
    readme = ROOT / "README.md"
    before, begin, rest = readme.read_text().partition("<!-- measured -->\n")
    readme.write_text(
        f"{before}{begin}{summary(tables, stamp)}\n<!-- /measured -->{rest.partition('<!-- /measured -->')[2]}"
    )


if __name__ == "__main__":
    main()
