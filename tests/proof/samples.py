"""Every sample in every layout that it can become: what proofs, receipts and forward passes are tried on."""

from __future__ import annotations

from pathlib import Path

import ckptconv
from ckptconv.tables.catalog import tables
from tests.commands.conftest import FINETUNED, GOLDEN, NUMBERS

PATHS = [
    FINETUNED,
    NUMBERS / "pretrained.pt",
    *sorted(path for path in GOLDEN.glob("*.*") if path.suffix in (".pt", ".pth", ".bin", ".safetensors")),
]
_NO_MODEL = ("ref_logits",)
# No config says how many heads these have, and width / 64 would be none.
SETTINGS = {"num_attention_heads": 4}


def conversions() -> list[tuple[Path, str]]:
    """(sample, layout): every ordered pair of layouts of a family of which there is a sample of the first."""
    found = []
    for path in PATHS:
        family, _, own = (ckptconv.inspect(path).layout or "/").partition("/")
        if not any(name in path.name for name in _NO_MODEL) and family:
            table = next(each for each in tables() if each.family == family)
            found += [(path, each.name) for each in table.layouts if each.name != own and possible(path, each.name)]
    return found


def possible(path: Path, layout: str) -> bool:
    """Norms before the sublayers are something that old fairseq lacks; token classification is what every fairseq
    lacks, and a language model head what ERNIE-M lacks (its own samples: tests/ernie_m)."""
    if layout.startswith("ernie_m"):
        return False
    return "tokcls" not in path.name and ("xlmr_xl" not in path.name or layout in ("hf", "fairseq"))


def settings(path: Path) -> dict[str, int]:
    """What the conversion of this sample has to be told."""
    return SETTINGS if "xl_" in path.name else {}
