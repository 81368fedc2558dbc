"""Full-size checkpoints of the real shapes with random weights, as the original code would write them.

python scripts/full_size.py base.pt --layout fairseq                    1.45 GB: DeltaLM base, fine-tuned
python scripts/full_size.py trained.pt --layout fairseq --optimizer     4.3 GB: with Adam's state, as fairseq-train
python scripts/full_size.py pretrained.pt --layout pretrained           deltalm-base.pt's shapes
python scripts/full_size.py large.pt --layout fairseq --size large
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections import OrderedDict
from typing import Any

import torch

from ckptconv.tables.catalog import tables
from ckptconv.tables.fit import expected_keys

BASE: dict[str, Any] = {
    "d": 768, "ffn": 3072, "tgt_ffn": 3072, "encoder_layers": 12, "decoder_layers": 6, "positions": 514,
    "tgt_positions": 514, "layernorm_embedding": True, "encoder_normalize_before": False,
    "decoder_normalize_before": False,
}  # fmt: skip
SIZES = {
    "base": BASE,
    "large": {
        **BASE, "d": 1024, "ffn": 4096, "tgt_ffn": 4096, "encoder_layers": 24, "decoder_layers": 12,
        "layernorm_embedding": False,
    },
}  # fmt: skip
ROWS = {"pretrained": 250104, "fairseq": 250001}


def state_dict(layout: str, size: str) -> OrderedDict[str, torch.Tensor]:
    """Random fp32 weights; the embeddings and the output projection share one storage."""
    table = next(table for table in tables() if table.family == "deltalm")
    dims = {**SIZES[size], "vocab": ROWS[layout], "tgt_vocab": ROWS[layout]}
    tied = {key for tie in table.ties if tie.layout == layout for key in tie.keys}
    weights: OrderedDict[str, torch.Tensor] = OrderedDict()
    shared = None
    for key, shape in expected_keys(table, layout, dims):
        if key in tied:
            shared = torch.randn(shape) * 0.02 if shared is None else shared
            weights[key] = shared
        else:
            weights[key] = torch.full(shape, 3.0) if key.endswith("version") else torch.randn(shape) * 0.02
    return weights


def adam(weights: OrderedDict[str, torch.Tensor]) -> dict[str, Any]:
    """The optimizer state that fairseq-train keeps: two tensors for each parameter."""
    unique = {tensor.data_ptr(): tensor for tensor in weights.values()}.values()
    moments = [{"step": 1000, "exp_avg": torch.randn_like(t), "exp_avg_sq": torch.randn_like(t)} for t in unique]
    return {"state": dict(enumerate(moments)), "param_groups": [{"lr": 1e-4, "params": list(range(len(moments)))}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--layout", choices=sorted(ROWS), default="fairseq")
    parser.add_argument("--size", choices=sorted(SIZES), default="base")
    parser.add_argument("--optimizer", action="store_true")
    asked = parser.parse_args()
    torch.manual_seed(0)
    weights = state_dict(asked.layout, asked.size)
    if asked.layout == "pretrained":
        torch.save({"weights": weights}, asked.output)
        return
    model = Namespace(_name="deltalm_base", encoder_attention_heads=SIZES[asked.size]["d"] // 64, dropout=0.1)
    checkpoint = {"args": None, "cfg": {"model": model}, "model": weights}
    if asked.optimizer:
        checkpoint["last_optimizer_state"] = adam(weights)
    torch.save(checkpoint, asked.output)


if __name__ == "__main__":
    main()
