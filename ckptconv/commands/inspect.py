"""What is in a checkpoint, read off its headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ckptconv.containers.checkpoint import Checkpoint, StateDict, Tensor, shared_views
from ckptconv.containers.inert import Call, Node, pairs_of, stored_bytes, tensors_in
from ckptconv.containers.open import open_checkpoint
from ckptconv.containers.safetensors import TIED
from ckptconv.detect import Detected, detect, state_dict_of
from ckptconv.tables.catalog import tables
from ckptconv.tables.expressions import evaluate
from ckptconv.tables.fit import Fit
from ckptconv.tables.parse import read_table
from ckptconv.text import printable


@dataclass(frozen=True)
class TensorInfo:
    """One key. tied_to: the first key that is the same view of the same storage."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    tied_to: str | None


@dataclass(frozen=True)
class OtherEntry:
    """A top-level entry that is no part of the state dict. bytes: of the tensors in it, each storage once."""

    name: str
    kind: str
    tensors: int
    bytes: int


@dataclass(frozen=True)
class Inspection:
    """What `inspect` says. entry: where the state dict lies ("" is the top level).

    layout: `family/layout`, or None. about: what writes such files; size: what a model of these dims is called; each ""
    where the table doesn't say. coverage: the share of keys that the layout knows. misfits: how many keys are
    missing, left over and of another shape. parameters: elements, tied ones counted once (unique) and not (stored).
    bytes: of the tensors, tied ones once. dtypes: bytes by dtype. metadata: safetensors', but for the writer's own note
    on ties, which `tensors` show.
    """

    path: str
    container: str
    files: tuple[str, ...]
    family: str | None
    layout: str | None
    about: str
    size: str
    entry: str
    coverage: float
    misfits: tuple[int, int, int]
    dims: Mapping[str, int]
    unique: int
    stored: int
    bytes: int
    dtypes: Mapping[str, int]
    tensors: tuple[TensorInfo, ...]
    other: tuple[OtherEntry, ...]
    metadata: Mapping[str, str]
    notes: tuple[str, ...]


def inspect(source: Path, table: Path | None = None) -> Inspection:
    """Look at a checkpoint; no tensor is read. Raises a CkptconvError when it can't be opened."""
    checkpoint = open_checkpoint(source)
    detected = detect(checkpoint, (read_table(table),) if table else tables())
    found = detected.fit
    entry = (
        found.entry if found else max(checkpoint.entries, key=lambda name: len(checkpoint.entries[name]), default="")
    )
    infos = tensor_infos(checkpoint.entries.get(entry, {}))
    unique = [info for info in infos if info.tied_to is None]
    sizes = {
        info.key: tensor.numel for info, tensor in zip(infos, checkpoint.entries.get(entry, {}).values(), strict=True)
    }
    dtypes: Counter[str] = Counter()
    for info in unique:
        dtypes[info.dtype] += info.bytes
    return Inspection(
        path=str(source),
        container=checkpoint.container,
        files=tuple(path.name for path in checkpoint.files),
        family=found.table.family if found else None,
        layout=found.name if found else None,
        about=found.table.about.get(found.layout.name, "") if found else "",
        size=_size(found) if found else "",
        entry=entry,
        coverage=found.coverage if found else 0.0,
        misfits=_misfits(found),
        dims=found.sizes if found else {},
        unique=sum(sizes[info.key] for info in unique),
        stored=sum(sizes.values()),
        bytes=sum(info.bytes for info in unique),
        dtypes=dict(dtypes.most_common()),
        tensors=infos,
        other=_others(checkpoint, entry),
        metadata={name: value for name, value in checkpoint.metadata.items() if name != TIED},
        notes=(*checkpoint.notes, *(_notes(checkpoint, found) if found else _stranger(detected))),
    )


def tensor_infos(state_dict: StateDict) -> tuple[TensorInfo, ...]:
    """Every key, with the earlier key that it shares all its bytes with."""
    tied = shared_views(state_dict)
    return tuple(
        TensorInfo(key, tensor.shape, tensor.dtype.name, tensor.nbytes, tied.get(key))
        for key, tensor in state_dict.items()
    )


def _size(found: Fit) -> str:
    """What the table calls a model of these dims."""
    return next((line.name for line in found.table.known if evaluate(line.condition, found.dims)), "")


def _notes(checkpoint: Checkpoint, found: Fit) -> Iterator[str]:
    """How the keys were read, what is there besides parameters, and which could be tied."""
    yield from found.notes
    reasons: dict[str, list[str]] = {}
    for key, drop in found.drops.items():
        reasons.setdefault(drop.reason, []).append(key)
    for reason, keys in reasons.items():
        shown = printable(keys[0]) + (f" and {len(keys) - 1:,} more" if len(keys) > 1 else "")
        yield f"no parameters of the model: {shown}: {reason}"
    yield from possible_ties(found, state_dict_of(checkpoint, found))


def _stranger(detected: Detected) -> tuple[str, ...]:
    best = detected.tried[0] if detected.tried else None
    if detected.stranger is None:
        return ()
    fits = f"; {best.coverage:.0%} of its keys fit {best.name}" if best and best.coverage else ""
    return (f"this is {detected.stranger.name}, for which ckptconv has no table{fits}",)


def possible_ties(found: Fit, state_dict: StateDict) -> tuple[str, ...]:
    """A sentence for every `tie` line of which several keys agree in shape and dtype but lie in different storage: they
    may hold equal bytes (files that were written from a GPU do), which only reading them would tell."""
    shared = shared_views(state_dict)
    notes = []
    for tie in found.table.ties:
        alike: dict[object, dict[str, str]] = {}
        for key in tie.keys if tie.layout == found.layout.name else ():
            if key in state_dict and state_dict[key].numel:
                tensor = state_dict[key]
                alike.setdefault((tensor.dtype, tensor.shape), {}).setdefault(shared.get(key, key), key)
        notes += [_possible_tie(*keys.values()) for keys in alike.values() if len(keys) > 1]
    return tuple(notes)


def _possible_tie(owner: str, first: str, *more: str) -> str:
    others = f" and {len(more)} more" if more else ""
    return (
        f"{printable(first)}{others} could be tied to {printable(owner)} (same shape, other storage): inspect doesn't "
        "compare values, convert does"
    )


def _misfits(found: Fit | None) -> tuple[int, int, int]:
    return (len(found.missing), len(found.unexpected), len(found.mismatched)) if found else (0, 0, 0)


def _others(checkpoint: Checkpoint, entry: str) -> tuple[OtherEntry, ...]:
    others = [_other(name, node, list(tensors_in(node))) for name, node in checkpoint.other.items()]
    others += [
        OtherEntry(name, "state dict", len(state_dict), stored_bytes(state_dict.values()))
        for name, state_dict in checkpoint.entries.items()
        if name != entry
    ]
    return tuple(others)


def _other(name: str, node: Node, tensors: list[Tensor]) -> OtherEntry:
    return OtherEntry(name, _kind(node), len(tensors), stored_bytes(tensors))


def _kind(node: Node) -> str:
    """What an entry is, in a few words; numbers and short texts as they are."""
    if node is None or isinstance(node, (bool, int, float)):
        return str(node)
    if isinstance(node, str):
        return node if len(node) <= 60 else f"text of {len(node):,} characters"
    pairs = pairs_of(node)
    if pairs is not None:
        return f"{len(pairs):,} entries" if pairs else "empty"
    return node.target.full if isinstance(node, Call) else type(node).__name__.lower()
