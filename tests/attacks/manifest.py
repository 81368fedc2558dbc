"""Every case of the corpus, and the corpus as files for other programs."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

from tests.attacks.case import COMMANDS, Case

_GROUPS = (
    *("execution", "pickle_bombs", "tensor_lies", "zip_lies", "legacy_lies", "safetensors_lies", "index_lies"),
    *("torchscript", "paddle", "injection", "special_files", "truncations", "companions", "receipts"),
    *("tables", "legal", "views", "objects"),
)
CASES: tuple[Case, ...] = tuple(case for group in _GROUPS for case in import_module(f"tests.attacks.{group}").CASES)


def write(folder: Path) -> None:
    """All cases as files below `folder`, a folder each, and `manifest.json`, which says what must happen."""
    listed = []
    for case in CASES:
        place = folder / case.name
        place.mkdir(parents=True)
        case.build(place)
        listed.append(
            {
                "file": f"{case.name}/{case.source}",
                "wrong": case.wrong,
                "must": case.must,
                "exit": {command: sorted(case.exits(command)) for command in COMMANDS},
                "arguments": {command: list(more) for command, more in case.options.items()},
            }
        )
    (folder / "manifest.json").write_text(json.dumps(listed, indent=1) + "\n")
