"""The README's screens, made by real runs on files that ship with the project.

Each stands in a `console` block that begins with its command, `$ ckptconv …`; the rest of the block is replaced.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"^```console\n\$ (ckptconv [^\n]+)\n.*?^```$", re.MULTILINE | re.DOTALL)
_MOST = 34  # lines of a screen


def screen(command: str, folder: Path) -> str:
    """What the command prints in a terminal of 80 columns, without colour, run in `folder`."""
    program = [sys.executable, "-m", *shlex.split(command)]
    # rich: a terminal, although it is a pipe; a dumb one, which has 80 columns and no colour
    environment = {**os.environ, "TTY_COMPATIBLE": "1", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(f"{command}: {done.stderr}")
    lines = done.stdout.rstrip().splitlines()
    return "\n".join(lines[:_MOST] + ["…"] * (len(lines) > _MOST))


def with_screens(text: str) -> str:
    """The text with every screen as it is today; a command finds what those before it have written."""
    with TemporaryDirectory() as made:
        for name in ("examples", "tests"):
            Path(made, name).symlink_to(ROOT / name)
        return _BLOCK.sub(lambda block: f"```console\n$ {block[1]}\n{screen(block[1], Path(made))}\n```", text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_screens(readme.read_text(encoding="utf-8")), encoding="utf-8")
