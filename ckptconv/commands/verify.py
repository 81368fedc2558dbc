"""Whether a conversion lost nothing: every tensor, the config, the forward pass; or the files against their receipt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptconv import receipts
from ckptconv.containers.checkpoint import Checkpoint
from ckptconv.containers.open import open_checkpoint
from ckptconv.containers.read import Reader, check_growth
from ckptconv.conversion.prepare import source_documents
from ckptconv.detect import detect, require_state_dict, shapes, state_dict_of, with_head_of
from ckptconv.errors import DoesNotFit, WrongUse
from ckptconv.progress import Progress, counter, unwatched
from ckptconv.proof import by_keys, by_table
from ckptconv.proof.config import Disagreement, disagreements, unsaid
from ckptconv.proof.found import Proof
from ckptconv.proof.values import Values
from ckptconv.receipts import Verdict
from ckptconv.tables.catalog import Tables, tables
from ckptconv.tables.expand import names_of, row_names
from ckptconv.tables.fit import Fit, fit
from ckptconv.text import printable

if TYPE_CHECKING:
    from ckptconv.forward import Forward


@dataclass(frozen=True)
class Verification:
    """What `verify` says.

    path, output: as given; output is None where the files were held against their receipt. proof: of the tensors.
    config: what the two configs say differently. files: of the receipt. forward: None where it wasn't asked for.
    """

    path: str
    output: str | None
    proof: Proof | None = None
    config: tuple[Disagreement, ...] = ()
    files: tuple[Verdict, ...] = ()
    forward: Forward | None = None
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """`proved`, `proved_with_losses` (all that is there is right, some of the source isn't there), `differs`, or
        `not_run` (the tensors are right, the forward pass could not run); of a receipt, `intact` or `changed`."""
        if self.proof is None:
            return "intact" if all(each.status == "same" for each in self.files) else "changed"
        if not self.proof.holds or self.config or (self.forward and self.forward.passed is False):
            return "differs"
        if self.forward and self.forward.passed is None:
            return "not_run"
        return "proved" if self.proof.whole else "proved_with_losses"

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict not in ("differs", "changed", "not_run")


def verify(
    source: Path | str,
    output: Path | str | None = None,
    forward: bool = False,
    table: Path | None = None,
    progress: Progress = unwatched,
    allow_unknown: bool = False,
) -> Verification:
    """Prove that `output` holds what `source` holds, whatever tool wrote it; without `output`, that the files of
    `source`, which `convert` wrote, are as they were written.

    forward: run both models too, on the same batches. progress(bytes compared, bytes in all) is called as it goes on.
    allow_unknown: as for `open_checkpoint`. Raises a CkptconvError for files that can't be read, DoesNotFit for two
    models that have nothing to do with each other.
    """
    if output is None:
        if forward:
            raise WrongUse("--forward compares two models; expected SRC and DST.")
        return Verification(str(source), None, files=receipts.check(Path(source)))
    known = tables(table)
    before, after = (_opened(path, known, allow_unknown) for path in (Path(source), Path(output)))
    with Reader(before.checkpoint, after.checkpoint) as reader:
        for side in (before, after):
            check_growth(side.checkpoint, set(side.tensors.values()))
        total = sum(tensor.nbytes for tensor in after.tensors.values())
        values = Values(reader, counter(progress, total))
        if _by_table(before, after):
            return _with_table(before, after, values, forward, str(source), str(output))
        proof = by_keys.prove(before.tensors, after.tensors, values)
    return Verification(str(source), str(output), proof, forward=_run(before, after) if forward else None)


@dataclass(frozen=True)
class _Opened:
    """A checkpoint, its layout if it has one, and its state dict."""

    checkpoint: Checkpoint
    found: Fit | None

    @property
    def tensors(self) -> Mapping[str, Any]:
        """The state dict under its own keys: that of the layout, or else the largest."""
        entries = self.checkpoint.entries
        return entries[self.found.entry if self.found else max(entries, key=lambda name: len(entries[name]))]


def _opened(path: Path, known: Tables, allow_unknown: bool) -> _Opened:
    checkpoint = open_checkpoint(path, allow_unknown)
    require_state_dict(checkpoint)
    return _Opened(checkpoint, detect(checkpoint, known).fit)


def _by_table(before: _Opened, after: _Opened) -> bool:
    """Whether the two are brought together by a table. Raises DoesNotFit where they have nothing in common."""
    here, there = before.found, after.found
    common = before.tensors.keys() & after.tensors.keys()
    if here and there and here.table.family == there.table.family:
        return here.layout != there.layout or before.tensors.keys() != after.tensors.keys()
    if not common:
        names = [
            f"{printable(each.checkpoint.path.name)} ({each.found.name if each.found else 'of no known layout'})"
            for each in (before, after)
        ]
        raise DoesNotFit(
            f"{names[0]} and {names[1]} have no key in common, and no table brings them together: expected a "
            "checkpoint and what it was converted to; see what is in them with `ckptconv diff`.",
            after.checkpoint.path,
        )
    return False


def _with_table(
    before: _Opened, after: _Opened, values: Values, forward: bool, source: str, output: str
) -> Verification:
    assert before.found
    assert after.found
    here, there = _same_head(before, after, values)
    proof = by_table.prove(_side(before, here), _side(after, there), values)
    documents = source_documents(before.checkpoint, here), source_documents(after.checkpoint, there)
    notes = [f"{name}: {note}" for name, side in (("SRC", here), ("DST", there)) for note in side.notes]
    silent = ", ".join(unsaid(here, documents[0], there, documents[1]))
    if silent:
        notes.append(f"SRC has no config that says it, so it can't be proved: DST has {printable(silent, 500)}")
    return Verification(
        source,
        output,
        proof,
        tuple(disagreements(here, documents[0], there, documents[1])),
        forward=_run(_Opened(before.checkpoint, here), _Opened(after.checkpoint, there)) if forward else None,
        notes=tuple(notes),
    )


def _side(opened: _Opened, found: Fit) -> by_table.Side:
    return by_table.Side(found, state_dict_of(opened.checkpoint, found))


def _same_head(before: _Opened, after: _Opened, values: Values) -> tuple[Fit, Fit]:
    """Both fits with the same names of heads. Where one layout's keys don't say the name, it is the other's head whose
    tensors are equal, else the first of that size."""
    assert before.found
    assert after.found
    here = with_head_of(before.checkpoint, before.found, after.found)
    there = with_head_of(after.checkpoint, after.found, here)
    for name in {each for row in here.table.rows for each in row_names(row, here.table.lets)}:
        ours, theirs = names_of(here.dims, name), names_of(there.dims, name)
        if ours and theirs and not set(ours) & set(theirs):
            if len(theirs) == 1:
                there = max(_named(after, there, ours), key=partial(_same_tensors, before, after, values, here))
            else:
                seen = {
                    other: _same_tensors(before, after, values, other, there) for other in _named(before, here, theirs)
                }
                here = max(seen, key=lambda other: seen[other])
    return here, there


def _named(opened: _Opened, found: Fit, names: tuple[str, ...]) -> list[Fit]:
    """The fit under each name."""
    tensors = shapes(opened.checkpoint.entries[found.entry])
    return [fit(found.table, found.layout.name, tensors, found.entry, head=name) for name in names]


def _same_tensors(before: _Opened, after: _Opened, values: Values, here: Fit, there: Fit) -> int:
    """How many parameters with a name are the same on both sides."""
    left, right = _side(before, here), _side(after, there)
    rows = {row.line for row in here.table.rows if row_names(row, here.table.lets)}
    both = [
        (slot, there.slots[param]) for param, slot in here.slots.items() if param.line in rows and param in there.slots
    ]
    pairs = [(left.tensors[ours.key], right.tensors[theirs.key]) for ours, theirs in both]
    return sum(a.shape == b.shape and values.judge(a, b)[0] != "differ" for a, b in pairs)


def _run(before: _Opened, after: _Opened) -> Forward:
    from ckptconv.forward import Subject, run_both

    source, target = (
        Subject(side.checkpoint, side.found, source_documents(side.checkpoint, side.found) if side.found else {})
        for side in (before, after)
    )
    return run_both(source, target)
