"""Full-size checkpoints of the real shapes with random weights, as the original code would write them.

python scripts/full_size.py base.pt --layout deltalm/fairseq                    1.45 GB: DeltaLM base, fine-tuned
python scripts/full_size.py trained.pt --layout deltalm/fairseq --optimizer     4.3 GB: with Adam's state
python scripts/full_size.py pretrained.pt --layout deltalm/pretrained           deltalm-base.pt's shapes
python scripts/full_size.py large.pt --layout xlmr/fairseq-0.8 --size large --half   the public xlmr.large: legacy, fp16
python scripts/full_size.py xl.pt --layout xlmr/fairseq --size XL --half        7 GB, written in pieces
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ckptconv.containers.writing import write_torch
from ckptconv.containers.writing.items import Item
from ckptconv.dtypes import BY_NAME
from ckptconv.tables.catalog import tables
from ckptconv.tables.fit import expected_keys
from ckptconv.tables.model import Table

DELTALM: dict[str, Any] = {
    "d": 768, "ffn": 3072, "tgt_ffn": 3072, "encoder_layers": 12, "decoder_layers": 6, "positions": 514,
    "tgt_positions": 514, "layernorm_embedding": True, "encoder_normalize_before": False,
    "decoder_normalize_before": False, "vocab": 250001, "tgt_vocab": 250001,
}  # fmt: skip
XLMR: dict[str, Any] = {
    "d": 768, "ffn": 3072, "layers": 12, "positions": 514, "types": 1, "vocab": 250002, "lm_head": True,
    "prenorm": False,
}  # fmt: skip
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "deltalm": {
        "base": DELTALM,
        "large": {
            **DELTALM, "d": 1024, "ffn": 4096, "tgt_ffn": 4096, "encoder_layers": 24, "decoder_layers": 12,
            "layernorm_embedding": False,
        },
    },
    "xlmr": {
        "base": XLMR,
        "large": {**XLMR, "d": 1024, "ffn": 4096, "layers": 24},
        "XL": {**XLMR, "d": 2560, "ffn": 10240, "layers": 36, "vocab": 250880, "prenorm": True},
        "XXL": {**XLMR, "d": 4096, "ffn": 16384, "layers": 48, "vocab": 250880, "prenorm": True},
    },
}  # fmt: skip
HEADS = {2560: 32, 4096: 32}
PRETRAINED_ROWS = {"vocab": 250104, "tgt_vocab": 250104}
_BLOCK = 1 << 22  # elements that are really random; a larger tensor repeats them


def state_dict(table: Table, layout: str, dims: dict[str, Any], half: bool) -> OrderedDict[str, torch.Tensor]:
    """Random weights; the tied ones share one storage."""
    tied = {key for tie in table.ties if tie.layout == layout for key in tie.keys}
    weights: OrderedDict[str, torch.Tensor] = OrderedDict()
    shared = None
    for key, shape in expected_keys(table, layout, dims):
        if key in tied:
            shared = _random(shape, half) if shared is None else shared
            weights[key] = shared
        else:
            weights[key] = torch.full(shape, 3.0) if key.endswith("version") else _random(shape, half)
    return weights


def _random(shape: tuple[int, ...], half: bool) -> torch.Tensor:
    made = torch.randn(shape) * 0.02
    return made.half() if half else made


def adam(weights: OrderedDict[str, torch.Tensor]) -> dict[str, Any]:
    """The optimizer state that fairseq-train keeps: two tensors for each parameter."""
    unique = {tensor.data_ptr(): tensor for tensor in weights.values()}.values()
    moments = [{"step": 1000, "exp_avg": torch.randn_like(t), "exp_avg_sq": torch.randn_like(t)} for t in unique]
    return {"state": dict(enumerate(moments)), "param_groups": [{"lr": 1e-4, "params": list(range(len(moments)))}]}


def streamed(path: Path, table: Table, layout: str, dims: dict[str, Any], model: Namespace) -> None:
    """The same in fp16 without ever holding the model in memory."""
    block = (np.random.default_rng(0).standard_normal(_BLOCK, np.float32) * 0.02).astype("<f2")
    first: dict[int, str] = {}
    items = []
    for key, shape in expected_keys(table, layout, dims):
        ties = [number for number, tie in enumerate(table.ties) if tie.layout == layout and key in tie.keys]
        owner = first.setdefault(ties[0], key) if ties else key

        def chunks(size: int = prod(shape), at: int = len(items)) -> Iterator[bytes]:
            mixed = np.roll(block, at * 977)
            for start in range(0, size, _BLOCK):
                yield mixed[: min(_BLOCK, size - start)].tobytes()

        items.append(Item(key, BY_NAME["F16"], shape, chunks, owner if owner != key else None))
    write_torch(path, items, "model", {"args": None, "cfg": {"model": vars(model)}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--layout", default="deltalm/fairseq")
    parser.add_argument("--size", default="base")
    parser.add_argument("--optimizer", action="store_true")
    parser.add_argument("--half", action="store_true")
    asked = parser.parse_args()
    family, _, layout = asked.layout.partition("/")
    table = next(table for table in tables() if table.family == family)
    dims = SIZES[family][asked.size] | (PRETRAINED_ROWS if layout == "pretrained" else {})
    heads = HEADS.get(dims["d"], dims["d"] // 64)
    name = "deltalm_base" if family == "deltalm" else "roberta_base"
    model = Namespace(_name=name, arch=name, encoder_attention_heads=heads, dropout=0.1)
    torch.manual_seed(0)
    if asked.size in ("XL", "XXL"):
        streamed(asked.output, table, layout, dims, model)
        return
    weights = state_dict(table, layout, dims, asked.half)
    if layout == "pretrained":
        torch.save({"weights": weights}, asked.output)
        return
    old = layout in ("fairseq-0.8", "fairseq-0.9")
    checkpoint = {"args": model, "model": weights} if old else {"args": None, "cfg": {"model": model}, "model": weights}
    if asked.optimizer:
        checkpoint["last_optimizer_state"] = adam(weights)
    torch.save(checkpoint, asked.output, _use_new_zipfile_serialization=not old)


if __name__ == "__main__":
    main()
