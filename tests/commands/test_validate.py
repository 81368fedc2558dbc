"""validate: each situation by a real file, its code, and what the sentence says."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from ckptconv.commands.validate import Validation, validate
from ckptconv.errors import Damaged, VocabularyMismatch, WrongUse
from ckptconv.validation.findings import CODES
from tests.commands.conftest import FINETUNED, GOLDEN, ROOT, run
from tests.spm_side import trained

HF = GOLDEN / "hf_xlmr_mlm_transformers-5.23.safetensors"
DICT, SPM = FINETUNED / "dict.de.txt", FINETUNED / "spm.model"


def codes(report: Validation) -> dict[str, str]:
    """Code → what it says, all of them together."""
    found: dict[str, str] = {}
    for finding in report.findings:
        found[finding.code] = f"{found.get(finding.code, '')} {finding.message} {finding.hint}"
        assert finding.severity == CODES[finding.code][0]
    return found


def hf_dir(folder: Path, config: dict[str, Any] | None = None, **changed: torch.Tensor) -> Path:
    folder.mkdir()
    save_file(load_file(HF) | changed, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 4, "hidden_act": "gelu", **(config or {})}))
    return folder


def finetuned() -> dict[str, Any]:
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(FINETUNED / "checkpoint_best.pt")


def test_a_complete_checkpoint_is_ready():
    report = validate(FINETUNED)
    assert (report.verdict, report.layout) == ("ready", "deltalm/fairseq")
    assert codes(report).keys() == {"UNKNOWN_SIZE"}


# ---------------------------------------------------------------------------------------------------- vocabulary
@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """deltalm-base.pt's 250,104 rows, but narrow."""
    weights = torch.load(GOLDEN / "deltalm_pretrained_weights_tiny.pt", weights_only=True)["weights"]
    for side in ("src", "tgt"):
        weights[f"{side}_embedding.embed_tokens.weight"] = torch.zeros(250104, 32)
    path = tmp_path_factory.mktemp("pretrained") / "deltalm-narrow.pt"
    torch.save({"weights": weights}, path)
    return path


@pytest.mark.parametrize(
    ("symbols", "code", "said"),
    [
        (250001, "VOCAB_TRUNCATED", "unilm's loader cuts rows 250,001 to 250,103, 103 of them"),
        (250008, "VOCAB_TRUNCATED", "cuts rows 250,008 to 250,103, 96 of them"),
        (250111, "ROWS_AT_RANDOM", "rows 250,104 to 250,110 start at random, 7 of them"),
    ],
)
def test_a_pretrained_file_against_dictionaries(pretrained: Path, symbols: int, code: str, said: str, tmp_path: Path):
    (tmp_path / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(symbols - 4)))
    found = codes(validate(pretrained, dictionaries=(tmp_path / "dict.txt",)))
    assert said in found[code]
    assert "Neither args nor cfg exist" in found["BARE_WEIGHTS"]
    assert "ckptconv convert deltalm-narrow.pt DIR --to deltalm/fairseq" in found["BARE_WEIGHTS"]


@pytest.mark.parametrize(("lines", "code"), [(-3, "VOCAB_TOO_SMALL"), (3, "VOCAB_TOO_LARGE")])
def test_a_finetuned_file_needs_its_own_dictionary(lines: int, code: str, tmp_path: Path):
    listed = DICT.read_text().splitlines()
    listed = listed[:lines] if lines < 0 else [*listed, *(f"more{number} 1" for number in range(lines))]
    (tmp_path / "dict.txt").write_text("\n".join(listed) + "\n")
    report = validate(FINETUNED, dictionaries=(tmp_path / "dict.txt",))
    assert f"{163 + lines} symbols, 163 rows" in codes(report)[code]
    assert report.verdict == "not_ready"


def test_symbols_pieces_and_special_tokens(tmp_path: Path):
    listed = DICT.read_text().splitlines()
    last = [*listed[:-2], "[de_DE] 1", "<2en> 1"]
    (tmp_path / "dict.txt").write_text("\n".join(last) + "\n")
    found = codes(validate(FINETUNED, dictionaries=(tmp_path / "dict.txt",), spm=SPM))
    assert "2 marker tokens at the end, from id 161: [de_DE], <2en>" in found["TOKENS_APPENDED"]
    assert "2 of" in found["SPM_PIECES_UNKNOWN"]
    (tmp_path / "dict.txt").write_text("\n".join([*listed[:-1], "</s> 1 #fairseq:overwrite"]) + "\n")
    found = codes(validate(FINETUNED, dictionaries=(tmp_path / "dict.txt",)))
    assert "</s> at 162; expected <s> 0 <pad> 1 </s> 2 <unk> 3" in found["SPECIAL_TOKENS"]
    (tmp_path / "other.model").write_bytes(trained())
    found = codes(validate(FINETUNED, dictionaries=(DICT,), spm=tmp_path / "other.model"))
    assert "use the sentencepiece model that the dictionary was made with" in found["SPM_PIECES_UNKNOWN"]


def test_a_tokenizers_directory(tmp_path: Path):
    run(FINETUNED, tmp_path / "hf", "deltalm/hf")
    assert validate(tmp_path / "hf").verdict == "ready"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf", trust_remote_code=False)
    tokenizer.add_tokens(["neu"])
    tokenizer.save_pretrained(tmp_path / "longer")
    assert "164 symbols, 163 rows" in codes(validate(tmp_path / "hf", tokenizer=tmp_path / "longer"))["VOCAB_TOO_LARGE"]
    run(FINETUNED, tmp_path / "wide", "deltalm/hf", vocab=170)
    found = codes(validate(tmp_path / "wide"))
    assert "rows 163 to 169 have no token" in found["ROWS_WITHOUT_TOKEN"]
    with pytest.raises(VocabularyMismatch, match=r"is no directory; expected one with a tokenizer.json"):
        validate(tmp_path / "hf", tokenizer=tmp_path / "nowhere")


# --------------------------------------------------------------------------------------------- positions and classes
def test_positions_are_counted_without_the_two_that_come_first():
    assert validate(FINETUNED, max_positions=62).verdict == "ready"
    found = codes(validate(FINETUNED, max_positions=63))
    assert "62 positions (positions: 64 rows, 2 come first), 63 wanted" in found["POSITIONS_TOO_FEW"]


def test_a_head_of_seven_labels_where_the_task_has_nine(tmp_path: Path):
    tokens = GOLDEN / "hf_xlmr_tokcls_transformers-5.23.safetensors"
    assert "LABELS_DIFFER" not in codes(validate(tokens, num_labels=7))
    (tmp_path / "labels.txt").write_text("".join(f"B-{number}\n" for number in range(9)))
    found = codes(validate(tokens, labels_file=tmp_path / "labels.txt"))
    assert "the token classification head has 7 classes, the task 9" in found["LABELS_DIFFER"]
    assert "no classification head" in codes(validate(HF, num_labels=3))["HEAD_IS_NEW"]
    with pytest.raises(WrongUse, match="both say how many"):
        validate(HF, num_labels=3, labels_file=tmp_path / "labels.txt")


# ------------------------------------------------------------------------------------------------- config and ties
@pytest.mark.parametrize(
    ("config", "code", "said"),
    [
        ({"num_attention_heads": 5}, "CONFIG_CONTRADICTS", "num_attention_heads = 5; expected that the heads divide"),
        ({"hidden_size": 64}, "CONFIG_CONTRADICTS", "hidden_size = 64, but the tensors say d = 32"),
        ({"max_position_embeddings": 514}, "CONFIG_CONTRADICTS", "max_position_embeddings = 514, but the tensors say"),
        ({"layer_norm_eps": 1e-12}, "CONFIG_DEVIATES", "layer_norm_eps = 1e-12, expected 1e-05"),
        ({"model_type": "roberta"}, "CONFIG_DEVIATES", "model_type = 'roberta', expected xlm-roberta"),
        ({"num_attention_heads": None}, "CONFIG_ASSUMED", "num_attention_heads = 1"),
        (
            {"tie_word_embeddings": False},
            "TIED_IN_TENSORS_ONLY",
            "tie_word_embeddings = False, but the tensors have eq",
        ),
    ],
)
def test_a_config_against_the_tensors(config: dict[str, Any], code: str, said: str, tmp_path: Path):
    assert said in codes(validate(hf_dir(tmp_path / "hf", config)))[code]


def test_an_untied_projection_that_the_config_ties(tmp_path: Path):
    checkpoint = finetuned()
    checkpoint["model"]["decoder.output_projection.weight"] = torch.randn(163, 64)
    torch.save(checkpoint, tmp_path / "untied.pt")
    report = validate(tmp_path / "untied.pt")
    assert "share_all_embeddings = True, but the tensors say" in codes(report)["TIED_IN_CONFIG_ONLY"]
    assert report.verdict == "not_ready"


def test_dims_of_no_known_release_are_told_and_those_of_one_are_not():
    assert "no published size (base, large, XL, XXL) of xlmr" in codes(validate(HF))["UNKNOWN_SIZE"]


def test_a_prenorm_file_without_its_version(tmp_path: Path):
    state = torch.load(GOLDEN / "xlmr_xl_tiny.pt", weights_only=False)["sd"]
    torch.save({"model": {k: v for k, v in state.items() if "version" not in k}}, tmp_path / "m.pt")
    assert "silently leaves out a last norm" in codes(validate(tmp_path / "m.pt"))["CONSTANT_ABSENT"]


# ------------------------------------------------------------------------------------------------- keys and values
def test_keys_that_do_not_fit(tmp_path: Path):
    state = finetuned()["model"]
    for name, changed in {
        "KEYS_MISSING": {key: value for key, value in state.items() if "encoder.layers.1." not in key},
        "KEYS_LEFT_OVER": {**state, "adapter.weight": torch.ones(2, 2)},
        "SHAPE_MISMATCH": {**state, "encoder.layers.0.fc1.weight": torch.ones(3, 64)},
        "KEYS_RESPELLED": {f"lf.{key}": value for key, value in state.items()},
    }.items():
        torch.save({**finetuned(), "model": changed}, tmp_path / "m.pt")
        assert name in codes(validate(tmp_path / "m.pt"))
    torch.save({"layers.0.w": torch.ones(2)}, tmp_path / "m.pt")
    assert codes(validate(tmp_path / "m.pt")).keys() == {"UNKNOWN_LAYOUT"}
    torch.save({"bert.embeddings.word_embeddings.weight": torch.ones(2, 2)}, tmp_path / "m.pt")
    assert "BERT (bert-base-multilingual" in codes(validate(tmp_path / "m.pt"))["OTHER_MODEL"]


@pytest.mark.parametrize(
    ("value", "code", "said"),
    [(float("nan"), "NAN_VALUES", "1 value is NaN"), (float("-inf"), "INF_VALUES", "1 value is infinite")],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_one_bad_value_among_millions(value: float, code: str, said: str, dtype: torch.dtype, tmp_path: Path):
    big = torch.zeros(3000, 1111, dtype=dtype)
    big[2999, 1110] = value
    torch.save(
        {"a": torch.ones(3, dtype=dtype), "big.weight": big, "n": torch.ones(2, dtype=torch.int64)}, tmp_path / "m.pt"
    )
    report = validate(tmp_path / "m.pt")
    assert f"{said}: big.weight (1)" in codes(report)[code]
    assert report.verdict == "not_ready"


def test_what_fp16_cannot_hold(tmp_path: Path):
    torch.save(
        {"a": torch.tensor([1.0, -65520.0]), "b": torch.tensor([65504.0]), "c": torch.tensor([7e4]).bfloat16()},
        tmp_path / "m.pt",
    )
    said = codes(validate(tmp_path / "m.pt"))["FP16_OVERFLOW"]
    assert re.search(r"65504: a \(up to 6.55e\+04\), c \(up to 7.01e\+04\)", said)


def test_a_truncated_download_is_one_sentence(tmp_path: Path):
    data = (FINETUNED / "checkpoint_best.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 3])
    with pytest.raises(Damaged, match=r"cut.pt is damaged: .* probably cut off while it was copied"):
        validate(tmp_path / "cut.pt")


# --------------------------------------------------------------------------------------------------------- a target
def test_against_a_model_that_is_deeper(tmp_path: Path):
    config = {
        "num_hidden_layers": 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "vocab_size": 45,
        "layer_norm_eps": 1e-5,
    }
    config |= {
        "max_position_embeddings": 34,
        "type_vocab_size": 1,
        "num_attention_heads": 4,
        "model_type": "xlm-roberta",
    }
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["XLMRobertaForMaskedLM"]}))
    report = validate(HF, against=tmp_path / "config.json")
    assert re.search(r"4 layers.* 2", codes(report)["TARGET_DIFFERS"])
    assert report.verdict == "not_ready"
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"num_hidden_layers": 2, "architectures": ["XLMRobertaModel"]})
    )
    assert not [code for code in codes(validate(HF, against=tmp_path / "config.json")) if code.startswith("TARGET")]
    wide = json.dumps(config | {"num_hidden_layers": 2, "vocab_size": 50, "architectures": ["XLMRobertaForMaskedLM"]})
    (tmp_path / "config.json").write_text(wide)
    assert "word_embeddings" in codes(validate(HF, against=tmp_path / "config.json"))["TARGET_MISMATCHED"]


def test_against_a_layout_and_another_checkpoint(tmp_path: Path):
    found = codes(validate(GOLDEN / "fairseq-0.10.2_roberta_mlm.pt", against="xlmr/hf"))
    assert "ckptconv convert" in found["TARGET_DIFFERS"]
    state = load_file(HF)
    save_file(
        {key: value for key, value in state.items() if "layer.1.output" not in key}
        | {"roberta.encoder.layer.0.more.weight": torch.ones(1)},
        tmp_path / "other.safetensors",
    )
    found = codes(validate(HF, against=tmp_path / "other.safetensors"))
    assert "roberta.encoder.layer.1.output.dense.weight" in found["TARGET_UNEXPECTED"]
    assert "roberta.encoder.layer.0.more.weight" in found["TARGET_MISSING"]


def test_every_code_is_documented_and_every_documented_code_exists():
    rows = re.findall(
        r"^\| `([A-Z0-9_]+)` \| (\w+) \| (.+) \|$", (ROOT / "docs" / "validate.md").read_text(), re.MULTILINE
    )
    assert {code: (severity, meaning) for code, severity, meaning in rows} == dict(CODES)
