"""SHA-256 of what is read and of what is written, made by other threads meanwhile."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from ckptconv.containers.checkpoint import Checkpoint
from ckptconv.containers.files import Stamp
from ckptconv.containers.writing.output import Output, cannot_write
from ckptconv.receipts import Hashed, Hashes

_PIECE = 1 << 20
_STEP = 8 << 20  # bytes that a thread is woken up for


class Hashing:
    """The hashes of the files of a checkpoint, and of every output that `create` makes."""

    def __init__(self, checkpoint: Checkpoint, reading: ThreadPoolExecutor, writing: ThreadPoolExecutor) -> None:
        self._stop = Event()
        self._sources = reading.submit(_source_hashes, checkpoint, self._stop)
        self._writing = writing
        self._made: dict[Path, Hashed] = {}

    def create(self, path: Path, size: int) -> Output:
        """An Output whose bytes are hashed once they are settled."""
        return _Followed(path, size, self._writing, self._made)

    def stop(self) -> None:
        """Nothing more is wanted."""
        self._stop.set()

    def sources(self) -> tuple[Hashed, ...]:
        """The checkpoint's files. Raises as `receipts.Hashes` does."""
        return self._sources.result()

    def written(self, files: Mapping[str, Path]) -> list[Hashed]:
        """Name → path of finished outputs; the hashes under those names."""
        return [Hashed(name, self._made[path].size, self._made[path].sha256) for name, path in files.items()]


@contextmanager
def hashing(checkpoint: Checkpoint) -> Iterator[Hashing]:
    """Hashes the checkpoint's files while the block goes on, reading all of them, and what the block writes. Stops
    early where the block raises."""
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
        made = Hashing(checkpoint, reading, writing)
        try:
            yield made
        except BaseException:
            made.stop()
            raise


def _source_hashes(checkpoint: Checkpoint, stop: Event) -> tuple[Hashed, ...]:
    hashes = Hashes()
    stamps = {path: Stamp(*stamp) for path, stamp in checkpoint.stamps.items()}
    return tuple(hashes.of(path, stamps[path], stop.is_set) for path in checkpoint.files)


class _Followed(Output):
    """An output that another thread reads and hashes as it grows."""

    def __init__(self, path: Path, size: int, pool: ThreadPoolExecutor, made: dict[Path, Hashed]) -> None:
        super().__init__(path, size)
        self._pool, self._made = pool, made
        self._digest = hashlib.sha256()
        self._begun = 0
        self._steps: list[Future[None]] = []

    def settle(self) -> None:
        """Hashes what was written so far, some MiB at a time."""
        if self.at - self._begun >= _STEP:
            self._follow()

    def _follow(self) -> None:
        self._steps.append(self._pool.submit(self._hash, self._begun, self.at))
        self._begun = self.at

    def _hash(self, start: int, stop: int) -> None:
        """Reads the bytes back: from the page cache, which still has them."""
        with self.path.open("rb", buffering=0) as file:
            for at in range(start, stop, _PIECE):
                self._digest.update(os.pread(file.fileno(), min(_PIECE, stop - at), at))

    def _finish(self) -> None:
        self._follow()
        super()._finish()
        try:
            for step in self._steps:
                step.result()
        except OSError as problem:
            raise cannot_write(problem, self.path, self.size) from None
        self._made[self.path] = Hashed(self.path.name, self.size, self._digest.hexdigest())
