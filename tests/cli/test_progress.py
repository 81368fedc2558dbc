"""The progress bar, on a real terminal and in a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ckptconv.cli import progress

WORK = """
import sys, time
from ckptconv.cli.progress import progress_bar
seconds, until = float(sys.argv[1]), time.monotonic() + float(sys.argv[1])
with progress_bar(True) as advance:
    while (left := until - time.monotonic()) > 0:
        advance(int(8e9 * (1 - left / seconds)), 8_000_000_000)
        time.sleep(0.005)
print("rich" in sys.modules)
"""


def on_a_terminal(seconds: float) -> tuple[str, str]:
    """(stdout, what stderr, a terminal, was sent)"""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", WORK, str(seconds)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment) as process:
        os.close(theirs)
        sent = b"".join(_read(ours))
        assert process.stdout is not None
        return process.stdout.read().strip(), sent.decode()


def _read(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux's way to say that the other end was closed
            piece = b""
        if not piece:
            os.close(terminal)
            return
        yield piece


def test_long_work_shows_bytes_rate_and_time_left():
    imported, sent = on_a_terminal(2.5)
    assert imported == "True"
    assert re.search(r"\d\.\d/8\.0 GB", sent), sent
    assert re.search(r"\d\.\d GB/s", sent), sent
    assert re.search(r"0:00:0\d", sent), sent
    assert sent.endswith(("\x1b[2K", "\x1b[?25h", "\r")), repr(sent[-40:])  # and takes it away at the end


def test_short_work_shows_nothing_and_imports_nothing_for_it():
    assert on_a_terminal(0.5) == ("False", "")


def test_a_pipe_is_sent_nothing():
    done = subprocess.run([sys.executable, "-c", WORK, "1.3"], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_rich_is_told_ten_times_a_second_however_many_the_pieces(monkeypatch: pytest.MonkeyPatch):
    clock, drawn = [0.0], []
    bar = progress._Bar(start=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(bar, "_opened", lambda total: lambda done, total: drawn.append((done, total)))
    for piece in range(30_000):
        clock[0] = piece / 10_000
        bar.advance(piece, 30_000)
    assert 19 <= len(drawn) <= 21
    assert drawn[0] == (10_000, 30_000)
