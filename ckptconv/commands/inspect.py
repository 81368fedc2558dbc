"""What is in a checkpoint, read off its headers alone; with `stats`, what its values are like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptconv.containers.checkpoint import Checkpoint, StateDict, Tensor, shared_views
from ckptconv.containers.inert import Call, List, Node, Set, pairs_of, stored_bytes, tensors_in
from ckptconv.containers.oddities import OddKeys, SharedStorage, odd_keys, shared_storages, unused_bytes
from ckptconv.containers.open import open_checkpoint
from ckptconv.containers.producer import Producer, producers
from ckptconv.containers.safetensors import TIED
from ckptconv.containers.settings import Setting, config_beside, settings
from ckptconv.detect import Detected, detect, state_dict_of
from ckptconv.errors import Damaged, WrongUse
from ckptconv.keys import collapsed, is_index
from ckptconv.progress import Progress, counter, unwatched
from ckptconv.tables.catalog import tables
from ckptconv.tables.expressions import evaluate
from ckptconv.tables.fit import Fit
from ckptconv.text import printable

if TYPE_CHECKING:
    from ckptconv.values.stats import Stats

SORTS = ("key", "size", "shape")
_NAMED = 5  # keys that a note names


class TensorInfo(NamedTuple):
    """One key. tied_to: the first key that is the same view of the same storage. contiguous: whether its bytes lie in
    the file as they lie in memory. stats: of its values, where they were asked for."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    tied_to: str | None
    contiguous: bool = True
    stats: Stats | None = None


class OtherEntry(NamedTuple):
    """A top-level entry that is no part of the state dict. bytes: of the tensors in it, each storage once."""

    name: str
    kind: str
    tensors: int
    bytes: int


class Closest(NamedTuple):
    """The layout that knows most of the keys of a state dict that is in none, and the share that it knows."""

    layout: str
    coverage: float


@dataclass(frozen=True)
class Inspection:
    """What `inspect` says. entry: where the state dict lies ("" is the top level).

    layout: `family/layout`, or None. about: what writes such files; size: what a model of these dims is called; each ""
    where the table doesn't say. coverage: the share of keys that the layout knows. misfits: how many keys are
    missing, left over and of another shape. closest: where no layout is recognised. keys: how many the state dict has.
    match: the pattern that keys were chosen by, or None; what follows is about those that match it.
    unique, stored: elements, tied ones counted once (unique: for the first of the keys) and each time. bytes: of the
    tensors, tied ones once. dtypes: bytes by dtype. shared: storages with several views. odd_keys: what looks wrong.
    other: entries that are no part of the state dict. config: what they and a config.json beside say, if asked for.
    metadata: safetensors', but for the writer's own note on ties, which `tensors` show.
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
    closest: Closest | None
    dims: Mapping[str, int]
    producer: tuple[Producer, ...]
    keys: int
    match: str | None
    unique: int
    stored: int
    bytes: int
    dtypes: Mapping[str, int]
    tensors: tuple[TensorInfo, ...]
    shared: tuple[SharedStorage, ...]
    odd_keys: tuple[OddKeys, ...]
    other: tuple[OtherEntry, ...]
    config: tuple[Setting, ...]
    metadata: Mapping[str, str]
    notes: tuple[str, ...]


def inspect(
    source: Path | str,
    table: Path | None = None,
    match: str | None = None,
    sort: str | None = None,
    stats: bool = False,
    config: bool = False,
    progress: Progress = unwatched,
    allow_unknown: bool = False,
) -> Inspection:
    """Look at a checkpoint; no tensor is read, but for `stats`.

    table: a mapping table of one's own. match: a pattern as in a shell (`*.fc1.*`), for the keys to look at. sort: the
    tensors by `key` (numbers in order), by `size` or `shape` (the largest first); None: as in the file. stats: with
    statistics of the values. config: with the config. progress(bytes read, bytes in all) is called as the statistics
    go on. allow_unknown: as for `open_checkpoint`.
    Raises a CkptconvError when the checkpoint can't be opened or read, and WrongUse for another `sort`.
    """
    if sort is not None and sort not in SORTS:
        raise WrongUse(f"sort {sort!r}; expected one of {', '.join(SORTS)}.")
    checkpoint = open_checkpoint(source, allow_unknown)
    detected = detect(checkpoint, tables(table))
    found = detected.fit
    entry = (
        found.entry if found else max(checkpoint.entries, key=lambda name: len(checkpoint.entries[name]), default="")
    )
    state_dict = checkpoint.entries.get(entry, {})
    infos = [info for info in tensor_infos(state_dict) if match is None or fnmatchcase(info.key, match)]
    shown = {info.key: state_dict[info.key] for info in infos}
    if stats:
        infos = _measured(checkpoint, shown, infos, progress)
    document, config_note = _config_json(checkpoint)
    unique = [info for info in infos if info.tied_to is None]
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
        closest=None if found else _closest(detected),
        dims=found.sizes if found else {},
        producer=producers(checkpoint, document),
        keys=len(state_dict),
        match=match,
        unique=sum(prod(info.shape) for info in unique),
        stored=sum(prod(info.shape) for info in infos),
        bytes=sum(info.bytes for info in unique),
        dtypes=dict(dtypes.most_common()),
        tensors=tuple(_sorted(infos, sort)),
        shared=tuple(each for each in shared_storages(state_dict) if not shown.keys().isdisjoint(each.keys)),
        odd_keys=_odd_keys(state_dict, shown),
        other=_others(checkpoint, entry),
        config=tuple(settings(checkpoint, document)) if config else (),
        metadata={name: value for name, value in checkpoint.metadata.items() if name != TIED},
        notes=(
            *checkpoint.notes,
            *(_notes(checkpoint, found) if found else _stranger(detected)),
            *_about_tensors(infos),
            *_unused(checkpoint, shown),
            *config_note,
        ),
    )


def tensor_infos(state_dict: StateDict) -> tuple[TensorInfo, ...]:
    """Every key, with the earlier key that it shares all its bytes with."""
    tied = shared_views(state_dict)
    return tuple(
        TensorInfo(key, tensor.shape, tensor.dtype.name, tensor.nbytes, tied.get(key), tensor.contiguous)
        for key, tensor in state_dict.items()
    )


def _sorted(infos: Iterable[TensorInfo], sort: str | None) -> list[TensorInfo]:
    """In the order of the file; by key, numbers in theirs; or the largest first."""
    if sort == "key":
        return sorted(infos, key=lambda info: _in_order(info.key))
    if sort == "size":
        return sorted(infos, key=lambda info: -info.bytes)
    if sort == "shape":
        return sorted(infos, key=lambda info: (len(info.shape), info.shape), reverse=True)
    return list(infos)


def _in_order(key: str) -> list[tuple[int, str]]:
    return [(int(part), "") if is_index(part) else (-1, part) for part in key.split(".")]


def _measured(
    checkpoint: Checkpoint, tensors: StateDict, infos: Iterable[TensorInfo], progress: Progress
) -> list[TensorInfo]:
    """The infos with statistics; what is tied is read once."""
    from ckptconv.containers.read import Reader, check_growth
    from ckptconv.values.elements import elements_of
    from ckptconv.values.stats import statistics

    distinct = dict.fromkeys(tensors.values())
    check_growth(checkpoint, distinct)
    count = counter(progress, sum(tensor.nbytes for tensor in distinct))
    with Reader(checkpoint) as reader:
        found = statistics((elements_of(tensor, reader) for tensor in distinct), count)
        measured = dict(zip(distinct, found, strict=True))
    return [info._replace(stats=measured[tensors[info.key]]) for info in infos]


def _config_json(checkpoint: Checkpoint) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The config.json beside the weights, or why it can't be read: the weights can be looked at all the same."""
    try:
        return config_beside(checkpoint), ()
    except Damaged as problem:
        return {}, (problem.message,)


def _odd_keys(state_dict: StateDict, shown: StateDict) -> tuple[OddKeys, ...]:
    chosen = ((odd.reason, tuple(key for key in odd.keys if key in shown)) for odd in odd_keys(list(state_dict)))
    return tuple(OddKeys(reason, keys) for reason, keys in chosen if keys)


def _about_tensors(infos: list[TensorInfo]) -> Iterator[str]:
    """What a person should know of single tensors."""
    measured = [(info.key, info.stats) for info in infos if info.stats]
    several = [
        ("not contiguous:", [info.key for info in infos if not info.contiguous]),
        ("empty:", [info.key for info in infos if 0 in info.shape]),
        ("NaN in", [key for key, found in measured if found.nan]),
        ("Inf in", [key for key, found in measured if found.inf]),
    ]
    for what, keys in several:
        names = collapsed(keys)
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        if names:
            yield f"{what} {', '.join(map(printable, names[:_NAMED]))}{more}"


def _unused(checkpoint: Checkpoint, shown: StateDict) -> Iterator[str]:
    named = (tensor for state_dict in checkpoint.entries.values() for tensor in state_dict.values())
    others = (tensor for node in checkpoint.other.values() for tensor in tensors_in(node))
    unused = unused_bytes(shown.values(), chain(named, others))
    if unused:
        yield f"{unused:,} bytes of the tensors' storages belong to no key: a slice was saved with its whole tensor"


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
    notes = []
    for tie in found.table.ties:
        alike: dict[object, dict[Tensor, str]] = {}  # each view under its first key
        for key in tie.keys if tie.layout == found.layout.name else ():
            if key in state_dict and state_dict[key].numel:
                tensor = state_dict[key]
                alike.setdefault((tensor.dtype, tensor.shape), {}).setdefault(tensor, key)
        notes += [_possible_tie(*keys.values()) for keys in alike.values() if len(keys) > 1]
    return tuple(notes)


def _possible_tie(owner: str, first: str, *more: str) -> str:
    others = f" and {len(more)} more" if more else ""
    return (
        f"{printable(first)}{others} could be tied to {printable(owner)} (same shape, other storage): inspect doesn't "
        "compare values, convert does"
    )


def _closest(detected: Detected) -> Closest | None:
    best = detected.tried[0] if detected.tried else None
    return Closest(best.name, best.coverage) if best and best.coverage else None


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
        return _counted(len(pairs), "entries", "entry")
    if type(node) in (List, Set, tuple):
        return _counted(len(node if type(node) is tuple else node.items), "items", "item")
    return node.target.full if isinstance(node, Call) else type(node).__name__.lower()


def _counted(count: int, many: str, one: str) -> str:
    return f"{count:,} {one if count == 1 else many}" if count else "empty"


__all__ = [
    "SORTS",
    "Closest",
    "Inspection",
    "OddKeys",
    "OtherEntry",
    "Producer",
    "Setting",
    "SharedStorage",
    "TensorInfo",
    "inspect",
    "possible_ties",
    "tensor_infos",
]
