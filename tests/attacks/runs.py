"""The command lines that every case goes through, and what is looked at afterwards."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.attacks.case import Case

SECONDS = 20.0  # nothing may hang longer
CPU, MEMORY = 5.0, (256 - 30) << 20  # a fork has 30 MiB less than a process of its own
ROOT = Path(__file__).parent.parent.parent
# What a terminal obeys or reads from right to left: C0 but for the newline, DEL, C1, bidirectional controls.
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ufeff]")
_CONVERT = {"x.safetensors": "--json", "x.pt": "", "x": "--quiet"}


@dataclass(frozen=True)
class Ended:
    """How one command ended."""

    argv: tuple[str, ...]
    exit: int
    out: str
    err: str
    cpu: float
    wall: float
    memory: int
    timed_out: bool
    left: tuple[str, ...]


class Runner:
    """The child process that forks for every command."""

    def __init__(self, logs: Path, *loaded: str) -> None:
        self.logs = logs
        self.process = subprocess.Popen(
            [sys.executable, "-X", "utf8", "-m", "tests.attacks.child", *loaded],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def run(self, argv: tuple[str, ...], cwd: Path, files: list[Path], **more: Any) -> Ended:
        """One command in the folder `cwd`, where it may write; it may read `files` and nothing else."""
        told = {"argv": list(argv), "cwd": str(cwd), "files": list(map(str, files)), "logs": str(self.logs)}
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps({"seconds": SECONDS, **told, **more}), file=self.process.stdin, flush=True)
        result = json.loads(self.process.stdout.readline())
        out, err = ((self.logs / name).read_bytes().decode("utf-8", "backslashreplace") for name in ("out", "err"))
        left = tuple(sorted(str(path.relative_to(cwd)) for path in cwd.rglob("*")))
        return Ended(argv, out=out, err=err, left=left, **result)

    def close(self) -> None:
        """Ends the child."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


def command_lines(case: Case, source: str) -> Iterator[tuple[str, ...]]:
    """Every command line of a case; `{out}` stands for a name in an empty folder."""
    yield from case.lines
    if case.lines:
        return
    lines: dict[str, list[tuple[str, ...]]] = {
        "inspect": [("--json",), ("--tensors", "--config")],
        "convert": [("{out}/x.safetensors", "--to", "same", "--json"), ("{out}/x.pt", "--to", "same")],
        "diff": [(source, "--values", "--json"), (source, "--values")],
        "audit": [("--against", "xlmr/hf", "--json"), ("--against", source)],
        "validate": [("--json",), ()],
    }
    if case.forms:
        lines["inspect"] += [("--stats", "--json"), ("--csv",), ("--markdown", "--config"), ("--stats", "--markdown")]
        lines["convert"] += [("{out}/x", "--to", "same", "--quiet")]
        lines["diff"] += [(source, "--values", "--csv"), (source, "--markdown")]
        lines["audit"] += [("--against", source, "--csv"), ("--against", source, "--markdown")]
        lines["validate"] += [("--csv",), ("--against", source, "--markdown")]
    for command in case.commands:
        for number, line in enumerate(lines[command]):
            if case.forms or command in ("inspect", "convert") or number == 0:
                yield (command, source, *line, *case.options.get(command, ()))


def problems(case: Case, ended: Ended, spare: int = 0) -> Iterator[str]:
    """What is wrong with how a command ended; nothing, if all is well. spare: bytes that any command takes there."""
    command, exits = ended.argv[0], case.exits(ended.argv[0])
    if case.must == "looked at" and command in ("inspect", "diff"):
        exits = frozenset({3 if {"--stats", "--values"} & set(ended.argv) else 0})
    if ended.timed_out or ended.cpu > CPU:
        yield f"took {ended.cpu:.1f} s of CPU, {ended.wall:.1f} s in all"
    if ended.memory > MEMORY + spare:
        yield f"took {ended.memory >> 20} MiB"
    if ended.exit not in exits:
        yield f"ended with {ended.exit}, expected one of {sorted(exits)}"
    if "Traceback" in ended.err + ended.out or "failed unexpectedly" in ended.err + ended.out:
        yield "a traceback"
    if raw := RAW.search(ended.out + ended.err):
        yield f"the raw character {raw[0]!a} in the output"
    error = yield from _error(case, ended) if ended.exit == 3 else iter(())
    if "canary" in ended.left:
        yield "the payload ran"
    written = [name for name in ended.left if not name.startswith("x")]
    if written or (ended.left and (command != "convert" or ended.exit)):
        yield f"left {ended.left}"
    if ended.exit in exits and exits == {3} and error is not None:
        if case.kinds and error[0] and error[0] not in case.kinds:
            yield f"the error is of kind {error[0]}, expected one of {sorted(case.kinds)}: {error[1]}"
        if case.told not in error[1]:
            yield f"expected {case.told!r} in: {error[1]}"


def _error(case: Case, ended: Ended) -> Any:
    """(kind, message) of the one error that was told."""
    if "--json" not in ended.argv:
        if ended.out or not ended.err.startswith("error: ") or not ended.err.endswith("\n"):
            yield f"no one sentence: {ended.err!r:.300}"
        return "", ended.err
    try:
        error = json.loads(ended.out, parse_constant=_no_constant)["error"]
    except (ValueError, KeyError, TypeError) as problem:
        yield f"no JSON document with an error ({problem!r}): {ended.out!r:.200}"
        return "", ""
    if set(error) != {"kind", "message", "path"} or not error["message"] or error["kind"] == "internal":
        yield f"an odd error: {error}"
    if ended.err.strip():
        yield f"something on stderr beside the document: {ended.err!r:.200}"
    return error["kind"], error["message"]


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def whole_document(ended: Ended) -> Iterator[str]:
    """What is wrong with the JSON of a command that succeeded."""
    if "--json" in ended.argv and ended.exit != 3:
        try:
            json.loads(ended.out, parse_constant=_no_constant)
        except ValueError as problem:
            yield f"not one JSON document ({problem}): {ended.out[:100]!r}"
