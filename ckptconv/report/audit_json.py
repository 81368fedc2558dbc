"""`audit` as one JSON document (docs/json.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptconv.commands.audit import Audit


def document(report: Audit) -> dict[str, Any]:
    """path against layout target kind verdict missing_keys[] unexpected_keys[] mismatched_keys[] tied[] ignored[] …"""
    return {
        "path": report.path,
        "layout": report.layout,
        "against": report.against,
        "target": report.target,
        "kind": report.kind,
        "loader": report.loader,
        "verdict": report.verdict,
        "advice": report.advice,
        "keys": report.keys,
        "fitting": report.fitting,
        "missing_keys": [vars(each) for each in report.missing_keys],
        "unexpected_keys": [vars(each) for each in report.unexpected_keys],
        "mismatched_keys": [vars(each) for each in report.mismatched_keys],
        "dtypes": [vars(each) for each in report.dtypes],
        "tied": [vars(each) for each in report.tied],
        "ignored": [vars(each) for each in report.ignored],
        "diagnoses": [vars(each) for each in report.diagnoses],
        "notes": list(report.notes),
    }
