"""Whole files of every container, cut at every interesting place."""

from __future__ import annotations

from tests.attacks.archives import FLOATS, ONE, entry, index, legacy, safetensors, torch_zip
from tests.attacks.case import Case, files, holding

WHOLE = {
    "zip": torch_zip(),
    "zip-deflated": torch_zip(deflated=True),
    "legacy": legacy(),
    "safetensors": ONE,
    "safetensors-two": safetensors({"a": entry(0, 8), "b": entry(8, 16)}, FLOATS),
}
SHARD = "model-00001-of-00001.safetensors"
INDEX = "model.safetensors.index.json"


def cuts(whole: bytes) -> tuple[int, ...]:
    """One byte, the ends, and some forty places between."""
    size = len(whole)
    return tuple(sorted({1, 4, 7, 8, 9, 30, 31, size - 1, size - 2, size - 22, size - 23, *range(1, size, size // 12)}))


CASES = (
    *(
        Case(
            f"truncations/{kind}-{cut:04}",
            f"a {kind} file cut to {cut} of {len(whole)} bytes",
            "refused",
            holding(whole[:cut]),
            forms=False,
            commands=("inspect", "convert", "audit"),
        )
        for kind, whole in WHOLE.items()
        for cut in cuts(whole)
        if cut < len(whole)
    ),
    *(
        Case(
            f"truncations/shard-{cut:03}",
            f"a shard cut to {cut} of {len(ONE)} bytes",
            "refused",
            files({INDEX: index({"w": SHARD}), SHARD: ONE[:cut]}),
            INDEX,
            forms=False,
            commands=("inspect", "convert"),
        )
        for cut in cuts(ONE)
        if cut < len(ONE)
    ),
)
