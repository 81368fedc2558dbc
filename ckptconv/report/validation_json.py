"""`validate` as one JSON document (docs/json.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptconv.commands.validate import Validation


def validation(report: Validation) -> dict[str, Any]:
    """path layout verdict findings[{severity,code,message,hint}]"""
    return {
        "path": report.path,
        "layout": report.layout,
        "verdict": report.verdict,
        "findings": [vars(finding) for finding in report.findings],
    }
