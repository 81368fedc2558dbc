"""Which layout a checkpoint is in; and, where none fits, what to tell the person who has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ckptconv.containers.checkpoint import Checkpoint, StateDict
from ckptconv.dtypes import FLOATS
from ckptconv.errors import Damaged, DoesNotFit, NotACheckpoint, UnknownLayout
from ckptconv.keys import collapsed
from ckptconv.tables.candidates import candidates
from ckptconv.tables.catalog import layout_named
from ckptconv.tables.expressions import evaluate
from ckptconv.tables.fit import RECOGNISED, Fit, Shapes, fit, key_index
from ckptconv.tables.model import Stranger, Table
from ckptconv.text import printable

_SHOWN = 12


class Detected(NamedTuple):
    """The layout that a state dict is in, if any, and everything that was tried, the best first; an exact fit alone.

    stranger: the line of a table that knows it as another model.
    """

    fit: Fit | None
    tried: tuple[Fit, ...]
    stranger: Stranger | None = None


def shapes(state_dict: StateDict) -> Shapes:
    """Key → shape."""
    return {key: tensor.shape for key, tensor in state_dict.items()}


def detect(checkpoint: Checkpoint, tables: Iterable[Table]) -> Detected:
    """The first layout that fits exactly, or else the one that knows most of the keys, provided that it knows more than
    half of them; and that its table doesn't take the model for a stranger."""
    entries = {name: shapes(state_dict) for name, state_dict in checkpoint.entries.items()}
    tried = tuple(candidates(tables, entries))
    best = _with_head(checkpoint, tried[0]) if tried and tried[0].coverage > RECOGNISED else None
    stranger = _by_dims(best) if best else _by_key(checkpoint, tables)
    return Detected(None if stranger else best, tried, stranger)


def _with_head(checkpoint: Checkpoint, found: Fit) -> Fit:
    """Of several heads that are called alike, the one that the config speaks of, if it does."""
    if not found.could_be:
        return found
    from ckptconv.containers.settings import config_beside
    from ckptconv.tables.fields import agreement

    try:
        documents = {"config.json": config_beside(checkpoint)}
    except Damaged:  # which those tell who need it
        return found
    state_dict, layout = shapes(checkpoint.entries[found.entry]), found.layout.name
    seen = [fit(found.table, layout, state_dict, found.entry, head=head) for head in found.could_be]
    sizes = {line.dim: line.size for line in found.table.defaults}
    marks = [agreement(found.table, layout, {**sizes, **each.dims}, documents) for each in seen]
    told = marks.count(max(marks)) == 1
    return seen[marks.index(max(marks))]._replace(could_be=()) if told else found


def with_head_of(checkpoint: Checkpoint, found: Fit, other: Fit) -> Fit:
    """The fit, taken for the head that `other` surely has, where its own keys could be that one."""
    head = next((each for each in found.could_be if other.dims.get(each) and not other.could_be), "")
    if not head:
        return found
    state_dict = shapes(checkpoint.entries[found.entry])
    return fit(found.table, found.layout.name, state_dict, found.entry, head=head)._replace(could_be=())


def _by_dims(found: Fit) -> Stranger | None:
    """The `stranger if` line that holds for these dims. A line about a dim that the checkpoint lacks doesn't hold."""
    for line in found.table.strangers:
        try:
            if line.condition is not None and evaluate(line.condition, found.dims):
                return line
        except KeyError:
            continue
    return None


def _by_key(checkpoint: Checkpoint, tables: Iterable[Table]) -> Stranger | None:
    """The `stranger key` line whose key is there, whatever comes before it."""
    keys = [key for state_dict in checkpoint.entries.values() for key in state_dict]
    lines = [line for table in tables for line in table.strangers if line.key is not None]
    return next((line for line in lines if any(f".{key}".endswith(f".{line.key}") for key in keys)), None)


def fitting(checkpoint: Checkpoint, tables: Iterable[Table], layout: str | None, head: str = "") -> Fit:
    """The layout of a checkpoint that is about to be converted: `layout` if given, else the detected one.

    head: the name of the head, or which one it is, for layouts whose keys don't say it.
    Raises UnknownLayout (nothing fits, or it is another model) or DoesNotFit (something is missing, left over or of the
    wrong shape; all of it is told at once).
    """
    detected = Detected(named(checkpoint, tables, layout), ()) if layout else detect(checkpoint, tables)
    found = detected.fit
    if found is None:
        raise unknown(checkpoint, detected)
    if head:
        state_dict = checkpoint.entries[found.entry]
        found = fit(found.table, found.layout.name, shapes(state_dict), found.entry, head=head)
        found = found._replace(could_be=())
    if not found.exact:
        raise DoesNotFit(_misfit(checkpoint, found), checkpoint.path)
    _require_floats(checkpoint, found)
    return found


def state_dict_of(checkpoint: Checkpoint, found: Fit) -> StateDict:
    """The fitting state dict, under the keys that the table calls its tensors."""
    tensors = checkpoint.entries[found.entry]
    return {key: tensors[original] for key, original in found.spelled.original.items()}


def _require_floats(checkpoint: Checkpoint, found: Fit) -> None:
    tensors = state_dict_of(checkpoint, found)
    odd = [key for key in dict.fromkeys(slot.key for slot in found.slots.values()) if tensors[key].dtype not in FLOATS]
    if odd:
        shown = _some(f"{key} ({tensors[key].dtype})" for key in odd)
        raise DoesNotFit(
            f"{printable(checkpoint.path.name)} is {found.name}, but {len(odd)} parameters have a dtype that weights "
            f"don't have: {shown}; expected {', '.join(sorted(dtype.name for dtype in FLOATS))}.",
            checkpoint.path,
        )


def named(checkpoint: Checkpoint, tables: Iterable[Table], layout: str) -> Fit:
    """The checkpoint seen as the layout that the user names, in the entry where it fits best."""
    table, name = layout_named(layout, tables)
    among = (table,) if table else tuple(t for t in tables if name in [each.name for each in t.layouts])
    fits = [
        fit(table, name, shapes(state_dict), entry)
        for table in among
        for entry, state_dict in checkpoint.entries.items()
    ]
    return _with_head(checkpoint, max(fits, key=lambda each: (each.coverage, -len(each.missing))))


def require_state_dict(checkpoint: Checkpoint) -> None:
    """Raises NotACheckpoint where the file opens but holds no state dict."""
    if not checkpoint.entries:
        there = ", ".join(printable(str(name)) for name in list(checkpoint.other)[:_SHOWN]) or "nothing"
        raise NotACheckpoint(
            f"{printable(checkpoint.path.name)} holds no state dict: got {there}; expected a mapping of keys to "
            "tensors at the top level or under an entry such as `model`.",
            checkpoint.path,
        )


def unknown(checkpoint: Checkpoint, detected: Detected) -> UnknownLayout:
    """The error for a state dict of another model: what it is if that is known, else the layouts that were tried, and
    the keys that fit best."""
    tried = detected.tried
    name, best = printable(checkpoint.path.name), tried[0] if tried else None
    if detected.stranger:
        reason = detected.stranger.condition or f"the key {detected.stranger.key}"
        fits = f"{_percent(best.coverage)} of its keys fit {best.name}" if best and best.coverage else ""
        anyway = f"; to convert it all the same, say --from {best.name}" if best and best.exact else ""
        return UnknownLayout(
            f"{name} is {detected.stranger.name} by {reason}, for which ckptconv has no table. "
            f"{fits}{anyway}{'. ' if fits else ''}To change only its container or dtype, use --to same.",
            checkpoint.path,
        )
    near = "\n".join(
        f"  {each.name}: {_percent(each.coverage)} of the keys" for each in tried[:_SHOWN] if each.coverage
    )
    names = ", ".join(sorted(each.name for each in tried))
    tells = f"Tried:\n{near}\n" if near else f"None of them is a key of {names}. "
    entry = max(checkpoint.entries.values(), key=len)
    fitting_keys = [key for key in entry if best and key in best.present][:3]
    closest = f"Keys that fit {best.name}: {_some(fitting_keys)}. " if best and fitting_keys else ""
    return UnknownLayout(
        f"{name} is in no layout that ckptconv knows; {len(entry)} keys such as "
        f"{_some(list(entry)[:3])}. {tells}{closest}Name the layout with --from, bring a "
        "table of your own with --table, or keep the keys as they are with --to same.",
        checkpoint.path,
    )


def _percent(share: float) -> str:
    return f"{share:.0%}" if share in (0, 1) or 0.01 <= share <= 0.99 else "under 1%" if share < 0.01 else "over 99%"


def _misfit(checkpoint: Checkpoint, found: Fit) -> str:
    table = found.table
    parts = [f"{printable(checkpoint.path.name)} is {found.name}, but not all of it fits."]
    if found.missing:
        parts.append(f"Missing, {len(found.missing)}: {_some(collapsed(found.missing))}.")
    if found.unexpected:
        parts.append(f"Left over, {len(found.unexpected)}: {_some(collapsed(found.unexpected))}.{_mixed(found)}")
    if found.mismatched:
        shown = [
            f"{table.where(each.line)}: {printable(each.key)}; got {list(each.got)}, expected {list(each.expected)}"
            + (f" ({','.join(each.symbols)})" if each.symbols else "")
            for each in found.mismatched[:_SHOWN]
        ]
        more = len(found.mismatched) - len(shown)
        parts.append(
            f"Wrong shapes, {len(found.mismatched)}: {'; '.join(shown)}{f' … and {more} more' if more else ''}."
        )
    parts.append("Nothing was written; see it all with `ckptconv inspect --tensors`, or bring a table with --table.")
    return "\n".join(parts)


def _mixed(found: Fit) -> str:
    """What the keys that are left over are in another layout of the family, if all of them are keys of one."""
    table = found.table
    for layout in table.layouts:
        index = key_index(table, layout.name)
        if layout != found.layout and all(index.find(key)[0] for key in found.unexpected):
            return f" Those are keys of {table.family}/{layout.name}: the file mixes two layouts; expected one."
    return ""


def _some(keys: Iterable[str]) -> str:
    keys = list(keys)
    shown = ", ".join(printable(key) for key in keys[:_SHOWN])
    return shown + (f" … and {len(keys) - _SHOWN:,} more" if len(keys) > _SHOWN else "")
