"""Checks of positions and classes against what the task needs."""

from __future__ import annotations

from collections.abc import Iterator

from ckptconv.tables.expressions import evaluate, names_in
from ckptconv.validation.findings import Finding, found
from ckptconv.validation.subject import Subject


def positions(subject: Subject) -> Iterator[Finding]:
    """Whether there are as many positions as asked for."""
    wanted, fit = subject.asked.positions, subject.fit
    for line in fit.table.resizes if fit is not None and wanted is not None else ():
        if "max_positions" in names_in(line.expression):
            before = int(evaluate(line.expression, {"max_positions": 0}))
            for dim in line.dims:
                rows = int(fit.dims.get(dim, 0)) if fit else 0
                if rows and wanted is not None and rows - before < wanted:
                    message = (
                        f"{rows - before:,} positions ({dim}: {rows:,} rows, {before} come first), {wanted:,} wanted"
                    )
                    hint = (
                        f"cut texts at {rows - before:,} tokens; rows made up with --max-positions are zeros, untrained"
                    )
                    yield found("POSITIONS_TOO_FEW", message, hint)


def labels(subject: Subject) -> Iterator[Finding]:
    """Whether the head has as many classes as the task."""
    wanted, fit = subject.asked.labels, subject.fit
    if wanted is None or fit is None:
        return
    heads = {name: size for name, size in fit.sizes.items() if name.partition("@")[0] in ("labels", "tags")}
    if not heads:
        message = f"the task has {wanted:,} classes, and the checkpoint no classification head"
        yield found("HEAD_IS_NEW", message, "it starts at random: train it, with a learning rate of its own if need be")
    for name, size in heads.items():
        if size != wanted:
            _, _, head = name.partition("@")
            which = f"the head {head}" if head else "the token classification head" if name == "tags" else "the head"
            message = f"{which} has {size:,} classes, the task {wanted:,}"
            hint = (
                "load with ignore_mismatched_sizes=True to start a new head, or use the labels that it was trained with"
            )
            yield found("LABELS_DIFFER", message, hint)
