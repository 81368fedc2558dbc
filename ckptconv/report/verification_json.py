"""`verify` as one JSON document (docs/json.md)."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptconv.commands.verify import Verification
    from ckptconv.forward import Forward
    from ckptconv.proof.found import Proof


def verification(report: Verification) -> dict[str, Any]:
    """path output source target tensors{equal,differ,…} differences[] dropped[] config[] files[] forward verdict …"""
    proof = report.proof
    return {
        "path": report.path,
        "output": report.output,
        "source": proof.source if proof else None,
        "target": proof.target if proof else None,
        "tensors": _tensors(proof) if proof else None,
        "differences": _with_status(proof, "differ"),
        "made_up": _with_status(proof, "made_up"),
        "dropped": [vars(each) for each in proof.dropped] if proof else [],
        "resized": [
            {"key": each.key, "from": each.before, "to": each.after, "rows": each.told}
            for each in (proof.resized if proof else ())
        ],
        "config": [vars(each) for each in report.config],
        "files": [vars(each) for each in report.files],
        "forward": _forward(report.forward) if report.forward else None,
        "notes": list(report.notes),
        "verdict": report.verdict,
    }


def _tensors(proof: Proof) -> dict[str, int]:
    """How many keys of the output have which status; `equal` counts those that are equal after a cast or fold too."""
    cast, folded = proof.count("cast"), proof.count("folded")
    return {
        "equal": proof.count("equal") + cast + folded,
        "cast": cast,
        "folded": folded,
        "made_up": proof.count("made_up"),
        "differ": proof.count("differ"),
    }


def _with_status(proof: Proof | None, status: str) -> list[dict[str, Any]]:
    found = (each for each in proof.tensors if each.status == status) if proof else ()
    return [{"key": each.key, "from": list(each.sources), "reason": each.told} for each in found]


def _forward(found: Forward) -> dict[str, Any]:
    return {
        "source_engine": found.source_engine,
        "target_engine": found.target_engine,
        "sentences": found.sentences,
        "layers": [{"name": each.name, "max_abs": _number(each.max_abs), "scale": each.scale} for each in found.layers],
        "top1": found.top1,
        "greedy": {"same": found.greedy[0], "of": found.greedy[1]} if found.greedy else None,
        "tolerance": found.tolerance,
        "not_run": list(found.not_run),
        "notes": list(found.notes),
        "passed": found.passed,
    }


def _number(value: float) -> float | None:
    """JSON has no infinity."""
    return value if isfinite(value) else None
