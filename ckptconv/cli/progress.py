"""A progress bar on stderr, for work that takes more than a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_AFTER_SECONDS = 1.0
_EVERY_SECONDS = 0.1  # rich takes as long to be told of a piece as the piece takes to be written


@contextmanager
def progress_bar(show: bool) -> Iterator[Callable[[int, int], None]]:
    """A function (bytes done, bytes in all) that draws the bar once the work has taken more than a second."""
    if not show or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    bar = _Bar(time.monotonic())
    try:
        yield bar.advance
    finally:
        bar.close()


class _Bar:
    """Imports rich only when there is something to draw."""

    def __init__(self, start: float) -> None:
        self._due = start + _AFTER_SECONDS
        self._draw: Callable[[int, int], None] | None = None
        self._stop: Callable[[], None] = lambda: None

    def advance(self, done: int, total: int) -> None:
        """Show `done` of `total` bytes, now and then."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _EVERY_SECONDS
        if self._draw is None:
            self._draw = self._opened(total)
        self._draw(done, total)

    def close(self) -> None:
        """Remove the bar."""
        self._stop()

    def _opened(self, total: int) -> Callable[[int, int], None]:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        progress = Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4)
        task = progress.add_task("writing", total=total)
        progress.start()
        self._stop = progress.stop
        return lambda done, total: progress.update(task, completed=done, total=total)
