"""The receipt of a conversion: its source, what was done and lost, and what was written, as one JSON document."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import ckptconv
from ckptconv.conversion.prepare import Options, Prepared
from ckptconv.plan import Plan
from ckptconv.receipts import Hashed, combined, hashed
from ckptconv.tables.model import Table

_NOT_TOLD = frozenset({"overwrite", "receipt"})  # they change nothing in what is written


def receipt(prepared: Prepared, sources: tuple[Hashed, ...], written: Iterable[Hashed]) -> bytes:
    """The document. It depends on the contents and names of the files alone: no clock, no path, no machine."""
    plan = prepared.plan
    document = {
        "ckptconv": ckptconv.__version__,
        "source": {
            "name": prepared.checkpoint.path.name,
            "size": sum(each.size for each in sources),
            "sha256": combined(sources),
            "layout": plan.source,
            "files": [vars(each) for each in sources],
        },
        "companions": [vars(hashed(path, path.name)) for path in dict.fromkeys(prepared.companions)],
        "target": {"layout": plan.target},
        "dims": dict(plan.dims),
        "table": _table(prepared.table),
        "options": _options(prepared.options),
        "tensors": len(plan.steps),
        "dropped": [told._asdict() for told in plan.dropped],
        "created": [told._asdict() for told in plan.created],
        "resized": [
            {"key": each.key, "from": each.before, "to": each.after, "rows": each.rows} for each in plan.resized
        ],
        "cast": _casts(plan, prepared),
        "files": [vars(each) for each in written],
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def _table(table: Table | None) -> dict[str, str] | None:
    if table is None:
        return None
    return {"family": table.family, "name": table.path.name, "sha256": hashed(table.path, table.path.name).sha256}


def _options(options: Options) -> dict[str, Any]:
    """What differs from the defaults; of files, the names."""
    default = Options(to=options.to)
    given = {each.name: getattr(options, each.name) for each in fields(options) if each.name not in _NOT_TOLD}
    return {name: _plain(value) for name, value in given.items() if name == "to" or value != getattr(default, name)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value.name if isinstance(value, Path) else dict(value) if hasattr(value, "items") else value


def _casts(plan: Plan, prepared: Prepared) -> list[dict[str, Any]]:
    """How many tensors went from which dtype to which."""
    pairs = Counter(
        (prepared.state_dict[step.sources[0]].dtype.name, step.dtype.name)
        for step in plan.steps
        if step.casts and step.sources and step.tied_to is None
    )
    return [{"from": before, "to": after, "tensors": count} for (before, after), count in pairs.items()]
