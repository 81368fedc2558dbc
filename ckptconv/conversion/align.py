"""Two checkpoints under the same keys: a prefix that one side has taken off, or one side seen as the other's layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ckptconv.containers.checkpoint import Checkpoint
from ckptconv.conversion.family import of_one_family
from ckptconv.conversion.sides import Explained, Side, Together, View, views_of
from ckptconv.detect import detect, require_state_dict, shapes
from ckptconv.tables.catalog import Tables
from ckptconv.tables.fit import Fit
from ckptconv.text import printable

_DEEPEST = 4  # parts of a prefix: `model.module.`


@dataclass(frozen=True)
class Aligned:
    """Two sides under the same keys.

    pairs: common key → both views. made: the same for keys of which one side's view is made up. alone: views that one
    side only has, by its name. notes: how they were brought together; sentences.
    """

    a: Side
    b: Side
    pairs: Mapping[str, tuple[View, View]]
    made: Mapping[str, tuple[View, View]]
    alone: Mapping[str, tuple[View, ...]]
    explained: tuple[Explained, ...]
    notes: tuple[str, ...]

    @property
    def keys(self) -> int:
        """How many keys there are in all."""
        alone = sum(map(len, self.alone.values()))
        return len(self.pairs) + len(self.made) + alone + len(self.explained)


def align(a: Checkpoint, b: Checkpoint, known: Tables) -> Aligned:
    """Bring both under the same keys.

    Two layouts of one family: one is seen as the other, by the plan of a conversion (the values of tied keys are read
    for it). The same layout: the table's keys. Anything else: the keys as they are, but for a prefix that most keys of
    one side have. Raises NotACheckpoint where a file holds no state dict.
    """
    for checkpoint in (a, b):
        require_state_dict(checkpoint)
    found = detect(a, known).fit
    alike = _all_shapes(a) == _all_shapes(b)  # of two epochs, one is looked at
    left, right = _side("A", a, found), _side("B", b, found if alike else detect(b, known).fit)
    together = of_one_family(left, right) or _by_prefix(left, right)
    return _sorted(_with_stand_ins(together))


def _all_shapes(checkpoint: Checkpoint) -> dict[str, dict[str, tuple[int, ...]]]:
    """All that detection sees of a checkpoint."""
    return {entry: dict(shapes(state_dict)) for entry, state_dict in checkpoint.entries.items()}


def _side(name: str, checkpoint: Checkpoint, found: Fit | None) -> Side:
    """The keys as the file has them."""
    entry = found.entry if found else max(checkpoint.entries, key=lambda each: len(checkpoint.entries[each]))
    tensors = checkpoint.entries[entry]
    return Side(name, checkpoint, entry, found, tensors, views_of(tensors, {key: key for key in tensors}))


def _by_prefix(a: Side, b: Side) -> Together:
    """The prefixes of both sides without which most keys agree; none where the keys agree as they are."""
    notes = _why_not_planned(a, b)
    if len(a.views.keys() & b.views.keys()) == min(len(a.views), len(b.views)):
        return Together(a, b, notes=notes)
    best, agree = (a, b), len(a.views.keys() & b.views.keys())
    ways_b = list(_ways(b))
    for left in _ways(a):
        for right in ways_b:
            common = left.views.keys() & right.views.keys()
            # Of a key without its prefix on either side, more than a last part must be left: `weight` says nothing.
            count = len(common) if left is a or right is b else sum("." in key for key in common)
            if count > agree:
                best, agree = (left, right), count
    notes += tuple(_prefix_note(side, seen) for side, seen in zip((a, b), best, strict=True) if seen is not side)
    return Together(*best, notes=notes)


def _ways(side: Side) -> Iterator[Side]:
    """The side as it is, and without each prefix that most of its keys have, unless two keys became one."""
    yield side
    for prefix in _prefixes(list(side.views)):
        views = {key.removeprefix(prefix): view for key, view in side.views.items()}
        if len(views) == len(side.views):
            yield replace(side, views=views)


def _prefixes(keys: Sequence[str]) -> Iterator[str]:
    """Every dotted prefix that most of the keys have, the shortest first."""
    prefix, rest = "", keys
    for _ in range(_DEEPEST):
        at = len(prefix)
        parts = Counter(key[at : dot + 1] for key in rest if (dot := key.find(".", at)) >= 0)
        part, count = parts.most_common(1)[0] if parts else ("", 0)
        if 2 * count <= len(keys):
            return
        prefix += part
        rest = [key for key in rest if key.startswith(prefix)]
        yield prefix


def _prefix_note(side: Side, seen: Side) -> str:
    short = [(key, new) for key, new in zip(side.views, seen.views, strict=True) if key != new]
    prefix = short[0][0].removesuffix(short[0][1])
    how_many = "all keys" if len(short) == len(side.views) else f"{len(short):,} of {len(side.views):,} keys"
    return f"{how_many} of {side.name} begin with `{printable(prefix)}`: compared without it"


def _why_not_planned(a: Side, b: Side) -> tuple[str, ...]:
    if not (a.found and b.found and a.found.table.family == b.found.table.family):
        return ()
    why = f"{_misfit(a)}; {_misfit(b)}"
    return (
        f"A is {a.found.name}, B {b.found.name}, but neither can be seen as the other, so keys stay as they are: {why}",
    )


def _misfit(side: Side) -> str:
    found = side.found
    if found is None or found.exact:
        return f"{side.name} has what the other layout can't hold"
    counts = f"{len(found.missing):,} missing, {len(found.unexpected):,} left over"
    return f"of {side.name}, {counts}, {len(found.mismatched):,} of another shape"


def _with_stand_ins(together: Together) -> Together:
    """Each side with views for keys that it lacks, but for which one of its tensors stands."""
    a, b = together.a, together.b
    return replace(
        together,
        a=replace(a, views={**a.views, **_stand_ins(a, b)}),
        b=replace(b, views={**b.views, **_stand_ins(b, a)}),
    )


def _stand_ins(side: Side, other: Side) -> dict[str, View]:
    """The other side's keys that are one tensor with a key that both have, or for which a `tie` line says so."""
    owners: dict[object, str] = {}
    for key, view in other.views.items():
        if key in side.views and view.nbytes:
            owners.setdefault(view.identity, key)
    found = {}
    for key, view in other.views.items():
        if key not in side.views and view.stored:
            near = side.absent.get(key) or owners.get(view.identity)
            if near is not None:
                found[key] = replace(side.views[near], stored=False)
    return found


def _sorted(together: Together) -> Aligned:
    """Every key where it belongs: in both, made up for one, explained, or in one alone."""
    a, b = together.a, together.b
    pairs, made = {}, {}
    alone: dict[str, list[View]] = {"A": [], "B": []}
    explained = list(together.explained)
    for name, view in together.left:
        alone[name].append(view)
    for key in dict.fromkeys((*b.views, *a.views)):
        left, right = a.views.get(key), b.views.get(key)
        owner, own = (a, left) if left and left.stored else (b, right)
        if own is None or not own.stored:
            continue
        if left and right and (left.made or right.made):
            made[key] = left, right
            continue
        lone = not (left and right and left.stored and right.stored)
        if lone and key in owner.reasons:
            explained.append(Explained(own.keys[0], owner.name, owner.reasons[key]))
        elif left and right:
            pairs[key] = left, right
        else:
            alone[owner.name].append(own)
    return Aligned(
        a, b, pairs, made, {name: tuple(views) for name, views in alone.items()}, tuple(explained), together.notes
    )


def without(aligned: Aligned, patterns: Sequence[str]) -> Aligned:
    """What is left where no name of a key, in either file or the common one, fits a pattern (`*`, `?`, `[…]`)."""
    if not patterns:
        return aligned

    def keep(*names: str) -> bool:
        return not any(fnmatchcase(name, pattern) for name in names for pattern in patterns)

    return replace(
        aligned,
        pairs={key: pair for key, pair in aligned.pairs.items() if keep(key, *pair[0].keys, *pair[1].keys)},
        made={key: pair for key, pair in aligned.made.items() if keep(key, *pair[0].keys, *pair[1].keys)},
        alone={name: tuple(view for view in views if keep(*view.keys)) for name, views in aligned.alone.items()},
        explained=tuple(each for each in aligned.explained if keep(each.key)),
    )
