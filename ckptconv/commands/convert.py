"""From a checkpoint in one layout to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ckptconv.conversion.prepare import Options, prepare
from ckptconv.plan import Plan
from ckptconv.progress import Progress, unwatched
from ckptconv.tables.fields import FieldValue


@dataclass(frozen=True)
class Conversion:
    """What a conversion did, or with `dry_run` would do.

    files: what was written, relative to the output (empty on a dry run). overflowed: key → values that became
    infinite in the cast.
    """

    path: str
    output: str
    plan: Plan
    config: tuple[FieldValue, ...]
    notes: tuple[str, ...]
    files: tuple[str, ...] = ()
    overflowed: Mapping[str, int] = field(default_factory=dict)


def convert(
    source: Path | str,
    output: Path | str,
    options: Options,
    dry_run: bool = False,
    progress: Progress = unwatched,
) -> Conversion:
    """Convert the checkpoint at `source` to `output`; with `dry_run`, only say what would be done.

    progress(bytes written, bytes in all) is called as the writing goes on. Raises a CkptconvError, with nothing
    written, for anything that can't be read, doesn't fit or can't be written.
    """
    prepared = prepare(Path(source), options)
    plan, config = prepared.plan, prepared.config.values
    if dry_run:
        there = Path(output).exists() and not options.overwrite
        notes = (
            (*prepared.notes, "the output is there already: without --overwrite it is kept")
            if there
            else prepared.notes
        )
        return Conversion(str(source), str(output), plan, config, notes)
    from ckptconv.conversion.write import write

    written = write(prepared, Path(output), progress)
    notes = (*prepared.notes, *written.notes)
    return Conversion(str(source), str(output), plan, config, notes, written.files, written.overflowed)


__all__ = ["Conversion", "Options", "convert"]
