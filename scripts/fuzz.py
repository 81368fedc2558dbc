"""What scripts/fuzz runs.

python scripts/fuzz.py all [--seconds N] [--jobs N] [TARGET…]     every target, and a table of the figures
python scripts/fuzz.py one TARGET [libFuzzer's flags]               one target, for ever
python scripts/fuzz.py seed TARGET                                  writes its first corpus
python scripts/fuzz.py replay TARGET…                               their corpora once, without atheris (for coverage)

Whatever a target raises is a find, but for ckptconv's own errors; so is a run of 5 seconds or 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.containers import Checkpoint, Tensor
    from ckptconv.containers.read import Reader
    from tests.attacks.archives import Record

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".fuzz"
COVERED = ("ckptconv/tables", "ckptconv/plan")
READERS = (
    "checkpoint files gather inert latin1 oddities open paddle plain policy producer read reading rebuild safetensors "
    "settings sharded statedicts strictjson torch_legacy torch_zip torchscript zipdir pickles/*"
)
_SMALL = 1 << 22  # bytes of a tensor that is read as a whole
_MOST = 1 << 27  # bytes of the tensors of one file that are looked at
_LONGEST = 1 << 14  # bytes of an input


# ----------------------------------------------------------------------------------------------------------- targets
def _opened(folder: Path, data: bytes) -> None:
    """Open a file with these bytes, and read the tensors that it holds."""
    path = folder / "x.pt"
    path.write_bytes(data)
    _looked_at(path)


def _looked_at(path: Path) -> None:
    """Open a file or folder, as who asks again with --allow-unknown, and read what it holds as the commands do."""
    from ckptconv.containers import open_checkpoint
    from ckptconv.containers.inert import tensors_in
    from ckptconv.containers.plain import is_plain
    from ckptconv.containers.producer import producers
    from ckptconv.containers.settings import config_beside, settings
    from ckptconv.errors import Unsafe

    try:
        checkpoint = open_checkpoint(path)
    except Unsafe:
        checkpoint = open_checkpoint(path, allow_unknown=True)
    beside = config_beside(checkpoint)
    list(settings(checkpoint, beside))
    producers(checkpoint, beside)
    for node in checkpoint.other.values():
        is_plain(node)
        list(tensors_in(node))
    _read(checkpoint)


def _read(checkpoint: Checkpoint) -> None:
    """Everything about the tensors that a command would want to know."""
    from ckptconv.containers import stored_bytes
    from ckptconv.containers.checkpoint import shared_views
    from ckptconv.containers.oddities import odd_keys, shared_storages, unused_bytes
    from ckptconv.containers.read import Reader, check_growth

    left = _MOST
    with Reader(checkpoint) as reader:
        for state_dict in checkpoint.entries.values():
            odd_keys(tuple(state_dict))
            shared_views(state_dict)
            shared_storages(state_dict)
            unused_bytes(state_dict.values())
            stored_bytes(state_dict.values())
            check_growth(checkpoint, state_dict.values())
            last = None
            for tensor in state_dict.values():
                if tensor.nbytes > left:
                    continue
                left -= tensor.nbytes
                if tensor.nbytes < _SMALL:
                    _check_whole(reader, tensor)
                    assert last is None or reader.equal(tensor, last) == reader.equal(last, tensor)
                    last = tensor
                _check_ends(reader, tensor)


def _check_ends(reader: Reader, tensor: Tensor) -> None:
    """The first and the last element are those that lie where the view begins and ends."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    size = tensor.dtype.itemsize
    for start, place in ((0, 0), (tensor.nbytes - size, reach)) if tensor.numel else ():
        element = tensor._replace(shape=(1,), strides=(1,), offset=tensor.offset + place)
        assert b"".join(reader.chunks(tensor, start, start + size)) == reader.read(element)


def _check_whole(reader: Reader, tensor: Tensor) -> None:
    """All of it is as long as it says, equal to itself and to what is read of it in two parts."""
    whole, middle = reader.read(tensor), tensor.nbytes // 3
    assert len(whole) == tensor.nbytes
    assert reader.equal(tensor, tensor)
    assert b"".join(reader.chunks(tensor, 0, middle)) + b"".join(reader.chunks(tensor, middle)) == whole


def _pickled(folder: Path, data: bytes) -> None:
    """The bytes as the pickle of a sound torch zip with a small storage, "0", and a large one, "1"."""
    from tests.attacks.archives import FLOATS, torch_zip

    _opened(folder, torch_zip(data, {"0": FLOATS}, [_large()]))


@cache
def _large() -> Record:
    """A storage of 10 MB, compressed once for all."""
    from tests.attacks.archives import Record
    from tests.attacks.views import large

    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    told = {"method": 8, "crc": zlib.crc32(large()), "size": len(large())}
    return Record("archive/data/1", packer.compress(large()) + packer.flush(), local=told, central=told)


def _index(folder: Path, data: bytes) -> None:
    """The bytes as the index of a sharded checkpoint, beside sound shards."""
    from tests.attacks.archives import ONE, torch_zip
    from tests.attacks.index_lies import ONE_B, A, B
    from tests.attacks.opcodes import mapping, pickled, tensor

    if not (folder / A).exists():
        nested = torch_zip(pickled(mapping(("model", mapping(("w", tensor()))))))
        shards = {"a.safetensors": ONE, A: ONE, B: ONE_B, "good.bin": torch_zip(), "nested.bin": nested}
        for name, shard in shards.items():
            (folder / name).write_bytes(shard)
    path = folder / "x.json"
    path.write_bytes(data)
    _looked_at(path)


def _config(folder: Path, data: bytes) -> None:
    """The bytes as the config.json beside a sound checkpoint."""
    from tests.attacks.archives import ONE

    (folder / "config.json").write_bytes(data)
    _opened(folder, ONE)


def _table(folder: Path, data: bytes) -> None:
    """The bytes as a mapping table, parsed and linted."""
    from ckptconv.tables.lint import lint
    from ckptconv.tables.parse import read_table

    path = folder / "x.tbl"
    path.write_bytes(data)
    lint(read_table(path))


def _planned(folder: Path, data: bytes) -> None:
    """The bytes as a choice of layout, and of keys that are lost, added or reshaped: detection, and every plan."""
    from ckptconv.dtypes import BY_NAME
    from ckptconv.plan import Facts, choose, make_plan
    from ckptconv.tables.candidates import candidates
    from ckptconv.tables.catalog import tables
    from ckptconv.tables.fit import expected_keys

    known, at = tables(), 0

    def draw(below: int) -> int:
        nonlocal at
        at += 1
        return data[at - 1] % below if at <= len(data) else 0

    table = known[draw(len(known))]
    layout = table.layouts[draw(len(table.layouts))].name
    dims: dict[str, int | bool] = {symbol: 6 for row in table.rows for symbol in row.shape}
    dims |= {"encoder_layers": draw(4), "decoder_layers": draw(4), "layers": draw(4)}
    dims |= {option: bool(draw(2)) for row in table.rows if (option := (row.option or "").removeprefix("!"))}
    dims |= {"head=mnli": bool(draw(2)), "labels": draw(5), "labels@mnli": draw(5)}
    shapes = dict(expected_keys(table, layout, dims))
    for key in list(shapes):
        change = draw(40) if at < len(data) else 39
        if change == 0:
            del shapes[key]
        elif change == 1:
            shapes[key] = (*shapes[key][1:], draw(5))
        elif change == 2:
            shapes[f"{key}.{draw(9)}"] = shapes[key]
    best = candidates(known, {"": shapes})[0]
    facts = Facts({}, frozenset(), {})
    dtypes = dict.fromkeys(best.spelled.original, BY_NAME["F32"])
    for each in best.table.layouts if best.exact else ():
        if each != best.layout:
            make_plan(best, each.name, facts, choose(best, each.name), dtypes, None)


@dataclass(frozen=True)
class Target:
    """run: folder to work in, bytes. seeds: the groups of tests/attacks that it begins with. file: the one of their
    files that is taken, if it isn't the one that commands are given."""

    run: Callable[[Path, bytes], None]
    seeds: tuple[str, ...]
    file: str = ""


TARGETS = {
    "zip": Target(_opened, ("zip-lies", "tensor-lies", "legal")),
    "pickle": Target(_pickled, ("execution", "pickle-bombs", "tensor-lies", "legal")),
    "legacy": Target(_opened, ("legacy-lies", "truncations", "legal")),
    "safetensors": Target(_opened, ("safetensors-lies", "legal")),
    "torchscript": Target(_opened, ("torchscript", "legal")),
    "paddle": Target(_opened, ("paddle", "legal")),
    "index": Target(_index, ("index-lies",)),
    "config": Target(_config, ("companions", "legal"), "config.json"),
    "table": Target(_table, ("tables",)),
    "plan": Target(_planned, ()),
}


def harmless(target: Target, folder: Path, data: bytes) -> None:
    """Runs the target; ckptconv's own errors are what it should end in."""
    from ckptconv.errors import CkptconvError

    with suppress(CkptconvError):
        target.run(folder, data)


def seed(name: str, folder: Path) -> None:
    """The first corpus: small files of the attacks, the pickles in them, the tables that ship."""
    from tests.attacks.manifest import CASES

    folder.mkdir(parents=True, exist_ok=True)
    if name == "table":
        for path in ROOT.glob("mappings/*.tbl"):
            for number, block in enumerate(re.split(r"\n\n", path.read_text())):
                (folder / f"{path.stem}{number}").write_text(block)
    if name == "plan":
        for number in range(40):
            (folder / f"seed{number}").write_bytes(bytes((number * 7 + at * number) % 256 for at in range(number * 3)))
        return
    target = TARGETS[name]
    for number, case in enumerate(CASES):
        if case.name.partition("/")[0] not in target.seeds:
            continue
        with tempfile.TemporaryDirectory() as made, suppress(OSError):
            case.build(Path(made))
            path = Path(made) / (target.file or case.source)
            if not path.is_file() or path.is_symlink() or path.stat().st_size > _MOST:
                continue
            data = path.read_bytes()
            if name == "pickle":
                data = _pickle_in(path)
            if data and len(data) <= _LONGEST:
                (folder / f"seed{number}").write_bytes(data)


def _pickle_in(path: Path) -> bytes:
    """The pickle of a torch zip; nothing of another file."""
    with suppress(Exception), zipfile.ZipFile(path) as archive:
        return archive.read(next(each for each in archive.namelist() if each.endswith("data.pkl")))
    return b""


# ------------------------------------------------------------------------------------------------------------ running
def one(name: str, flags: Sequence[str]) -> None:
    """Fuzz one target for as long as libFuzzer's flags say."""
    import atheris

    readers = (path for each in READERS.split() for path in ROOT.glob(f"ckptconv/containers/{each}.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in readers]
    with atheris.instrument_imports(include=["ckptconv"]):  # all of them: what is imported later isn't followed
        for module in (*names, "ckptconv.plan", "ckptconv.detect", "ckptconv.tables.catalog", "ckptconv.tables.lint"):
            import_module(module)
    target = TARGETS[name]
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    atheris.Setup([sys.argv[0], *flags], lambda data: harmless(target, folder, bytes(data)))
    atheris.Fuzz()


def replay(names: Sequence[str]) -> None:
    """Every file of the corpora once; every attack with all its files, since some are folders; and real checkpoints."""
    from ckptconv.errors import CkptconvError
    from tests.attacks.manifest import CASES

    for case in CASES:
        with tempfile.TemporaryDirectory() as folder, suppress(OSError, CkptconvError):
            case.build(Path(folder))
            _looked_at(Path(folder) / case.source)
    for path in sorted((ROOT / "tests" / "golden").glob("*.*")):
        with suppress(CkptconvError):
            _looked_at(path)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for path in sorted((WORK / name / "corpus").iterdir()):
                harmless(TARGETS[name], Path(folder), path.read_bytes())


@dataclass(frozen=True)
class Figures:
    """Of one target."""

    name: str
    executions: int
    seconds: int
    corpus: int
    finds: int


def fuzz(name: str, seconds: int) -> Figures:
    """Fuzz a target in a process of its own."""
    place = WORK / name
    finds = place / "finds"
    finds.mkdir(parents=True, exist_ok=True)
    # In a process of its own: libFuzzer takes the memory of the one that starts it for its own.
    subprocess.run([sys.executable, __file__, "seed", name], check=True)
    limits = [f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=1024", f"-max_len={_LONGEST}"]
    command = [sys.executable, __file__, "one", name, *limits, "-print_final_stats=1", f"-artifact_prefix={finds}/"]
    done = subprocess.run([*command, str(place / "corpus")], capture_output=True, text=True, check=False)
    (place / "log.txt").write_text(done.stdout + done.stderr)
    count = re.findall(r"number_of_executed_units: (\d+)", done.stderr)
    broken = done.returncode != 0 and not any(finds.iterdir())
    if broken:
        sys.stderr.write(done.stderr[-2000:])
    runs = int(count[-1]) if count else 0
    return Figures(name, runs, seconds, len(os.listdir(place / "corpus")), len(os.listdir(finds)) + broken)


def coverage(names: Sequence[str]) -> dict[str, float]:
    """Folder → share of the branches that the corpora reach, in percent; `readers` for the readers alone."""
    base = [sys.executable, "-m", "coverage"]
    data = {**os.environ, "COVERAGE_FILE": str(WORK / "coverage")}
    run = [*base, "run", "--branch", f"--source={ROOT / 'ckptconv'}", __file__, "replay", *names]
    subprocess.run(run, env=data, check=True)
    found = {}
    for label, patterns in [(folder, [f"{folder}/*", folder]) for folder in COVERED] + [
        ("the readers", [f"ckptconv/containers/{name}.py" for name in READERS.split()])
    ]:
        include = ",".join(str(ROOT / pattern) for pattern in patterns)
        told = subprocess.run(
            [*base, "json", "-q", "-o", "-", f"--include={include}"],
            env=data,
            capture_output=True,
            text=True,
            check=False,
        )
        if told.returncode == 0:
            totals = json.loads(told.stdout)["totals"]
            branches = totals["num_branches"]
            found[label] = 100 * totals["covered_branches"] / branches if branches else 100.0
    return found


def main() -> int:
    """See the module's text."""
    if sys.argv[1] == "one":
        one(sys.argv[2], sys.argv[3:])
        return 0
    if sys.argv[1] == "seed":
        seed(sys.argv[2], WORK / sys.argv[2] / "corpus")
        return 0
    if sys.argv[1] == "replay":
        replay(sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser()
    parser.add_argument("all")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    asked = parser.parse_intermixed_args()
    names = asked.targets or list(TARGETS)
    with ThreadPoolExecutor(asked.jobs) as pool:
        figures = list(pool.map(lambda name: fuzz(name, asked.seconds), names))
    print(f"{'target':12} {'executions':>12} {'per second':>11} {'corpus':>7} {'finds':>6}")
    for each in figures:
        rate = each.executions // max(1, each.seconds)
        print(f"{each.name:12} {each.executions:12,} {rate:11,} {each.corpus:7,} {each.finds:6,}")
    print(f"{'all':12} {sum(each.executions for each in figures):12,}")
    for label, share in coverage(names).items():
        print(f"branches of {label:28} {share:5.1f} %")
    return 1 if any(each.finds for each in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
