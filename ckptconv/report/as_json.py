"""Reports as one JSON document each: the fields that others rely on (docs/json.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptconv.commands.convert import Conversion
    from ckptconv.commands.inspect import Inspection, TensorInfo


_ENCODER = json.JSONEncoder(ensure_ascii=True, default=str, allow_nan=False)


def dumps(document: Mapping[str, Any]) -> str:
    """JSON text, a line for each field and for each item of a list; ASCII only, so that nothing in it reaches a
    terminal as a control character."""
    try:
        return _object(document)
    except ValueError:  # a config has NaN or an infinity, which JSON hasn't
        return _object(_finite(document))


def _object(document: Mapping[str, Any]) -> str:
    fields = (f"  {_ENCODER.encode(name)}: {_value(value)}" for name, value in document.items())
    return "{\n" + ",\n".join(fields) + "\n}"


def _value(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return _ENCODER.encode(value)
    return "[\n    " + ",\n    ".join(map(_ENCODER.encode, value)) + "\n  ]"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def inspection(report: Inspection) -> dict[str, Any]:
    """path container family layout dims parameters{unique,stored} bytes tensors[…] other[…] …"""
    missing, unexpected, mismatched = report.misfits
    closest = report.closest
    return {
        "path": report.path,
        "container": report.container,
        "files": list(report.files),
        "family": report.family,
        "layout": report.layout,
        "about": report.about,
        "size": report.size,
        "entry": report.entry,
        "coverage": report.coverage,
        "misfits": {"missing": missing, "unexpected": unexpected, "mismatched": mismatched},
        "closest": {"layout": closest.layout, "coverage": closest.coverage} if closest else None,
        "dims": dict(report.dims),
        "producer": [
            {"name": each.name, "version": each.version, "evidence": each.evidence} for each in report.producer
        ],
        "keys": report.keys,
        "match": report.match,
        "parameters": {"unique": report.unique, "stored": report.stored},
        "bytes": report.bytes,
        "dtypes": dict(report.dtypes),
        "tensors": [_tensor(info) for info in report.tensors],
        "shared": [
            {"keys": list(each.keys), "bytes": each.bytes, "overlapping": list(each.overlapping)}
            for each in report.shared
        ],
        "odd_keys": [{"reason": each.reason, "keys": list(each.keys)} for each in report.odd_keys],
        "other": [
            {"name": entry.name, "kind": entry.kind, "tensors": entry.tensors, "bytes": entry.bytes}
            for entry in report.other
        ],
        "config": [{"document": each.document, "field": each.field, "value": each.value} for each in report.config],
        "metadata": dict(report.metadata),
        "notes": list(report.notes),
    }


def _tensor(info: TensorInfo) -> dict[str, Any]:
    """A key; `stats` only where they were asked for."""
    told: dict[str, Any] = {
        "key": info.key,
        "shape": info.shape,
        "dtype": info.dtype,
        "bytes": info.bytes,
        "tied_to": info.tied_to,
        "contiguous": info.contiguous,
    }
    if info.stats:
        told["stats"] = vars(info.stats)
    return told


def conversion(report: Conversion) -> dict[str, Any]:
    """source target dims tensors[{key,from[],op,shape,dtype}] dropped[] created[] resized[] files[] …"""
    plan = report.plan
    return {
        "path": report.path,
        "output": report.output,
        "source": plan.source,
        "target": plan.target,
        "dims": dict(plan.dims),
        "tensors": [
            {
                "key": step.key,
                "from": list(step.sources),
                "op": step.op,
                "shape": list(step.shape),
                "dtype": step.dtype.name,
                "tied_to": step.tied_to,
            }
            for step in plan.steps
        ],
        "dropped": [{"key": told.key, "reason": told.reason} for told in plan.dropped],
        "created": [{"key": told.key, "reason": told.reason} for told in plan.created],
        "resized": [
            {"key": each.key, "from": each.before, "to": each.after, "rows": each.rows} for each in plan.resized
        ],
        "overflowed": [{"key": key, "count": count} for key, count in report.overflowed.items()],
        "config": [
            {"document": each.document, "field": each.path, "value": each.value, "origin": each.origin}
            for each in report.config
        ],
        "notes": list(report.notes),
        "files": list(report.files),
    }
