"""Everything that can be known of a checkpoint before hours of training are spent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ckptconv.commands.audit import Audit, audit
from ckptconv.containers.open import open_checkpoint
from ckptconv.containers.read import Reader, check_growth
from ckptconv.conversion.labels import listed_labels
from ckptconv.errors import WrongUse
from ckptconv.keys import collapsed
from ckptconv.progress import Progress, unwatched
from ckptconv.tables.catalog import tables
from ckptconv.validation.config import config
from ckptconv.validation.findings import Finding, by_severity, found
from ckptconv.validation.subject import Asked, subject
from ckptconv.validation.task import labels, positions
from ckptconv.validation.tensors import keys, some, values
from ckptconv.validation.vocabulary import vocabulary


@dataclass(frozen=True)
class Validation:
    """What `validate` says. verdict: `ready`, `ready_with_warnings` or `not_ready`."""

    path: str
    layout: str | None
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """By the worst severity."""
        severities = {finding.severity for finding in self.findings}
        return "not_ready" if "error" in severities else "ready_with_warnings" if "warning" in severities else "ready"


def validate(
    source: Path | str,
    against: Path | str | None = None,
    dictionaries: tuple[Path | str, ...] = (),
    spm: Path | str | None = None,
    tokenizer: Path | str | None = None,
    max_positions: int | None = None,
    num_labels: int | None = None,
    labels_file: Path | str | None = None,
    table: Path | None = None,
    progress: Progress = unwatched,
    allow_unknown: bool = False,
) -> Validation:
    """Check a checkpoint against its own config and vocabulary, and against what the task needs.

    against: a layout, an HF model directory or config.json, or another checkpoint, as `audit` takes them.
    progress(bytes read, bytes in all) is called as the values are read. allow_unknown: as for `open_checkpoint`.
    Raises a CkptconvError for files that can't be read, WrongUse for options that contradict each other.
    """
    if num_labels is not None and labels_file is not None:
        raise WrongUse("--num-labels and --labels both say how many classes there are; expected one of them.")
    count = len(listed_labels(Path(labels_file))) if labels_file is not None else num_labels
    asked = Asked(
        dictionaries=tuple(map(Path, dictionaries)),
        spm=None if spm is None else Path(spm),
        tokenizer=None if tokenizer is None else Path(tokenizer),
        positions=max_positions,
        labels=count,
    )
    checkpoint = open_checkpoint(Path(source), allow_unknown)
    check_growth(checkpoint, {tensor for tensors in checkpoint.entries.values() for tensor in tensors.values()})
    with Reader(checkpoint) as reader:
        seen = subject(checkpoint, tables(table), asked, reader)
        checks = [*keys(seen), *config(seen), *vocabulary(seen), *positions(seen), *labels(seen)]
        checks += values(seen, reader, progress)
    if against is not None:
        checks += _target(audit(source, against, allow_unknown=allow_unknown))
    return Validation(str(source), seen.fit.name if seen.fit else None, by_severity(tuple(dict.fromkeys(checks))))


def _target(report: Audit) -> Iterator[Finding]:
    """What the audit against the target finds and doesn't expect, a finding for each reason."""
    for diagnosis in report.diagnoses:
        yield found("TARGET_DIFFERS", f"against {report.target}: {diagnosis.sentence}", diagnosis.advice)
    if report.diagnoses:
        return
    for code, misfits in (
        ("TARGET_MISSING", report.missing_keys),
        ("TARGET_UNEXPECTED", report.unexpected_keys),
        ("TARGET_MISMATCHED", (*report.mismatched_keys, *report.dtypes)),
    ):
        reasons: dict[str, list[str]] = {}
        for each in misfits:
            if not each.expected:
                reasons.setdefault(each.reason, []).append(each.key)
        for reason, names in reasons.items():
            message = f"against {report.target}, {len(names):,}: {some(collapsed(names))}: {reason}"
            yield found(code, message, report.advice)
