"""Which layout a checkpoint is in; and, where none fits, what to tell the person who has it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ckptconv.containers.checkpoint import Checkpoint, StateDict
from ckptconv.dtypes import FLOATS
from ckptconv.errors import DoesNotFit, NotACheckpoint, UnknownLayout
from ckptconv.keys import collapsed
from ckptconv.tables.catalog import layout_named
from ckptconv.tables.fit import Fit, Shapes, candidates, fit
from ckptconv.tables.model import Table
from ckptconv.text import printable

# Below this share of known keys a state dict is another model, not a damaged one.
_RECOGNISED = 0.5
_SHOWN = 12


@dataclass(frozen=True)
class Detected:
    """The layout that a state dict is in, if any, and everything that was tried, the best first."""

    fit: Fit | None
    tried: tuple[Fit, ...]


def shapes(state_dict: StateDict) -> Shapes:
    """Key → shape."""
    return {key: tensor.shape for key, tensor in state_dict.items()}


def detect(checkpoint: Checkpoint, tables: tuple[Table, ...]) -> Detected:
    """The layout that knows most of the keys, provided that it knows more than half of them."""
    entries = {name: shapes(state_dict) for name, state_dict in checkpoint.entries.items()}
    tried = tuple(candidates(tables, entries))
    best = tried[0] if tried and tried[0].coverage > _RECOGNISED else None
    return Detected(best, tried)


def fitting(checkpoint: Checkpoint, tables: tuple[Table, ...], layout: str | None) -> Fit:
    """The layout of a checkpoint that is about to be converted: `layout` if given, else the detected one.

    Raises UnknownLayout (nothing fits) or DoesNotFit (something is missing, left over or of the wrong shape; all of it
    is told at once).
    """
    detected = Detected(named(checkpoint, tables, layout), ()) if layout else detect(checkpoint, tables)
    found = detected.fit
    if found is None:
        raise unknown(checkpoint, detected.tried)
    if not found.exact:
        raise DoesNotFit(_misfit(checkpoint, found), checkpoint.path)
    _require_floats(checkpoint, found)
    return found


def _require_floats(checkpoint: Checkpoint, found: Fit) -> None:
    tensors = checkpoint.entries[found.entry]
    odd = [key for key in dict.fromkeys(slot.key for slot in found.slots.values()) if tensors[key].dtype not in FLOATS]
    if odd:
        shown = _some(f"{key} ({tensors[key].dtype})" for key in odd)
        raise DoesNotFit(
            f"{printable(checkpoint.path.name)} is {found.name}, but {len(odd)} parameters have a dtype that weights "
            f"don't have: {shown}; expected {', '.join(sorted(dtype.name for dtype in FLOATS))}.",
            checkpoint.path,
        )


def named(checkpoint: Checkpoint, tables: tuple[Table, ...], layout: str) -> Fit:
    """The checkpoint seen as the layout that the user names, in the entry where it fits best."""
    table, name = layout_named(layout, tables)
    among = (table,) if table else tuple(t for t in tables if name in [each.name for each in t.layouts])
    fits = [
        fit(table, name, shapes(state_dict), entry)
        for table in among
        for entry, state_dict in checkpoint.entries.items()
    ]
    return max(fits, key=lambda each: (each.coverage, -len(each.missing)))


def require_state_dict(checkpoint: Checkpoint) -> None:
    """Raises NotACheckpoint where the file opens but holds no state dict."""
    if not checkpoint.entries:
        there = ", ".join(printable(str(name)) for name in list(checkpoint.other)[:_SHOWN]) or "nothing"
        raise NotACheckpoint(
            f"{printable(checkpoint.path.name)} holds no state dict: got {there}; expected a mapping of keys to "
            "tensors at the top level or under an entry such as `model`.",
            checkpoint.path,
        )


def unknown(checkpoint: Checkpoint, tried: Iterable[Fit]) -> UnknownLayout:
    """The error for a state dict of another model: the layouts that were tried, and the keys that fit best."""
    tried = list(tried)
    lines = [f"  {each.name}: {_percent(each.coverage)} of the keys" for each in tried[:_SHOWN]]
    entry = max(checkpoint.entries.values(), key=len)
    fits = [key for key in entry if tried and key in tried[0].present][:3]
    hint = _prefix_hint(tried, entry)
    closest = f"Keys that fit {tried[0].name}: {_some(fits)}. " if fits else ""
    return UnknownLayout(
        f"{printable(checkpoint.path.name)} is in no layout that ckptconv knows; {len(entry)} keys such as "
        f"{_some(list(entry)[:3])}. Tried:\n"
        + "\n".join(lines)
        + f"\n{hint}{closest}Name the layout with --from, bring a "
        "table of your own with --table, or keep the keys as they are with --to same.",
        checkpoint.path,
    )


def _prefix_hint(tried: Iterable[Fit], state_dict: StateDict) -> str:
    """What the keys would be without the parts that all of them begin with: `module.`, `model.` …"""
    known = tuple({each.table.family: each.table for each in tried}.values())
    stripped, prefix = shapes(state_dict), ""
    while len(firsts := {key.partition(".")[0] for key in stripped}) == 1 and all("." in key for key in stripped):
        prefix += f"{firsts.pop()}."
        stripped = {key.partition(".")[2]: shape for key, shape in stripped.items()}
        best = candidates(known, {"": stripped})[0]
        if best.coverage > _RECOGNISED:
            share = _percent(best.coverage)
            return f"All keys begin with `{printable(prefix)}`; without it, {share} of them fit {best.name}. "
    return ""


def _percent(share: float) -> str:
    return f"{share:.0%}" if share in (0, 1) or 0.01 <= share <= 0.99 else "under 1%" if share < 0.01 else "over 99%"


def _misfit(checkpoint: Checkpoint, found: Fit) -> str:
    table = found.table
    parts = [f"{printable(checkpoint.path.name)} is {found.name}, but not all of it fits."]
    if found.missing:
        parts.append(f"Missing, {len(found.missing)}: {_some(collapsed(found.missing))}.")
    if found.unexpected:
        parts.append(f"Left over, {len(found.unexpected)}: {_some(collapsed(found.unexpected))}.")
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


def _some(keys: Iterable[str]) -> str:
    keys = list(keys)
    shown = ", ".join(printable(key) for key in keys[:_SHOWN])
    return shown + (f" … and {len(keys) - _SHOWN:,} more" if len(keys) > _SHOWN else "")
