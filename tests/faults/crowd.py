"""Several conversions to one place at the same time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ckptconv import Options
from ckptconv.conversion.prepare import Prepared, prepare
from ckptconv.conversion.write import write
from tests.faults.calls import Calls
from tests.faults.cases import OUTPUTS, Tree, add_foreign_files, temporaries, tree
from tests.faults.trials import REFUSED, Figures, ended, forked

# What the processes write: the same output with other options, so that a mixture shows.
_OPTIONS = tuple(
    {"dtype": dtype, "max_shard_size": size} for dtype in ("fp32", "bf16") for size in (20_000, 50_000, 1_000_000)
)


@dataclass(frozen=True)
class Crowd:
    """results: what each of the conversions alone would leave. before: the folder at the start."""

    output: str
    prepared: tuple[Prepared, ...]
    results: tuple[Tree, ...]
    before: Path
    overwrite: bool


def make_crowd(name: str, there: str, overwrite: bool, scratch: Path) -> Crowd:
    """there: `nothing`, `empty` (a directory), `old` (an earlier output, and files of others)."""
    wanted = OUTPUTS[name]
    before = scratch / f"crowd-{name}-{there}-{overwrite}"
    before.mkdir(parents=True)
    place = before / wanted.name
    options = _OPTIONS if wanted.name == "out" else tuple({"dtype": dtype} for dtype in ("fp32", "bf16", "fp16"))
    source = wanted.source(scratch)
    if there == "empty":
        place.mkdir()
    elif there == "old":
        write(prepare(source, Options(**wanted.old)), place, _silent)
        if place.is_dir():
            add_foreign_files(place)
    prepared = tuple(prepare(source, Options(**{**wanted.new, **each}, overwrite=overwrite)) for each in options)
    return Crowd(wanted.name, prepared, tuple(_alone(each, before, place) for each in prepared), before, overwrite)


def _silent(done: int, total: int) -> None:
    pass


def _alone(prepared: Prepared, before: Path, place: Path) -> Tree:
    folder = before.with_name("alone")
    shutil.copytree(before, folder, symlinks=True)
    write(prepared, folder / place.name, _silent)
    result = tree(folder / place.name)
    shutil.rmtree(folder)
    assert result is not None
    return result


def together(crowd: Crowd, folder: Path, count: int, exchange: bool = True) -> Figures:
    """That many conversions, started in one moment. Either all of them are done and one is what remains, or, without
    overwriting, one is done and the others are refused."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(crowd.before, folder, symlinks=True)
    gate, opened = os.pipe()

    def work(prepared: Prepared) -> Callable[[], None]:
        def run() -> None:
            os.close(opened)
            Calls(exchange=exchange).install()
            os.read(gate, 1)
            write(prepared, folder / crowd.output, _silent)

        return run

    started = [forked(work(crowd.prepared[number % len(crowd.prepared)])) for number in range(count)]
    os.close(gate)
    os.close(opened)
    return _judged(crowd, folder, [ended(*each) for each in started])


def _judged(crowd: Crowd, folder: Path, ends: Iterable[tuple[str, str]]) -> Figures:
    figures = Figures(runs=1)
    ends = list(ends)
    there = tree(folder / crowd.output)
    done = [number for number, (end, _) in enumerate(ends) if end == "done"]
    refused = [said for end, said in ends if end == REFUSED and "is there already" in said]
    if there not in crowd.results:
        figures.partial += 1
    elif crowd.overwrite:
        figures.wrong += len(done) != len(ends)
    else:
        alone = len(done) == 1 and there == crowd.results[done[0] % len(crowd.results)]
        figures.wrong += not alone or len(refused) != len(ends) - 1
    figures.leftovers += bool(temporaries(folder))
    if figures.bad:
        figures.told.append(f"{crowd.before.name}: {ends}; {sorted(there or {})}; {figures}")
    return figures
