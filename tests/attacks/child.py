"""Runs commands in forked children under limits and an audit hook. Talks JSON lines: a job in, what happened out.

A job: {"argv": […], "cwd": folder, "files": [folders and files that may be opened], "seconds": n}.
With `transformers` as its argument, it and torch are loaded before the first job, and may be used.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import sysconfig
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import ckptconv
from tests.attacks.case import words

PACKAGE = Path(ckptconv.__file__).parent
LIBRARY = (*sysconfig.get_paths().values(), *(path for path in sys.path if path.endswith(".zip")))
OWN = (str(PACKAGE), str(PACKAGE.parent / "mappings"), *LIBRARY, "/dev/null")
FORBIDDEN_IMPORTS = frozenset(
    words("""
    torch transformers fairseq safetensors pickle _pickle cPickle subprocess socket multiprocessing
    runpy webbrowser urllib http pty shelve dill cloudpickle joblib zipimport
    """)
)
FORBIDDEN = (
    *("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.", "socket."),
    *("pickle.", "webbrowser.", "urllib.", "ftplib.", "smtplib.", "code.__new__", "os.kill"),
    *("signal.pthread_kill", "os.putenv", "os.unsetenv", "sys.addaudithook", "cpython.run", "builtins.input"),
)
RENAMES = ("renameat2", "renameatx_np")  # what a finished output is put in its place with
PATHS = frozenset(
    words("""
    open os.listdir os.scandir os.remove os.rename os.rmdir os.mkdir os.link os.symlink os.chmod
    os.chown os.truncate os.utime os.mkfifo os.mknod shutil.rmtree shutil.copyfile shutil.move
    """)
)


def warm() -> None:
    """Everything that the commands import, so that a child has nothing left to import."""
    for name in (
        "numpy",
        "rich.console",
        "rich.table",
        "sentencepiece.sentencepiece_model_pb2",
        "csv",
        "encodings.idna",
    ):
        import_module(name)
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if not {"hf", "fairseq_plugin", "__main__", "__init__"} & set(parts):
            import_module(".".join(parts))
    from rich.console import Console

    Console(file=open(os.devnull, "w")).print("x")  # noqa: SIM115  # loads rich's own parts


def warm_transformers() -> None:
    """torch, transformers and what they load for a first model; from here on they may import their own parts."""
    from tests.attacks.companions import GOLDEN, WEIGHTS

    config = GOLDEN / "hf_xlmr_tokcls.config.json"
    import_module("ckptconv.commands.audit").audit(WEIGHTS, config)
    GUARD.imports = frozenset(words("subprocess socket pty webbrowser http runpy cloudpickle joblib"))


class Guard:
    """The audit hook: what a command does beyond reading its own files is written down and ends the process."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()
        self.imports = FORBIDDEN_IMPORTS

    def arm(self, allowed: list[str]) -> None:
        """From here on."""
        self.allowed = (*OWN, *map(os.path.realpath, allowed), *allowed)
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called by the interpreter."""
        if event == "builtins.id":  # asked of every node of a pickle: looking closer would take longer than the reading
            return
        if event == "import" and arguments[0].partition(".")[0] in self.imports:
            self.stop(f"import {arguments[0]}")
        elif (
            (event == "ctypes.dlopen" and arguments[0] is not None)
            or (event.startswith("ctypes.dlsym") and arguments[-1] not in RENAMES)
            or event.startswith(FORBIDDEN)
        ):
            self.stop(f"{event} {arguments!r:.200}")
        elif event in PATHS:
            for path in arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]:
                if isinstance(path, (str, bytes)) and not self.is_own(os.fsdecode(path)):
                    self.stop(f"{event} {path!r:.200}")

    def is_own(self, path: str) -> bool:
        """Whether the path, links and all, lies where the command has business."""
        folder, name = os.path.split(os.path.abspath(path))
        place = os.path.join(os.path.realpath(folder), name)
        return any(place == own or place.startswith(own.rstrip("/") + "/") for own in self.allowed)

    def stop(self, what: str) -> None:
        """Ends the process: nothing could catch this."""
        os.write(2, f"\nAUDIT: {what}\n".encode())
        os._exit(99)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """What became of one command."""
    out, err = (os.path.join(job["logs"], name) for name in ("out", "err"))
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(job, out, err)
    timed_out = not _ended(pid, job["seconds"])
    if timed_out:
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return {
        "exit": os.waitstatus_to_exitcode(status),
        "timed_out": timed_out,
        "cpu": usage.ru_utime + usage.ru_stime,
        "wall": time.monotonic() - started,
        "memory": usage.ru_maxrss << 10,
    }


def _ended(pid: int, seconds: float) -> bool:
    waiter = os.pidfd_open(pid)
    try:
        return bool(select.select([waiter], [], [], seconds)[0])
    finally:
        os.close(waiter)


def _child(job: dict[str, Any], out: str, err: str) -> None:
    code = 98
    try:
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(job["cwd"])
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(number, mode, encoding="utf-8") for number, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        GUARD.arm([job["cwd"], *job["files"]])
        before = set(sys.modules)
        if job.get("unsafe") == "import":
            before.discard("pickle")
        if job.get("unsafe"):
            _unsafe(job["unsafe"], job["argv"][-1])
        from ckptconv.cli import main

        main(job["argv"])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
        if loaded := GUARD.imports & (sys.modules.keys() - before):
            GUARD.stop(f"imported {sorted(loaded)}")
    except BaseException as problem:
        os.write(2, f"Traceback (of the child): {problem!r}\n".encode(errors="replace"))
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _unsafe(how: str, path: str) -> None:
    """What a careless reader would do, so that a test can see that it is seen."""
    data = Path(path).read_bytes()
    if how == "pickle":
        sys.modules["pickle"].loads(data)
    elif how == "control":
        os.write(1, b"\x1b[31m")
    elif how == "memory":
        b"x" * (300 << 20)
    elif how == "hang":
        time.sleep(60)
    elif how == "read":
        Path("/etc/hostname").read_bytes()
    elif how == "import":
        sys.modules.pop("pickle", None)
        import_module("pickle")
        return
    elif how == "litter":
        Path("litter").touch()
    sys.exit(3)


if __name__ == "__main__":
    GUARD = Guard()
    warm()
    if "transformers" in sys.argv:
        warm_transformers()
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
