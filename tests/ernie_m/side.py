"""ERNIE-M's side of a comparison: Paddle's samples, files as PaddleNLP lays them out, texts, a small vocabulary."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ckptconv import Options, convert
from tests import spm_side

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SAMPLES = {"Model": "paddle_ErnieMModel_tiny", "Sequence": "paddle_ErnieMForSequenceClassification_tiny"}
TOKENS = torch.tensor([[0, 5, 9, 11, 30, 2], [0, 7, 8, 2, 1, 1]])  # what the recorded outputs were computed from
SIZES = {"vocab_size": 45, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 128, "max_position_embeddings": 34}  # fmt: skip
LAYOUTS = ("hf", "fairseq", "fairseq-0.10", "fairseq-0.9", "fairseq-xlm_align", "fairseq-infoxlm", "fairseq-0.8",
           "ernie_m", "ernie_m-paddle")  # fmt: skip
NAMES = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
TEXTS = [
    *spm_side.SCRIPTS,
    *spm_side.ODD,
    *(
        "2019年3月 中国, hello:world 3,4 5.6 ~x 中国abc 12ab34",
        "価格は1200円です。",
        " 中",
        ", a",
        "１２３中",
        "a 1",
        "x,",
    ),
]


def heads(hidden: int = 32, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """What PaddleNLP's task models have besides `ernie_m.`, by class: matrices [in, out]."""
    generator = np.random.default_rng(seed)

    def linear(name: str, count: int) -> dict[str, np.ndarray]:
        shapes = {"weight": (hidden, count), "bias": (count,)}
        return {f"{name}.{each}": generator.standard_normal(s).astype(np.float32) for each, s in shapes.items()}

    return {
        "ErnieMModel": {},
        "ErnieMForSequenceClassification": linear("classifier", 3),
        "ErnieMForTokenClassification": linear("classifier", 5),
        "ErnieMForQuestionAnswering": linear("classifier", 2),
        "ErnieMForMultipleChoice": linear("classifier", 1),
        "UIEM": {**linear("linear_start", 1), **linear("linear_end", 1)},
    }


def paddle_folder(folder: Path, kind: str, config: Mapping[str, Any] | None = None, protocol: int = 4) -> Path:
    """The sample model with the head of `kind`, as PaddleNLP saves it. config: what config.json says; {} for none."""
    with (GOLDEN / f"{SAMPLES['Model']}.pdparams").open("rb") as file:
        whole = pickle.load(file)
    arrays = {key: value for key, value in whole.items() if "@@" not in key}
    prefix = "" if kind == "ErnieMModel" else "ernie_m."
    arrays = {**{prefix + key: value for key, value in arrays.items()}, **heads()[kind]}
    folder.mkdir()
    with (folder / "model_state.pdparams").open("wb") as file:
        pickle.dump(arrays, file, protocol)
    said = {**read_json(GOLDEN / f"{SAMPLES['Model']}.config.json"), "architectures": [kind]}
    said = {name: value for name, value in said.items() if name not in ("id2label", "label2id")}
    if config is None or config:
        (folder / "config.json").write_text(json.dumps({**said, **(config or {})}))
    return folder


def paddle_arrays(folder: Path) -> dict[str, np.ndarray]:
    """What pickle reads in a folder's model_state.pdparams."""
    with (folder / "model_state.pdparams").open("rb") as file:
        return {key: value for key, value in pickle.load(file).items() if "@@" not in key}


def with_vocabulary(folder: Path) -> list[str]:
    """Puts ERNIE-M's vocab.txt and sentencepiece model into the folder; its lines."""
    model = spm_side.trained()
    lines = [*NAMES[:4], *spm_side.symbols(model), NAMES[4]]
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines))
    return lines


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def run(source: Path, output: Path, to: str, **options: Any) -> Path:
    """Converts, and returns the output."""
    convert(source, output, Options(to=to, **options))
    return output


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))
