"""`diff` as a JSON document: the fields that others rely on (docs/json.md)."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptconv.commands.difference import Compared, Difference, Pair

_STATUSES = ("equal", "close", "differ")
NUMBERS = ("max_abs", "max_rel", "cosine", "rel_l2", "changed", "nan_mismatches", "inf_mismatches")


def difference(report: Difference) -> dict[str, Any]:
    """added[] removed[] shape_changed[] dtype_changed[] values{equal,close,differ} tensors[{key,status,max_abs,…}] …"""
    return {
        "a": _side(report.a),
        "b": _side(report.b),
        "different": report.different,
        "added": [each.key for each in report.added],
        "removed": [each.key for each in report.removed],
        "renamed": [{"from": each.before, "to": each.after} for each in report.renamed],
        "shape_changed": [
            {"key": pair.key, "a": list(pair.shape_a), "b": list(pair.shape_b)} for pair in report.shape_changed
        ],
        "dtype_changed": [{"key": pair.key, "a": pair.dtype_a, "b": pair.dtype_b} for pair in report.dtype_changed],
        "values": {status: report.count(status) if report.values else None for status in _STATUSES},
        "tolerance": vars(report.tolerance) if report.tolerance else None,
        "tensors": [_tensor(pair) for pair in report.pairs],
        "layers": [
            {
                "name": layer.name,
                "tensors": layer.tensors,
                "moved": layer.moved,
                "rel_l2": _finite(layer.relative),
                "max_abs": _finite(layer.max_abs),
                "nan_mismatches": layer.nan_mismatches,
                "inf_mismatches": layer.inf_mismatches,
            }
            for layer in report.layers
        ],
        "tied": [
            {"key": tied.key, "to": tied.to, "tied_in": tied.side.lower(), "absent": tied.absent}
            for tied in report.tied
        ],
        "explained": [
            {"key": each.key, "only_in": each.side.lower(), "reason": each.reason} for each in report.explained
        ],
        "ignored": report.ignored,
        "notes": list(report.notes),
    }


def _side(side: Compared) -> dict[str, Any]:
    return {
        "path": side.path,
        "container": side.container,
        "layout": side.layout,
        "entry": side.entry,
        "tensors": side.tensors,
        "parameters": side.parameters,
    }


def _tensor(pair: Pair) -> dict[str, Any]:
    return {
        "key": pair.key,
        "status": pair.status,
        "a": list(pair.a),
        "b": list(pair.b),
        "shape_a": list(pair.shape_a),
        "shape_b": list(pair.shape_b),
        "dtype_a": pair.dtype_a,
        "dtype_b": pair.dtype_b,
        "same_as": pair.same_as,
        **numbers(pair),
        "compared_as": pair.comparison.compared_as if pair.comparison else None,
        "rounded_to": pair.comparison.rounded_to if pair.comparison else None,
    }


def numbers(pair: Pair) -> dict[str, float | int | None]:
    """What was measured, by the names of `NUMBERS`; None where nothing was, and for what JSON can't say."""
    found = pair.comparison
    if found is None:
        return dict.fromkeys(NUMBERS)
    values = (found.max_abs, found.max_rel, found.cosine, found.relative, found.changed)
    return dict(zip(NUMBERS, (*map(_finite, values), found.nan_mismatches, found.inf_mismatches), strict=True))


def _finite(number: float | int | None) -> float | int | None:
    return number if number is None or isinstance(number, int) or isfinite(number) else None
