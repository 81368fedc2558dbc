"""The samples of the XLM-R family in tests/golden, which fairseq of each generation wrote, with its logits."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.xlmr.hf_side import GOLDEN

# What the reference logits were computed from, and how the models of all samples are cut; see layouts/facts.md.
TOKENS = torch.tensor([[0, 5, 9, 11, 30, 2], [0, 7, 8, 2, 1, 1], [0, 44, 12, 13, 2, 1]])
SIZES = {"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4,
         "max_positions": 32}  # fmt: skip
PRENORM = {"encoder_normalize_before": True, "layernorm_embedding": False}
# 0.12.2's copies, which no other fairseq knows, and XLM-Align's projections.
_NOT_OF_THE_MODEL = re.compile(r".*layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)|[qk]_linear\..*")


@dataclass(frozen=True)
class Sample:
    """A file. entry: where its state dict is; inner: what the keys of the model to be used begin with.

    args: fairseq's, where the file holds none. opens: whether fairseq's own loader takes the file as it is.
    """

    file: str
    entry: str = "model"
    inner: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    opens: bool = False

    @property
    def path(self) -> Path:
        return GOLDEN / self.file

    @property
    def options(self) -> dict[str, Any]:
        """What the conversion must be told: no tensor shows how many heads there are."""
        heads = self.args.get("encoder_attention_heads")
        return {"set": {"num_attention_heads": heads}} if heads else {}

    def read(self) -> dict[str, Any]:
        """The file's content. With `weights_only=False`, since these files hold classes of their time."""
        return torch.load(self.path, weights_only=False)  # type: ignore[no-any-return]

    def state(self) -> dict[str, Tensor]:
        """The model's state dict, under the names of its generation."""
        there = {key: value for key, value in self.read()[self.entry].items() if key.startswith(self.inner)}
        plain = {key.removeprefix(self.inner): value for key, value in there.items()}
        return {key: value for key, value in plain.items() if not _NOT_OF_THE_MODEL.fullmatch(key)}

    def arguments(self) -> Namespace:
        """fairseq's args for the model: the file's own, where it has some."""
        content = self.read()
        found = self.args or content.get("args") or content["cfg"]["model"]
        return found if isinstance(found, Namespace) else Namespace(**found)


SAMPLES = {
    "0.8": Sample("fairseq-0.8.0_roberta_mlm_fused.pt", opens=True),
    "0.9": Sample("fairseq-0.9.0_roberta_mlm.pt", opens=True),
    "0.10": Sample("fairseq-0.10.2_roberta_mlm.pt", opens=True),
    "2021-03": Sample("fairseq-fc2840de_2021-03_DictConfig_mlm.pt", opens=True),
    "2021-09": Sample("fairseq-e3fafbdf_2021-09_mlm.pt", opens=True),
    "0.12.2": Sample("fairseq-0.12.2_roberta_mlm_BTzeros.pt"),
    "no Namespace": Sample("fairseq_roberta_namespace_free_cfg.pt", opens=True),
    "InfoXLM": Sample("infoxlm_tiny.pt", inner="model_fast."),
    "XLM-Align": Sample("xlm_align_tiny.pt"),
    "XL": Sample("xlmr_xl_tiny.pt", "sd", args={**SIZES, **PRENORM}),
    "0.8 state": Sample("ref_logits_n080.pt", "sd", args=SIZES),
    "0.9 state": Sample("ref_logits_n090.pt", "sd", args=SIZES),
    "0.10 state": Sample("ref_logits_n010.pt", "sd", args=SIZES),
    "0.12.2 state": Sample("ref_logits_n0122.pt", "sd", args=SIZES),
}
# sample → the file with the logits that its own fairseq computed
LOGITS = {
    "0.8": "ref_logits_n080.pt",
    "0.9": "ref_logits_n090.pt",
    "0.10": "ref_logits_n010.pt",
    "0.12.2": "ref_logits_n0122.pt",
    **{name: sample.file for name, sample in SAMPLES.items() if sample.entry == "sd"},
}
